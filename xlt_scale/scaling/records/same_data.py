"""Whether an arm has seen the data of a target: gains there are not of transfer, and stay out of headline means."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from xlt_scale.tasks.spec import TaskSpec

Catalogue = Mapping[str, TaskSpec]
COUNTS = ("same training data", "same items", "same passages")
"""How a declared overlap begins that counts; 'format only' does not."""


def same_data(
    arm_tasks: Iterable[str], trained: Iterable[str], scored: Sequence[str], catalogue: Catalogue
) -> dict[str, str]:
    """By scored task the first reason why the arm shares data with it, or with what the target trains; tasks without
    any are left out. Parts of unions count like tasks of their own.
    """
    of_arm = _with_parts(arm_tasks, catalogue)
    of_target = _with_parts(trained, catalogue)
    found = {}
    for task in scored:
        others = dict.fromkeys([*_with_parts([task], catalogue), *of_target])
        reason = next(_reasons(of_arm, others, catalogue), "")
        if reason:
            found[task] = reason
    return found


def _reasons(of_arm: Iterable[str], others: Iterable[str], catalogue: Catalogue) -> Iterator[str]:
    """Why tasks of the arm share data with the others: the same task before declared overlaps."""
    of_arm, others = list(of_arm), list(others)
    for task in of_arm:
        if task in others:
            yield f"same training data: both train {task}" if catalogue[task].is_trainable else f"same items: {task}"
    for task in of_arm:
        for other in others:
            declared = catalogue[task].overlaps.get(other) or catalogue[other].overlaps.get(task, "")
            if declared.startswith(COUNTS):
                yield declared


def _with_parts(tasks: Iterable[str], catalogue: Catalogue) -> list[str]:
    return list(dict.fromkeys(name for task in tasks for name in (task, *catalogue[task].parts)))

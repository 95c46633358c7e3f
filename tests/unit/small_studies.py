"""Small studies with known gains, made by hand: scores are means over items, so items and scores agree."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from xlt_scale.scaling.results import (
    RUN_COLUMNS,
    ArmFacts,
    QuestionKind,
    SizeFacts,
    StudyFacts,
    StudyResults,
    TargetFacts,
    TaskFacts,
)

SIZES = (
    SizeFacts("small", "xlm-r", False, 100_000_000, 50_000_000),
    SizeFacts("middle", "xlm-r", False, 1_000_000_000, 700_000_000),
    SizeFacts("large", "xlm-r", True, 10_000_000_000, 9_000_000_000),
)
LANGUAGES = ("en", "de", "hi", "sw")
TARGETS = (
    TargetFacts("pairs", "sentence pairs", "mnli", ("xnli",), "classification", ("en",)),
    TargetFacts("spans", "questions", "squad_v1", ("xquad",), "qa", ("en",)),
)
TASKS = (
    TaskFacts("xnli", "classification", "accuracy", "own", True, "en"),
    TaskFacts("xquad", "qa", "f1", "own", True, "en"),
)
ARMS = (
    ArmFacts("none", "no intermediate task"),
    ArmFacts("inference", "inference", ("mnli",), ("en",), "classification"),
    ArmFacts("questions", "questions", ("squad_v2",), ("en",), "qa"),
)
PAIRS = tuple((intermediate, target) for intermediate in range(5) for target in range(2))
GainRule = Callable[[SizeFacts, ArmFacts, TargetFacts, str], float]
"""Planted gain in points at a size, of an arm, on a target, in a language."""


class MemoryItems:
    """Item values from a dictionary by record, task and language."""

    def __init__(self, values: Mapping[tuple[str, str, str], np.ndarray]) -> None:
        self._values = values

    def values(self, records: Sequence[str], task: str, language: str) -> np.ndarray:
        return np.stack([self._values[record, task, language] for record in records])


def make_results(
    gain: GainRule | float,
    *,
    kind: QuestionKind = "size",
    sizes: Sequence[SizeFacts] = SIZES,
    arms: Sequence[ArmFacts] = ARMS,
    targets: Sequence[TargetFacts] = TARGETS,
    tasks: Sequence[TaskFacts] = TASKS,
    languages: Sequence[str] = LANGUAGES,
    pairs: Sequence[tuple[int, int]] = PAIRS,
    base: Callable[[SizeFacts], float] = lambda size: 60.0,
    seed_noise: float = 0.3,
    num_items: int = 60,
    same_data: Mapping[tuple[str, str], str] | None = None,
    adjust: Callable[[pd.DataFrame], pd.DataFrame] = lambda runs: runs,
) -> StudyResults:
    """A full grid with the planted gains.

    Args:
        base: score without an arm.
        seed_noise: standard deviation in points of what an intermediate seed adds to an arm, a target seed to a run.
        same_data: reasons by arm and target.
        adjust: last change of the table of runs.
    """
    rng = np.random.default_rng(7)
    rule: GainRule = gain if callable(gain) else lambda *_: gain
    difficulty = {task.name: rng.normal(0.0, 20.0, num_items) for task in tasks}
    rows, items = [], {}
    for size in sizes:
        for target in targets:
            shared = {pair: rng.normal(0.0, seed_noise) for pair in pairs}
            for arm in arms:
                of_seed = {intermediate: rng.normal(0.0, seed_noise) for intermediate, _ in pairs}
                for pair in pairs:
                    record = f"{size.name}-{arm.name}-{target.name}-{pair[0]}-{pair[1]}"
                    for task in target.tasks:
                        for language in languages:
                            score = base(size) + shared[pair] + rng.normal(0.0, seed_noise)
                            if arm.tasks:
                                score += rule(size, arm, target, language) + of_seed[pair[0]]
                            values = difficulty[task] - difficulty[task].mean() + rng.normal(0.0, 5.0, num_items)
                            values += score - values.mean()
                            items[record, task, language] = values.astype(np.float32)
                            rows.append(_row(record, size, arm, target, task, language, pair, score, same_data or {}))
    runs = adjust(pd.DataFrame(rows, columns=list(RUN_COLUMNS)))
    facts = StudyFacts(
        name="study",
        question="Does the gain diminish with size?",
        kind=kind,
        baseline="none",
        sizes=tuple(sizes),
        arms=tuple(arms),
        targets=tuple(targets),
        tasks=tuple(tasks),
        reference_size=sizes[0].name if sizes else "",
        seeds={size.name: list(pairs) for size in sizes},
    )
    return StudyResults(
        facts=facts,
        runs=runs,
        items=MemoryItems(items),
        curves=pd.DataFrame(columns=["record", "size", "arm", "target", "phase", "step", "share", "loss", "dev"]),
        missing=pd.DataFrame(columns=["size", "arm", "target", "intermediate_seed", "target_seed", "why"]),
        record_paths={record: f"pool/{record}/record.json" for record in dict.fromkeys(runs["record"])},
        software=pd.DataFrame(columns=["name", "value", "records"]),
    )


def _row(
    record: str,
    size: SizeFacts,
    arm: ArmFacts,
    target: TargetFacts,
    task: str,
    language: str,
    pair: tuple[int, int],
    score: float,
    same_data: Mapping[tuple[str, str], str],
) -> tuple[object, ...]:
    is_trained = language in target.languages
    reason = same_data.get((arm.name, target.name), "")
    keys = (record, size.name, arm.name, target.name, task, language, *pair, "last")
    arm_hours = 2.0 if arm.tasks else 0.0
    return (*keys, score, 33.3, is_trained, reason, 1.1, 0.3, 0.5, arm_hours, 1000)


def log_decades(size: SizeFacts) -> float:
    """log10 of parameters over those of the smallest size."""
    return float(np.log10(size.num_parameters / SIZES[0].num_parameters))

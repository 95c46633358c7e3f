"""Runs that a study asks for but its grid cannot name yet."""

from collections.abc import Iterator

from xlt_scale.scaling.grid.design import Pair, StudyGrid


def waiting_runs(grid: StudyGrid) -> Iterator[tuple[str, str, str, Pair]]:
    """Size, arm, target and seeds of the runs that wait for the learning-rate search: those that the study asks for and
    that stand nowhere in the grid.
    """
    if not grid.waiting:
        return
    there = {(phase.size, phase.arm, phase.target) for phase in grid.phases.values() if phase.role == "target"}
    study = grid.study
    for size in study.sizes:
        for arm in study.arms:
            for target in study.targets:
                if (size.name, arm.name, target.name) not in there:
                    for pair in study.pairs(size, arm):
                        yield size.name, arm.name, target.name, pair

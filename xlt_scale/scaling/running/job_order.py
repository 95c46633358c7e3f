"""Which jobs what is left makes, and which of them is started first."""

from collections.abc import Mapping, Sequence

from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.jobs import Placement, StudyJob, pack


class JobOrder:
    """Jobs of a grid in the order of their start.

    Args:
        placements: by size.
        seconds: rough cost by phase.
    """

    def __init__(self, grid: StudyGrid, placements: Mapping[str, Placement], seconds: Mapping[str, float]) -> None:
        self._grid, self._placements, self._seconds = grid, placements, seconds
        self._packed: tuple[object, list[StudyJob]] = (None, [])

    def jobs(self, names: Sequence[str], alone: frozenset[str]) -> list[StudyJob]:
        """What others wait for, what lets an encoder go, then the largest size.

        Args:
            names: phases that are left.
            alone: phases that get a job of their own.
        """
        # Unchanged for most of the rounds; a grid may have tens of thousands of phases.
        key = (alone, tuple(names))
        if self._packed[0] != key:
            self._packed = (key, self._pack(names, alone))
        return self._packed[1]

    def _pack(self, names: Sequence[str], alone: frozenset[str]) -> list[StudyJob]:
        keep_last = max((run.checkpoints.keep_last for run in self._grid.runs.values()), default=2)
        hours = self._grid.study.resources.hours_per_job
        groups = [[name for name in names if name not in alone], *([name] for name in names if name in alone)]
        jobs = [
            job
            for group in groups
            for job in pack(self._grid, group, self._placements, self._seconds, hours, keep_last)
        ]
        return sorted(jobs, key=self._turn)

    def _turn(self, job: StudyJob) -> tuple[int, int]:
        size = -list(self._grid.runs).index(job.size)
        role = self._grid.phases[job.phases[0]].role
        if role == "pretraining":
            return 0, size
        needed = {self._grid.phases[name].role for name in job.needs}
        if "intermediate" in needed and role != "intermediate":
            return 1, size
        return (2 if role == "intermediate" else 3), size

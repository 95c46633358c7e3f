"""What has failed in this start of a study, what is tried again, and what has to stay undone."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xlt_scale.errors import USER_ERROR_EXIT_CODE
from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.running.executors.interface import Ended

_MOST_LOSSES = 20


@dataclass(frozen=True)
class FailedPhase:
    """A phase that was given up, why, and where to read more."""

    name: str
    reason: str
    log: Path | None


class Attempts:
    """Decides after a failed job what is tried again.

    The phase that it failed in is tried again by itself, so that the rest of the job goes on and the reason belongs to
    one phase. A mistake of the user is not tried again; but in a job of several phases it may be the mistake of any of
    them, and so each of them is started by itself.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._counts: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._alone: set[str] = set()
        self._failed: dict[str, FailedPhase] = {}

    @property
    def alone(self) -> frozenset[str]:
        """Phases that get a job of their own."""
        return frozenset(self._alone)

    @property
    def failed(self) -> Sequence[FailedPhase]:
        return list(self._failed.values())

    def give_up(self, names: Iterable[str], reason: str, log: Path | None = None) -> None:
        for name in names:
            self._failed.setdefault(name, FailedPhase(name, reason, log))

    def note(self, ended: Ended, undone: Sequence[str]) -> str:
        """Take in a job that failed; what will be done about it, in words.

        Args:
            undone: phases of the job that are not done, in its order; at least one.
        """
        first, reason = undone[0], why(ended)
        is_users = ended.code == USER_ERROR_EXIT_CODE
        if is_users and len(ended.job.phases) > 1:
            self._alone.update(undone)
            return "each of its phases is started by itself"
        self._alone.add(first)
        self._counts[first] += 1
        if is_users or self._counts[first] > self._retries:
            self.give_up([first], reason, ended.log)
            return "not tried again"
        return f"attempt {self._counts[first] + 1} of {self._retries + 1} follows"

    def note_loss(self, ended: Ended, undone: Sequence[str]) -> bool:
        """Take in a job that was stopped or has lost a process, node or link; whether its first undone phase is given
        up for that.

        These are no failures of a phase, and cost it no attempt. One that never gets through is given up all the same,
        so that no allocation is spent on it for ever.
        """
        first = undone[0]
        self._losses[first] += 1
        if self._losses[first] < _MOST_LOSSES:
            return False
        self.give_up([first], f"stopped or lost {_MOST_LOSSES} times without being done: {why(ended)}", ended.log)
        return True

    def blocked(self, grid: StudyGrid, left: Iterable[str]) -> list[str]:
        """Phases that are left and come from one that was given up."""
        return [
            name
            for name in left
            if name not in self._failed and any(phase.name in self._failed for phase in grid.ancestors(name))
        ]


def why(ended: Ended) -> str:
    """How a job ended badly, in one line."""
    if ended.code is not None and (ended.code < 0 or ended.code > 128):
        number = -ended.code if ended.code < 0 else ended.code - 128
        return f"killed by signal {number}; its last line: {ended.reason}"
    if ended.code == 0:
        return f"ended without the scores it should have; its last line: {ended.reason}"
    return ended.reason

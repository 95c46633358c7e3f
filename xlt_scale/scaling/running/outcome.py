"""How a start of a study ended, in numbers and in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from xlt_scale.errors import FAILURE_EXIT_CODE, INTERRUPTED_EXIT_CODE, STOPPED_EXIT_CODE
from xlt_scale.scaling.running.attempts import FailedPhase

BY_A_PERSON = ("Ctrl-C", "study cancel")


@dataclass(frozen=True)
class Outcome:
    """How a start of a study ended.

    Attributes:
        num_phases, num_done: of the grid; done are those with a record.
        failed: phases given up.
        blocked: phases that come from those.
        stopped_by: who asked for the end ('SIGTERM', say); '' when nobody did.
        stuck: why nothing more can be started, when that is the reason of the end.
        waiting: target phases that a learning-rate search has not named.
    """

    num_phases: int
    num_done: int
    failed: tuple[FailedPhase, ...]
    blocked: tuple[str, ...]
    stopped_by: str = ""
    stuck: str = ""
    waiting: int = 0

    @property
    def is_complete(self) -> bool:
        return self.num_done == self.num_phases and not self.waiting

    @property
    def exit_code(self) -> int:
        """Of the program. A batch script hands the program over again when it was stopped by a signal or by the end of
        its allocation, and not when a person wanted it to end.
        """
        if self.is_complete:
            return 0
        if self.stopped_by:
            return INTERRUPTED_EXIT_CODE if self.stopped_by in BY_A_PERSON else STOPPED_EXIT_CODE
        return FAILURE_EXIT_CODE


def summary(outcome: Outcome) -> list[str]:
    """What a start of a study says last."""
    lines = [f"done: {outcome.num_done} of {outcome.num_phases} phases"]
    for one in outcome.failed:
        lines.append(f"failed: {one.name}: {one.reason}" + (f" (log: {one.log})" if one.log else ""))
    if outcome.blocked:
        lines.append(f"not run, because they come from these: {some(outcome.blocked)}")
    if outcome.stopped_by:
        lines.append(f"stopped by {outcome.stopped_by}: the same command goes on from the last checkpoints")
    elif outcome.failed:
        lines.append("mend what is named above; the same command runs only what is missing")
    elif outcome.stuck:
        lines.append(f"nothing more can be started: {outcome.stuck}; then the same command goes on")
    elif outcome.waiting:
        lines.append(f"{outcome.waiting} target phases have no learning rate: trials of the search are missing")
    return lines


def count(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def some(names: Sequence[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"

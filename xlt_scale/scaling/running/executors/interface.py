"""What the runner asks of a place where jobs are carried out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.running.claims import Claims


@dataclass(frozen=True)
class Ended:
    """A job that is over.

    Attributes:
        code: its exit code, negative for a signal; None when it was not carried out (a cancelled dependant, say).
        seconds: from its start.
        reason: what it said last.
    """

    job: StudyJob
    code: int | None
    seconds: float
    reason: str
    log: Path


class Executor(Protocol):
    """Carries jobs out, several at a time.

    Attributes:
        queues: jobs may be handed over before what they need is there: they wait by themselves.
    """

    queues: bool

    def describe(self) -> str:
        """In words, as in '2 processor cores'."""

    def why_never(self, job: StudyJob) -> str:
        """Why the job cannot run here however long it waits; '' when it can."""

    def has_room(self, job: StudyJob) -> bool:
        """Whether the job can start now."""

    def start(self, job: StudyJob, folder: Path, claims: Claims) -> None:
        """Take a job over whose folder is written; the claims are the executor's from here on."""

    def submit(self) -> None:
        """Everything that can start now has been handed over."""

    def underway(self) -> Mapping[str, StudyJob]:
        """Jobs taken over and not ended, by name; of a queue also those of an earlier start."""

    def poll(self) -> list[Ended]:
        """Jobs that have ended since the last call; quick."""

    def ask_to_stop(self) -> int:
        """Ask the jobs that end with this program to save and end; how many there are."""

    def stop(self, seconds: float = 10.0) -> str:
        """End what ends with this program, within so many seconds; what there is to say about the rest."""

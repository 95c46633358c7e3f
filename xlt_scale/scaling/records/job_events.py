"""What the study's runners have written down about their jobs (events.jsonl), as far as people are told of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.running.events import read_events


@dataclass(frozen=True)
class FailedJob:
    """A job that failed and left phases undone.

    Attributes:
        attempts: how often it has failed.
        phases: what it was to do.
        log: its log file.
    """

    job: str
    reason: str
    attempts: int
    phases: tuple[str, ...] = ()
    log: str = ""
    time: str = ""


@dataclass
class JobHistory:
    """The jobs of a study.

    Attributes:
        last_job: by phase the job that took it up last.
        phases: by job what it was to do.
        failed: by job its last failure; gone when it is started again, or has ended well.
        seconds: by job that ended well what it took.
    """

    last_job: dict[str, str] = field(default_factory=dict)
    phases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failed: dict[str, FailedJob] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def read(folder: StudyFolder) -> "JobHistory":
        history = JobHistory()
        for event in read_events(folder.events_file):
            if isinstance(event, dict) and "job" in event:
                history.note(event)
        return history

    def note(self, event: Mapping[str, Any]) -> None:
        job, kind = event["job"], event.get("event")
        if kind == "job started":
            self.phases[job] = tuple(event.get("phases", ()))
            self.last_job |= dict.fromkeys(self.phases[job], job)
            self.failed.pop(job, None)
        elif kind == "job ended":
            self.failed.pop(job, None)
            self.seconds[job] = float(event.get("seconds") or 0.0)
        elif kind == "job failed":
            self._attempts[job] = self._attempts.get(job, 0) + 1
            reason = str(event.get("reason") or "no reason given")
            where = (str(event.get("log", "")), str(event.get("time", "")))
            self.failed[job] = FailedJob(job, reason, self._attempts[job], self.phases.get(job, ()), *where)

    def failures(self, done: set[str]) -> list[FailedJob]:
        """Failed jobs that leave something undone which no later job has taken up.

        Args:
            done: phases with a record.
        """
        return [
            job
            for job in self.failed.values()
            if any(phase not in done and self.last_job.get(phase) == job.job for phase in job.phases)
        ]

    def reasons(self, done: set[str]) -> dict[str, str]:
        """By phase that is undone why the job failed that was to do it."""
        return {phase: job.reason for job in self.failures(done) for phase in job.phases if phase not in done}

    def overhead(self, seconds: Mapping[str, float]) -> float:
        """Seconds of jobs over those of training in them: starts, scoring and saving included; at least 1.

        Args:
            seconds: of training, by recorded phase.
        """
        known = {job: self.phases.get(job, ()) for job in self.seconds}
        whole = {job: phases for job, phases in known.items() if phases and all(one in seconds for one in phases)}
        training = sum(seconds[phase] for phases in whole.values() for phase in phases)
        return max(1.0, sum(self.seconds[job] for job in whole) / training) if training else 1.0

"""What is written down about batch jobs: before they are handed over, when their number is known, and when they end.

A kill between any two of these leaves a note that says how to find out the rest (slurm.py).
"""

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.records.atomic import write_atomically
from xlt_scale.scaling.running.batch_task import CANCELLED_FILE

NOTE_FILE = "submission.json"
ENDED_FILE = "ended.json"
SCRIPT_FILE = "job.sbatch"


@dataclass(frozen=True)
class Submission:
    """What sbatch gets in one go: an array of batch jobs, each with one job of the study or several side by side.

    Attributes:
        folder: its own, below the study's folder batch/.
        name: of the batch jobs; no other submission of anybody has it.
        tasks: the jobs of each batch job, by its index in the array.
        most: batch jobs of the array that may run at a time; 0 = all.
        number: SLURM's; '' as long as it is not known.
        user: who has handed it over.
        written: when the note was, in seconds since 1970.
        ended: by job of the study, how its batch job ended.
    """

    folder: Path
    name: str
    tasks: tuple[tuple[StudyJob, ...], ...]
    most: int = 0
    number: str = ""
    user: int = 0
    written: float = 0.0
    ended: dict[str, str] = field(default_factory=dict)

    @property
    def jobs(self) -> tuple[StudyJob, ...]:
        return tuple(job for task in self.tasks for job in task)

    @property
    def open_jobs(self) -> tuple[StudyJob, ...]:
        return tuple(job for job in self.jobs if job.name not in self.ended)

    @property
    def open_tasks(self) -> tuple[int, ...]:
        """Indices of batch jobs that have not been seen ending."""
        return tuple(n for n, task in enumerate(self.tasks) if any(job.name not in self.ended for job in task))

    def id_of(self, job: str) -> str:
        """The batch job that carries out a job of the study."""
        index = next(number for number, task in enumerate(self.tasks) if any(one.name == job for one in task))
        return f"{self.number}_{index}"

    @property
    def is_cancelled(self) -> bool:
        return (self.folder / CANCELLED_FILE).exists()

    def started_number(self) -> str:
        """The number by what the batch jobs themselves have written at their start; ''."""
        for path in sorted(self.folder.glob("started-*.json")):
            number = str(read_facts(path).get("number", ""))
            if number:
                return number
        return ""

    def write(self) -> None:
        """Put the note on the disk; that of a submission which is over under another name."""
        table = asdict(self) | {"folder": str(self.folder)}
        for task in table["tasks"]:
            for job in task:
                job["needs"] = sorted(job["needs"])
        write_atomically(self.folder / NOTE_FILE, (json.dumps(table, indent=1) + "\n").encode())
        if not self.open_jobs:
            (self.folder / NOTE_FILE).replace(self.folder / ENDED_FILE)

    def with_number(self, number: str) -> "Submission":
        return replace(self, number=number)

    def with_most(self, most: int) -> "Submission":
        return replace(self, most=most)

    def with_ended(self, jobs: Sequence[str], state: str) -> "Submission":
        return replace(self, ended=self.ended | dict.fromkeys(jobs, state))


def new_submission(folder: StudyFolder, tasks: Sequence[Sequence[StudyJob]], most: int = 0) -> Submission:
    """A submission of its own name; nothing is written yet."""
    name = f"{name_prefix(folder)}{secrets.token_hex(4)}"
    place = (batch_folder(folder) / name).absolute()
    together = tuple(tuple(task) for task in tasks)
    return Submission(place, name, together, most, user=os.getuid(), written=time.time())


def name_prefix(folder: StudyFolder) -> str:
    """What the names of all batch jobs of the study in this folder begin with."""
    root = folder.root.resolve()
    place = hashlib.blake2b(str(root).encode(), digest_size=4).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', root.name)}-{place}-"


def open_submissions(folder: StudyFolder) -> Iterator[Submission]:
    """Those that have not been seen ending, the oldest first."""
    found = []
    for path in batch_folder(folder).glob(f"*/{NOTE_FILE}"):
        facts = read_facts(path)
        if facts:
            tasks = tuple(tuple(_read_job(job) for job in task) for task in facts["tasks"])
            # The study's folder may have been moved.
            found.append(Submission(**facts | {"tasks": tasks, "folder": path.parent.absolute()}))
    yield from sorted(found, key=lambda one: (one.written, one.name))


def batch_folder(folder: StudyFolder) -> Path:
    return folder.root / "batch"


def _read_job(facts: dict[str, object]) -> StudyJob:
    return StudyJob(**facts | {"phases": tuple(facts["phases"]), "needs": frozenset(facts["needs"])})  # type: ignore

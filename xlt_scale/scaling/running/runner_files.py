"""Who runs a study: each runner has a file with a lock on it, and ends when a stop file appears beside.

The lock tells whether the runner lives, on any machine that sees the folder; no signal would travel so far.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from xlt_scale.errors import STOPPED_EXIT_CODE
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.records.atomic import write_atomically

_LOOK_SECONDS = 1.0


class RunnerFile:
    """This runner's file, from its start to its end.

    It stays when the runner was stopped inside a batch job: that job is in the queue again, and `study cancel` has to
    find it there.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._place = _place(folder)
        self._path = self._place / f"{socket.gethostname()}-{os.getpid()}.json"
        self._stop_file = self._path.with_suffix(".stop")
        self._looked, self._asked, self._stays = float("-inf"), False, False

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether somebody has asked this runner to end; cheap."""
        now = time.monotonic()
        if not self._asked and now - self._looked >= _LOOK_SECONDS:
            self._looked, self._asked = now, self._stop_file.exists()
        return self._asked

    def ends_with(self, code: int) -> None:
        """How this program will end."""
        self._stays = code == STOPPED_EXIT_CODE and bool(_batch_job())

    def __enter__(self) -> "RunnerFile":
        self._place.mkdir(parents=True, exist_ok=True)
        facts = {"host": socket.gethostname(), "process": os.getpid(), "batch_job": _batch_job()}
        facts |= {"since": datetime.now(UTC).isoformat(timespec="seconds")}
        # The same process number of an earlier runner.
        self._stop_file.unlink(missing_ok=True)
        self._file = open(self._path, "w", encoding="utf-8")
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        json.dump(facts, self._file)
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            if not self._stays:
                self._path.unlink(missing_ok=True)
            self._stop_file.unlink(missing_ok=True)
        self._file.close()


@dataclass(frozen=True)
class RunnerSeen:
    """A runner of the study, as others see it.

    Attributes:
        batch_job: the batch job (of an array: the array) that it runs in; ''.
        is_alive: it runs now; otherwise it has been killed, or waits in the queue for its turn.
    """

    path: Path
    host: str
    process: int
    since: str
    batch_job: str
    is_alive: bool

    def describe(self) -> str:
        of_job = f", batch job {self.batch_job}" if self.batch_job else ""
        return f"process {self.process} on {self.host}{of_job}, since {self.since}"

    def ask_to_stop(self) -> None:
        write_atomically(self.path.with_suffix(".stop"), b"")

    def forget(self) -> None:
        """Remove the file of a runner that is no more."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".stop").unlink(missing_ok=True)


def runners(folder: StudyFolder) -> Iterator[RunnerSeen]:
    """All that have a file."""
    for path in sorted(_place(folder).glob("*.json")):
        with contextlib.suppress(FileNotFoundError):
            is_alive = is_locked(path)
            facts = read_facts(path)
            if {"host", "process"} <= facts.keys():
                since, job = str(facts.get("since", "?")), str(facts.get("batch_job", ""))
                yield RunnerSeen(path, str(facts["host"]), int(facts["process"]), since, job, is_alive)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on a file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with open(path, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            # No locks on this file system: a runner removes its file when it ends.
            return True
    return False


def _place(folder: StudyFolder) -> Path:
    return folder.root / "runners"


def _batch_job() -> str:
    return os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")

"""One program at a time hands over the batch jobs of a study, on whichever login node it runs."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts

_SECONDS_FOR_OTHERS = 5.0
_SECONDS_FOR_ORPHANS = 150.0
_BEAT_SECONDS = 10.0
_MOST_SKEW = 600.0


class ControlLock:
    """The lock, held by this process and by the sbatch that it has started.

    sbatch inherits it: when this process is killed while sbatch waits for an answer, the next one waits with it, and
    finds in the queue what has come of that. Beside the lock a heartbeat tells of a process on another node where the
    file system keeps locks to each node.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor, self._path = descriptor, path
        self._beaten = time.monotonic()

    def beat(self) -> None:
        """Be seen to live; cheap."""
        if time.monotonic() - self._beaten > _BEAT_SECONDS:
            self._beaten = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self.descriptor, 0)
            os.close(self.descriptor)


def take_control(folder: StudyFolder, say: Callable[[str], None]) -> ControlLock:
    """Become the one who hands over batch jobs of this study.

    Raises:
        UserError: another program is.
    """
    path = control_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _wait_for_lock(descriptor, path, say)
        _listen_for_another(path, say)
        facts = {"host": socket.gethostname(), "process": os.getpid()}
        facts |= {"since": datetime.now(UTC).isoformat(timespec="seconds")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(facts).encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return ControlLock(descriptor, path)


@contextlib.contextmanager
def in_control(folder: StudyFolder, say: Callable[[str], None]) -> Iterator[None]:
    """Nobody hands over batch jobs of this study meanwhile.

    Raises:
        UserError: another program does.
    """
    lock = take_control(folder, say)
    try:
        yield
    finally:
        lock.release()


def control_file(folder: StudyFolder) -> Path:
    return folder.root / "runners" / "slurm.control"


def _wait_for_lock(descriptor: int, path: Path, say: Callable[[str], None]) -> None:
    began, has_told = time.monotonic(), False
    while not _lock(descriptor):
        waited = time.monotonic() - began
        is_orphan = _holder_has_died(path)
        if waited > (_SECONDS_FOR_ORPHANS if is_orphan else _SECONDS_FOR_OTHERS):
            raise UserError(
                f"{path}: {_holder(path)} hands over this study's batch jobs; let it, or end it with "
                "`xlt-scale study cancel`"
            )
        if is_orphan and not has_told:
            has_told = True
            say(f"waiting for the sbatch that {_holder(path)} has left behind")
        time.sleep(0.2)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # No locks on this file system: the heartbeat has to do.
        return True
    return True


def _listen_for_another(path: Path, say: Callable[[str], None]) -> None:
    """Make sure that the last holder has died whose lock, on another node, might not be seen here."""
    facts = read_facts(path)
    if not facts or facts.get("host") == socket.gethostname():
        return
    beat = path.stat().st_mtime
    # Clocks may differ a little; a heartbeat of long ago is none.
    if abs(time.time() - beat) > _MOST_SKEW:
        return
    say(f"listening for {2.5 * _BEAT_SECONDS:.0f} s whether {_holder(path)} still lives")
    deadline = time.monotonic() + 2.5 * _BEAT_SECONDS
    while time.monotonic() < deadline:
        if path.stat().st_mtime != beat:
            raise UserError(f"{path}: {_holder(path)} hands over this study's batch jobs; end it there first")
        time.sleep(_BEAT_SECONDS / 10)


def _holder(path: Path) -> str:
    facts = read_facts(path)
    return f"process {facts.get('process', '?')} on {facts.get('host', 'an unknown host')}"


def _holder_has_died(path: Path) -> bool:
    facts = read_facts(path)
    if facts.get("host") != socket.gethostname() or not isinstance(facts.get("process"), int):
        return False
    try:
        os.kill(facts["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False

"""One job at a time writes into a run's folder."""

import contextlib
import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from xlt_scale.errors import UserError

LOCK = ".lock"


class RunLock:
    """Holds a run's folder until it is released or its process ends, however it ends. Taken by rank 0 alone.

    The kernel frees the lock, so none is left behind. On file systems whose locks do not reach other nodes it keeps out
    the jobs of this node only.

    Raises:
        UserError: another job has it.
    """

    def __init__(self, folder: Path) -> None:
        self._file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(self._file.name)
            self._file.close()
            raise UserError(
                f"output = {str(folder)!r} is being written by another job ({owner}); "
                "wait for its end, stop it, or choose another folder"
            ) from None
        except OSError:
            # A file system without locks: nothing can be promised, and nothing is lost.
            return
        facts = {"host": socket.gethostname(), "process": os.getpid()}
        facts |= {"since": datetime.now(UTC).isoformat(timespec="seconds")}
        # A full disk costs the name, not the lock.
        with contextlib.suppress(OSError):
            self._file.truncate(0)
            self._file.write(json.dumps(facts))
            self._file.flush()

    def release(self) -> None:
        """Let another job have the folder."""
        with contextlib.suppress(OSError):
            self._file.close()


def _owner(path: str) -> str:
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
        return f"process {facts['process']} on {facts['host']} since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which does not tell its name"

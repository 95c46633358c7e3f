"""GPUs of this machine that other runners' jobs are using, or the orphans of a runner that was killed."""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path


class DeviceLocks:
    """Locks that a job's processes inherit, as they do its claims (claims.py): on whole devices, or on shares of one.

    Args:
        folder: on this machine and not on a shared disk; default: below the folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / "xlt_scale_devices"

    def take(self, device: str, per_device: int) -> list[int] | None:
        """Descriptors that hold a device, or one of so many shares of it; None when there is none to be had.

        A machine without a place for locks has none: then nothing is known of others.
        """
        held: list[int] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                self._folder.chmod(0o1777)  # for all users of the machine
            whole = self._lock(device, fcntl.LOCK_EX if per_device == 1 else fcntl.LOCK_SH)
            if whole is None or per_device == 1:
                return None if whole is None else [whole]
            held.append(whole)
            for number in range(per_device):
                share = self._lock(f"{device}.{number}", fcntl.LOCK_EX)
                if share is not None:
                    return [*held, share]
        except OSError:
            return held
        release(held)
        return None

    def _lock(self, name: str, kind: int) -> int | None:
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def release(descriptors: list[int]) -> None:
    """Let go of them in this process."""
    while descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptors.pop())

"""Things of the cache that many processes want at once: the first builds, the others wait and take what it built."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xlt_scale.errors import UserError


@contextmanager
def build_lock(path: Path) -> Iterator[None]:
    """Hold the right to build `path`, across the processes of a node; the kernel takes it back from one that dies.

    Raises:
        UserError: the folder of `path` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f"{path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path.parent}: {reason}; set data.cache to a folder that can be written") from None


def build_folder_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made by `make(temporary folder)` when it is not there yet; it appears whole or not at all."""
    if not folder.exists():
        with build_lock(folder):
            if not folder.exists():
                temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
                make(temporary)
                os.replace(temporary, folder)
    return folder

"""Where a rank's optimiser states lie on NVMe: a folder of its own on the node's scratch disk, gone when it ends."""

import contextlib
import fcntl
import os
import platform
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from xlt_scale.engines.world import World
from xlt_scale.errors import UserError

VARIABLES = ("XLT_SCALE_NVME", "SLURM_TMPDIR", "TMPDIR")
"""Where "auto" looks for the disk, the first that is set."""

BYTES_PER_PARAMETER = 16
"""fp32 master weights, two moments and, while a step goes on, the gradient."""

_PREFIX = "xlt-scale-swap-"
_LOCK = "lock"


class SwapFolder:
    """A new folder of this rank on the disk that a DeepSpeed file names. Built on every rank; a collective.

    It is removed by `remove`, or when the process ends in an orderly way. What killed processes have left there is
    removed before: a folder is locked while its process lives.

    Args:
        asked: the file's nvme_path: a folder, in which environment variables are filled in, or "auto".
        file: the DeepSpeed file, for messages.
        num_parameters: elements whose states this rank will keep there.

    Raises:
        UserError: there is no such disk, or too little space on one; all ranks raise.
    """

    def __init__(self, asked: str, file: Path, num_parameters: int, world: World) -> None:
        problem, disk, path = "", "", Path()
        try:
            path = scratch_disk(asked, file, os.environ)
            path.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path)
            disk = f"{platform.node()} {path.stat().st_dev}"
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{file}: nvme_path {path}: {error.strerror or error}; name a folder that can be written"
        needed = num_parameters * BYTES_PER_PARAMETER
        _raise_first(world, problem)
        # Ranks of a node share its disk.
        demands: list[Any] = world.gather((disk, needed))
        together: Counter[str] = Counter()
        for place, size in demands:
            together[place] += size
        free = shutil.disk_usage(path).free
        if free < together[disk]:
            problem = (
                f"{file}: nvme_path {path} on {platform.node()} has {free / 1e9:.1f} GB free, and the optimiser states "
                f"of its processes take {together[disk] / 1e9:.1f} GB; free space, or use more nodes"
            )
        else:
            problem = self._make(path, file)
        _raise_first(world, problem)

    def _make(self, disk: Path, file: Path) -> str:
        """Make and lock the folder; what is wrong, or ''."""
        try:
            self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=disk, ignore_cleanup_errors=True)
            self.path = Path(self._folder.name)
            self._lock = _new_lock(self.path)
        except OSError as error:
            return f"{file}: nvme_path {disk}: {error.strerror or error}; name a folder that can be written"
        return ""

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        self._folder.cleanup()
        self._lock.close()


def scratch_disk(asked: str, file: Path, environment: Mapping[str, str]) -> Path:
    """The folder that nvme_path means on this node.

    Raises:
        UserError: it is "auto" and nothing says where the disk is, or a variable in it is not set.
    """
    if asked == "auto":
        for name in VARIABLES:
            if environment.get(name):
                return Path(environment[name])
        raise UserError(
            f'{file}: nvme_path = "auto", but none of {", ".join(VARIABLES)} is set; '
            "export XLT_SCALE_NVME=/path/of/the/node's/nvme"
        )
    missing = [name for name in re.findall(r"\$\{?(\w+)\}?", asked) if not environment.get(name)]
    if missing:
        raise UserError(f"{file}: nvme_path = {asked!r}, but {missing[0]} is not set; export it, or write the folder")
    return Path(re.sub(r"\$\{?(\w+)\}?", lambda found: environment[found[1]], asked)).expanduser()


def _new_lock(folder: Path) -> TextIO:
    """A lock that lasts as long as the process. The file appears locked: nobody sees one that is about to be."""
    unnamed = folder / f".{_LOCK}"
    lock = open(unnamed, "w", encoding="utf-8")  # noqa: SIM115
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(folder / _LOCK)
    return lock


def _remove_leftovers(disk: Path) -> None:
    for folder in disk.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), open(folder / _LOCK, encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _raise_first(world: World, problem: str) -> None:
    """Raise on every rank what one has found. A collective."""
    problems = [str(text) for text in world.gather(problem) if text]
    if problems:
        raise UserError(problems[0])

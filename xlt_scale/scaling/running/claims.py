"""Nobody works twice on a phase: who works on it holds a lock on its claim file, and the kernel frees the lock."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from xlt_scale.scaling.grid.folder import StudyFolder, read_facts

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_warned: set[str] = set()


class Claims:
    """Locks on the phases of one job, all of them or none.

    A lock belongs to the open file, and so to every process that inherits the descriptor (`pass_fds`): it is held as
    long as any of them lives, and freed however the last one dies. A program that is killed leaves no claim behind, and
    its orphaned jobs keep theirs.
    """

    def __init__(self, descriptors: Iterable[int]) -> None:
        self._descriptors = list(descriptors)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a process that does the work has to inherit."""
        return tuple(self._descriptors)

    def release(self) -> None:
        """Let go of them in this process; who has inherited them holds them still."""
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.pop())


def take(folder: StudyFolder, phases: Iterable[str], owner: Mapping[str, object] | None = None) -> Claims | None:
    """Claim phases; None when one of them is claimed already.

    Args:
        owner: what others are told of the holder, beside its process and host.
    """
    facts = {"host": socket.gethostname(), "process": os.getpid()}
    facts |= {"since": datetime.now(UTC).isoformat(timespec="seconds"), **(owner or {})}
    descriptors: list[int] = []
    # In one order for all, so that two that want the same phases do not take half of them each.
    for phase in sorted(set(phases)):
        path = folder.claim_file(phase)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptors.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
        if not _lock(descriptors[-1], fcntl.LOCK_EX, path):
            Claims(descriptors).release()
            return None
    for descriptor in descriptors:
        _write(descriptor, json.dumps(facts))
    return Claims(descriptors)


def is_claimed(folder: StudyFolder, phase: str) -> bool:
    """Whether somebody works on the phase right now."""
    path = folder.claim_file(phase)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared: two that ask do not take each other for a worker.
        return not _lock(descriptor, fcntl.LOCK_SH, path)
    finally:
        os.close(descriptor)


def holder(folder: StudyFolder, phase: str) -> str:
    """Who holds the phase's claim, or held it last, in words."""
    facts = read_facts(folder.claim_file(phase))
    if not {"process", "host", "since"} <= facts.keys():
        return "somebody who does not tell the name"
    of_study = f", study {facts['study']}" if facts.get("study") else ""
    return f"process {facts['process']} on {facts['host']} since {facts['since']}{of_study}"


def by_holder(folder: StudyFolder, phases: Iterable[str]) -> dict[str, list[str]]:
    """Claimed phases by who holds them."""
    found: dict[str, list[str]] = {}
    for phase in phases:
        found.setdefault(holder(folder, phase), []).append(phase)
    return found


def _lock(descriptor: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        place = str(path.parent)
        if place not in _warned:
            _warned.add(place)
            warnings.warn(f"{place}: no locks on this file system; start one runner at a time on this pool")
    return True


def _write(descriptor: int, text: str) -> None:
    # A full disk costs the name, not the claim.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)

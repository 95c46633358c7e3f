"""The run's folder: can each node write there, do all nodes see the same, do locks and renames work, is there space."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xlt_scale.doctor.deadline import Deadline, TookTooLong, within
from xlt_scale.doctor.findings import Finding
from xlt_scale.doctor.meeting import Meeting

_PREFIX = ".xlt-scale-doctor-"
_TRIAL_BYTES = 1 << 20
_SECONDS_TO_APPEAR = 10.0
_LITTLE = 2**30
GIB = 2**30


def nearest_existing(folder: Path) -> Path:
    """The folder, or the one above it that exists: where a run would create it."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def check_folder(folder: Path, bytes_needed: int | None) -> list[Finding]:
    """Whether this node can write, rename and sync there, and the free space; called by one process of each node.

    Args:
        bytes_needed: of a run; None where nobody knows.
    """
    try:
        place = nearest_existing(folder)
        free = shutil.disk_usage(place).free
    except OSError as error:
        return [Finding("folder", "fail", f"{folder}: {error.strerror}", "choose another output folder")]
    return [_try_writing(place), _compare_space(place, free, bytes_needed)]


def _try_writing(place: Path) -> Finding:
    try:
        with _trial_folder(place) as trial:
            file, other = trial / "file", trial / "other"
            for path in (file, other):
                with open(path, "wb") as stream:
                    stream.write(os.urandom(_TRIAL_BYTES))
                    stream.flush()
                    os.fsync(stream.fileno())
            content = file.read_bytes()
            try:
                os.replace(file, other)
                (trial / "folder").mkdir()
                (trial / "folder" / "inside").touch()
                os.rename(trial / "folder", trial / "renamed")
            except OSError as error:
                found = f"{place}: files and folders cannot be renamed ({error.strerror}); checkpoints rely on it"
                return Finding("folder", "fail", found, "choose an output folder on another file system")
            if other.read_bytes() != content or not (trial / "renamed" / "inside").exists():
                found = f"{place}: after a rename the old content is still read"
                return Finding("folder", "fail", found, "choose an output folder on another file system")
    except OSError as error:
        return _explain(place, error)
    return Finding("folder", "pass", f"{place}: can be written, renames replace")


def _explain(place: Path, error: OSError) -> Finding:
    if error.errno == errno.EROFS:
        found, mend = (
            "is mounted read-only",
            f"mount -o remount,rw it (see: findmnt -T {place}), or choose another folder",
        )
    elif error.errno in (errno.EACCES, errno.EPERM):
        status = place.stat()
        found = f"may not be written by user {os.geteuid()} (owner {status.st_uid}, mode {status.st_mode & 0o777:o})"
        mend = "choose a folder of your own"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = "the disk is full" if error.errno == errno.ENOSPC else "the quota is used up"
        found, mend = (
            f"{full}: a file of 1 MiB cannot be written",
            "remove what is no longer needed (xlt-scale checkpoint prune)",
        )
    else:
        found, mend = f"cannot be written ({error.strerror})", "choose another output folder"
    return Finding("folder", "fail", f"{place} {found}", mend)


@contextlib.contextmanager
def _trial_folder(place: Path) -> Iterator[Path]:
    trial = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    try:
        yield trial
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _compare_space(place: Path, free: int, needed: int | None) -> Finding:
    found = f"{place} has {_in_words(free)} free"
    if needed is None:
        if free < _LITTLE:
            return Finding("disk", "warn", found, "choose a larger one; with a run file its need is worked out")
        return Finding("disk", "-", f"{found}; what a run needs is not known without a run file")
    if free < needed:
        mend = (
            "choose a larger disk, lower checkpoints.keep_last, or remove old checkpoints (xlt-scale checkpoint prune)"
        )
        return Finding("disk", "fail", f"{found}, the run needs about {_in_words(needed)}", mend)
    return Finding("disk", "pass", f"{place} has the {_in_words(needed)} free that the run needs")


def _in_words(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"


def check_sharing(meeting: Meeting, folder: Path, seconds: float) -> list[Finding]:
    """Whether all nodes see what one of them writes there, and respect each other's locks. Called by all processes:
    rank 0 writes, the first process of every other node looks and writes, rank 0 looks.
    """
    seat = meeting.seat
    if not seat.is_head:
        task = meeting.share(None, "shared folder")
        report = _visit(task, seat.node, seconds) if task and seat.speaks_for_node else None
        meeting.gather(report, seconds, "shared folder")
        return []
    trial = _open_trial(folder, seconds)
    reports: dict[int, Any] = {}
    try:
        with contextlib.ExitStack() as held:
            locks_work = trial is not None and _lock(held, trial)
            task = None if trial is None else {"folder": str(trial), "content": trial.name}
            meeting.share(task, "shared folder")
            reports = meeting.gather(None, 2 * seconds + _SECONDS_TO_APPEAR, "shared folder")
            nodes = {rank: report for rank, report in reports.items() if report}
            if trial is None:
                found = f"not tried: {seat.node} cannot write to {folder}"
                return [Finding(check, "-", found) for check in ("shared folder", "file locks")]
            return [*_judge_sight(trial, nodes, seconds), *_judge_locks(locks_work, nodes)]
    finally:
        if trial is not None:
            shutil.rmtree(trial, ignore_errors=True)


def _open_trial(folder: Path, seconds: float) -> Path | None:
    def make() -> Path:
        trial = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=nearest_existing(folder)))
        (trial / "lock").touch()
        (trial / "head").write_text(trial.name)
        return trial

    try:
        return within(seconds, make)
    except (OSError, TookTooLong):
        return None


def _lock(held: contextlib.ExitStack, trial: Path) -> bool:
    """Take the lock, and see that a second taker on this node is kept out."""
    try:
        file = held.enter_context((trial / "lock").open("a"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return _is_locked(trial)


def _is_locked(trial: Path) -> bool:
    with open(trial / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def _visit(task: dict[str, str], node: str, seconds: float) -> dict[str, Any]:
    """Look for what rank 0 has written, and answer with a file beside it."""
    trial = Path(task["folder"])

    def look() -> dict[str, Any]:
        deadline = Deadline(min(seconds, _SECONDS_TO_APPEAR))
        while not (trial / "head").exists():
            if deadline.has_passed:
                there = "exists here, but the file" if trial.parent.exists() else "does not exist here:"
                return {"node": node, "problem": f"{trial.parent} {there} that rank 0 wrote is not seen"}
            time.sleep(0.1)
        if (trial / "head").read_text() != task["content"]:
            return {"node": node, "problem": f"{trial.parent}: what rank 0 wrote is read otherwise here"}
        answer = {"node": node, "problem": "", "is_locked": _is_locked(trial), "unwritable": ""}
        try:
            temporary = trial / f"{node}.temporary"
            temporary.write_text(node)
            temporary.rename(trial / f"{node}.answer")
        except OSError as error:
            answer["unwritable"] = error.strerror or str(error)
        return answer

    try:
        return within(seconds + _SECONDS_TO_APPEAR, look)
    except TookTooLong:
        return {"node": node, "problem": f"{trial.parent} does not answer"}
    except OSError as error:
        return {"node": node, "problem": f"{trial.parent}: {error.strerror}"}


def _judge_sight(trial: Path, reports: dict[int, Any], seconds: float) -> list[Finding]:
    mend = "choose an output folder on a file system that all nodes mount"
    findings = []
    deadline = Deadline(min(seconds, _SECONDS_TO_APPEAR))
    for report in reports.values():
        node = report["node"]
        if report["problem"]:
            findings.append(Finding("shared folder", "fail", f"{node}: {report['problem']}", mend))
            continue
        if report["unwritable"]:
            findings.append(Finding("shared folder", "fail", f"{node} cannot write: {report['unwritable']}", mend))
            continue
        while not (trial / f"{node}.answer").exists() and not deadline.has_passed:
            time.sleep(0.1)
        if not (trial / f"{node}.answer").exists():
            findings.append(Finding("shared folder", "fail", f"what {node} wrote is not seen by rank 0", mend))
    if findings or not reports:
        return findings or [Finding("shared folder", "-", "one node: nothing to compare with")]
    return [Finding("shared folder", "pass", f"{trial.parent}: all {len(reports) + 1} nodes see each other's files")]


def _judge_locks(work_here: bool, reports: dict[int, Any]) -> list[Finding]:
    mend = "start one job at a time on a folder: claims and run locks do not keep other nodes out"
    if not work_here:
        return [Finding("file locks", "warn", "the file system knows no locks (flock)", mend)]
    open_to = [report["node"] for report in reports.values() if report.get("is_locked") is False]
    if open_to:
        found = f"a lock of rank 0's node does not keep out {', '.join(open_to)}"
        return [Finding("file locks", "warn", found, f"mount with flock (Lustre: -o flock); {mend}")]
    if any(report["problem"] for report in reports.values()):
        return [Finding("file locks", "-", "not tried where the folder is not shared")]
    return [Finding("file locks", "pass", "flock keeps others out" + (", across nodes" if reports else ""))]

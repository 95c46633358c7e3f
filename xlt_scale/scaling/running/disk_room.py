"""Whether a job's checkpoints and results find room on the disk."""

from collections.abc import Iterable

from xlt_scale.scaling.grid.disk import bytes_below, free_bytes
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.running.outcome import gib


def missing_space(folder: StudyFolder, job: StudyJob, running: Iterable[StudyJob]) -> str:
    """What is missing on the disk for a job to start, in words; '' when there is enough.

    Args:
        running: jobs that may still need some of what is free.
    """
    promised = 0
    for other in running:
        taken = sum(bytes_below(folder.phase(name)) for name in other.phases)
        promised += max(0, other.space - taken)
    free = free_bytes(folder.pool)
    if job.space + promised <= free:
        return ""
    beside = f" beside {gib(promised)} that running jobs may still need" if promised else ""
    return (
        f"{job.name} waits for disk space: it needs {gib(job.space)}{beside}, and {folder.pool} has {gib(free)}; "
        "free some, or set pool to another disk"
    )

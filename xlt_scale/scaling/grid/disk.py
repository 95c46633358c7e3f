"""The disk that a study takes: what is written while it runs, and what stays."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.jobs import Placement, StudyJob

# A megabyte holds predictions, labels and outcomes of one phase in a dozen languages.
_BYTES_OF_SCORES = 1_000_000


@dataclass(frozen=True)
class DiskOfSize:
    """Bytes that one size takes.

    Attributes:
        per_job: free space that one running job needs: checkpoints to go on from, and its results.
        num_encoders: pre-trained and intermediate encoders of the grid.
        encoders: all of them at once; with keep_encoders = 'while needed' they go one after another.
        scores: predictions and outcomes of all its phases, which stay.
    """

    size: str
    per_job: int
    num_encoders: int
    encoders: int
    scores: int


def disk_budget(grid: StudyGrid, placements: Mapping[str, Placement], jobs: Sequence[StudyJob]) -> list[DiskOfSize]:
    """Bytes by size."""
    found = []
    for size in grid.runs:
        phases = [phase for phase in grid.phases.values() if phase.size == size]
        encoders = [phase for phase in phases if phase.role in ("pretraining", "intermediate")]
        found.append(
            DiskOfSize(
                size=size,
                per_job=max((job.space for job in jobs if job.size == size), default=0),
                num_encoders=len(encoders),
                encoders=len(encoders) * placements[size].bytes_per_encoder,
                scores=sum(bool(phase.options.evaluate) for phase in phases) * _BYTES_OF_SCORES,
            )
        )
    return found


def peak_bytes(budget: Sequence[DiskOfSize], num_jobs_at_once: int, keeps_encoders: bool) -> int:
    """At most so much at once: the jobs that run, the encoders that are kept, and all scores.

    Encoders that go when they are no longer needed are counted for twice the running jobs, at the largest size: those
    jobs' own, and those that others wait for.
    """
    running = num_jobs_at_once * max((size.per_job for size in budget), default=0)
    largest = max((size.encoders // max(size.num_encoders, 1) for size in budget), default=0)
    everything = sum(size.encoders for size in budget)
    kept = everything if keeps_encoders else min(everything, 2 * num_jobs_at_once * largest)
    return running + kept + sum(size.scores for size in budget)


def free_bytes(folder: Path) -> int:
    """Free space where the folder is or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def bytes_below(folder: Path) -> int:
    """What a folder's files take; those that vanish meanwhile count as nothing."""
    total = 0
    stack = [folder]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total

"""How long the batch system lets a job run."""

import os
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime

END_TIME = "XLT_SCALE_END_TIME"
"""Environment variable: when the allocation ends, in seconds since 1970. Any batch system's script can set it."""

_ASK_SECONDS = 20.0


def allocation_end() -> float | None:
    """When this job's allocation ends, in seconds since 1970; None when nothing limits it, or nobody says.

    From XLT_SCALE_END_TIME, else from SLURM, which is asked once: call it on one rank.
    """
    for name in (END_TIME, "SLURM_JOB_END_TIME"):
        try:
            return float(os.environ.get(name, ""))
        except ValueError:
            continue
    job = batch_job_id(os.environ)
    return _ask_slurm(job) if job else None


def batch_job_id(environment: Mapping[str, str]) -> str:
    """SLURM's id of this batch job, '' outside one; in an array with its index: the id alone may mean all of them."""
    array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else environment.get("SLURM_JOB_ID", "")


def seconds_left(end: float | None) -> float:
    """Until then; infinite without an end."""
    return float("inf") if end is None else end - time.time()


def _ask_slurm(job: str) -> float | None:
    try:
        command = ["squeue", "--noheader", "--format=%e", f"--jobs={job}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, stdin=subprocess.DEVNULL)
        return datetime.fromisoformat(done.stdout.strip()).timestamp()
    # 'N/A' of a job without a limit, or no squeue on compute nodes.
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None

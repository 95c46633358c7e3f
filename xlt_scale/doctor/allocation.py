"""How long the batch system lets the job go on."""

import os

from xlt_scale.cluster.allocation import allocation_end, seconds_left
from xlt_scale.doctor.findings import Finding

_SHORT_SECONDS = 600


def check_time_left() -> Finding:
    """What is left of the allocation; called by one process of all, because it asks the batch system."""
    end = allocation_end()
    job = os.environ.get("SLURM_JOB_ID")
    if end is None:
        return Finding("time left", "-", f"nobody says when job {job} ends" if job else "not in an allocation")
    minutes = int(seconds_left(end)) // 60
    found = f"the allocation ends in {minutes // 60} h {minutes % 60:02d} min"
    if minutes * 60 < _SHORT_SECONDS:
        return Finding("time left", "warn", found, "ask for more: #SBATCH --time")
    return Finding("time left", "pass", found)

"""The text of a batch script: one job over its nodes, or several small ones side by side on one node."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.running.run_files import LAUNCHER_VARIABLES, LOG_FILE, RUN_FILE, train_script

EXIT_FILE = "exit_code"
CLAIMED_ELSEWHERE = 75
"""What a job ends with when somebody else works on one of its phases (EX_TEMPFAIL)."""

_MARGIN, _START_SECONDS = 1.5, 600.0
_WARNING_SECONDS = 120


@dataclass(frozen=True)
class Member:
    """A job in a script.

    Attributes:
        folder: the job's, written already.
        claim_files: of all of its phases.
    """

    job: StudyJob
    folder: Path
    claim_files: tuple[Path, ...]


def group_members(members: Sequence[Member], devices_per_node: int) -> list[list[Member]]:
    """Members that share a script: of one size, with the same dependencies, no more than fit side by side on a node.
    A node's worth of small runs is one allocation, where devices cannot be shared between allocations.
    """
    groups: dict[tuple[str, frozenset[str]], list[Member]] = {}
    for member in members:
        groups.setdefault((member.job.size, member.job.needs), []).append(member)
    found = []
    for group in groups.values():
        fit = side_by_side(group[0].job, devices_per_node)
        found += [group[start : start + fit] for start in range(0, len(group), fit)]
    return found


def side_by_side(job: StudyJob, devices_per_node: int) -> int:
    """How many such jobs a node holds; 1 for a job that takes several nodes."""
    return max(1, devices_per_node // job.devices) * (job.per_device if job.devices == 1 else 1)


def script(
    members: Sequence[Member], devices_per_node: int, after: Sequence[str], further: Sequence[str], log: Path
) -> str:
    """A script for sbatch.

    Args:
        after: ids of the batch jobs that have to end well first.
        further: #SBATCH lines of the user's, as in '--account=NAME'.
        log: what the script itself prints; each job has its own log beside.
    """
    job = members[0].job
    nodes = ceil(job.devices / devices_per_node)
    if len(members) == 1:
        gpus = ceil(job.devices / nodes)
    else:
        gpus = min(devices_per_node, ceil(len(members) * job.devices / job.per_device))
    head = [
        "#!/bin/bash",
        f"#SBATCH --job-name={job.name}",
        f"#SBATCH --nodes={nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={gpus}",
        f"#SBATCH --time={_time(max(member.job.seconds for member in members))}",
        f"#SBATCH --output={log}",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        f"#SBATCH --signal=B:USR1@{_WARNING_SECONDS}",
    ]
    if after:
        head += [f"#SBATCH --dependency=afterok:{':'.join(after)}", "#SBATCH --kill-on-invalid-dep=yes"]
    head += [f"#SBATCH {line.strip().removeprefix('#SBATCH').strip()}" for line in further]
    body = [
        f"unset {' '.join(LAUNCHER_VARIABLES)}",
        "pids=()",
        # When the time is nearly over: the jobs go on from their checkpoints in another allocation.
        'trap \'kill -TERM "${pids[@]}" 2>/dev/null; scontrol requeue "$SLURM_JOB_ID"\' USR1',
        "",
    ]
    for number, member in enumerate(members):
        visible = _visible(number, member.job) if len(members) > 1 else ""
        body += [*_part(member, nodes, gpus, visible), ""]
    # A signal ends a wait; the process is waited for again until it is gone.
    body += [
        "failed=0",
        'for pid in "${pids[@]}"; do',
        '    while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done',
        '    wait "$pid" || failed=1',
        "done",
        "exit $failed",
    ]
    return "\n".join([*head, "", *body]) + "\n"


def _part(member: Member, nodes: int, gpus: int, visible: str) -> list[str]:
    """A job in the background. Its shell holds the claims of its phases until it ends, however it ends."""
    job, folder = member.job, member.folder
    exit_file = shlex.quote(str(folder / EXIT_FILE))
    lines = ["(", f"    rm -f {exit_file}"]
    for path in sorted(member.claim_files):
        lines += [
            f"    exec {{claim}}>>{shlex.quote(str(path))}",
            f'    flock --nonblock "$claim" || {{ echo {CLAIMED_ELSEWHERE} > {exit_file}; exit {CLAIMED_ELSEWHERE}; }}',
        ]
    if visible:
        lines.append(f"    export CUDA_VISIBLE_DEVICES={visible}")
    log = shlex.quote(str(folder / LOG_FILE))
    lines += [
        f"    {command(job, folder / RUN_FILE, nodes, gpus, shares_node=bool(visible))} >> {log} 2>&1 &",
        "    child=$!",
        "    trap 'kill -TERM \"$child\" 2>/dev/null' TERM",
        '    while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done',
        f"    echo $code > {exit_file}",
        "    exit $code",
        ") &",
        "pids+=($!)",
    ]
    return lines


def command(job: StudyJob, run_file: Path, nodes: int, gpus: int, shares_node: bool) -> str:
    """What a job is started with inside its allocation."""
    train, run = shlex.quote(str(train_script())), shlex.quote(str(run_file))
    python = shlex.quote(sys.executable)
    if shares_node:
        # No step of its own: steps of one allocation would wait for each other's devices.
        ranks = f"-m xlt_scale.scaling.running.ranks {job.devices} " if job.devices > 1 else ""
        return f"{python} {ranks}{train} {run}"
    if job.devices == 1:
        return f"srun {python} {train} {run}"
    meeting = "--standalone"
    if nodes > 1:
        head = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$((20000 + SLURM_JOB_ID % 20000))"'
        meeting = f'--rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint {head}'
    spread = f"--nnodes {nodes} --nproc-per-node {gpus}"
    return f"srun {python} -m torch.distributed.run {spread} {meeting} {train} {run}"


def _visible(number: int, job: StudyJob) -> str:
    if job.devices == 1:
        return str(number // job.per_device)
    return ",".join(str(number * job.devices + offset) for offset in range(job.devices))


def _time(seconds: float) -> str:
    """SLURM's days-hours:minutes:seconds, with a margin over a rough cost."""
    minutes = ceil((seconds * _MARGIN + _START_SECONDS) / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02d}:{minutes:02d}:00"

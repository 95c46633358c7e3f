"""What a submission consists of: options for sbatch, a short script, and a file per batch job (batch_task.py)."""

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.records.atomic import write_atomically
from xlt_scale.scaling.running.batch_task import SECONDS_OF_WARNING, Member, task_file
from xlt_scale.scaling.running.executors.slurm_notes import SCRIPT_FILE, Submission
from xlt_scale.scaling.running.run_files import LAUNCHER_VARIABLES, LOG_FILE, RUN_FILE

_MARGIN, _START_SECONDS = 1.5, 600.0
_OWN = ("job-name", "array", "dependency", "kill-on-invalid-dep", "parsable", "wait", "J", "a", "d", "W")


@dataclass(frozen=True)
class Nodes:
    """What a node has.

    Attributes:
        devices: GPUs, or processor cores.
        has_gpus: devices are GPUs.
        shares: jobs smaller than a node are put side by side into one batch job.
    """

    devices: int
    has_gpus: bool = True
    shares: bool = True

    def side_by_side(self, job: StudyJob) -> int:
        """How many such jobs a batch job holds; 1 for a job that takes several nodes."""
        if not self.shares:
            return 1
        return max(1, self.devices // job.devices) * (job.per_device if job.devices == 1 else 1)


def group(jobs: Iterable[StudyJob], nodes: Nodes, most_tasks: int) -> list[list[list[StudyJob]]]:
    """Arrays of batch jobs: jobs of one size that wait for the same ones are alike. A node's worth of small ones is one
    batch job, where devices cannot be shared between batch jobs.

    Args:
        most_tasks: batch jobs of an array.
    """
    alike: dict[tuple[str, int, frozenset[str]], list[StudyJob]] = {}
    for job in jobs:
        alike.setdefault((job.size, job.devices, job.needs), []).append(job)
    arrays = []
    for members in alike.values():
        fit = nodes.side_by_side(members[0])
        tasks = [members[start : start + fit] for start in range(0, len(members), fit)]
        arrays += [tasks[start : start + most_tasks] for start in range(0, len(tasks), most_tasks)]
    return arrays


def options(one: Submission, nodes: Nodes, after: Sequence[str], further: Sequence[str]) -> list[str]:
    """Options for sbatch, the user's own last: what comes later holds.

    Args:
        after: batch jobs that have to end well first.
        further: of the study file, as in '--account=NAME'.

    Raises:
        UserError: the study file sets what the study itself has to.
    """
    widest = max(one.tasks, key=len)
    num_nodes = ceil(widest[0].devices / nodes.devices)
    throttle = f"%{one.most}" if one.most else ""
    found = [
        f"--job-name={one.name}",
        f"--array=0-{len(one.tasks) - 1}{throttle}",
        f"--nodes={num_nodes}",
        "--ntasks-per-node=1",
        f"--time={_time(max(_seconds(task) for task in one.tasks))}",
        f"--output={one.folder}/output-%a.txt",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{SECONDS_OF_WARNING}",
    ]
    own = _words(further)
    devices = _devices_per_node(widest, num_nodes, nodes)
    if not nodes.has_gpus:
        found.append(f"--cpus-per-task={devices}")
    elif not any(word.lstrip("-").startswith(("gpus", "gres", "G")) for word in own):
        found.append(f"--gpus-per-node={devices}")
    if after:
        found += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    return [*found, *own]


def _seconds(task: Sequence[StudyJob]) -> float:
    """What a batch job takes roughly: its jobs run side by side."""
    return max(job.seconds for job in task)


def write_files(one: Submission, folder: StudyFolder, nodes: Nodes, chosen: Sequence[str]) -> None:
    """Write what sbatch and the batch jobs need into the submission's folder."""
    for index, task in enumerate(one.tasks):
        num_nodes = ceil(task[0].devices / nodes.devices)
        members = [
            Member(
                job=job.name,
                phases=job.phases,
                run_file=str((folder.jobs / job.name / RUN_FILE).absolute()),
                log=str((folder.jobs / job.name / LOG_FILE).absolute()),
                devices=job.devices,
                nodes=num_nodes,
                visible=_visible(number, job) if nodes.has_gpus and len(task) > 1 else (),
                has_gpus=nodes.has_gpus,
            )
            for number, job in enumerate(task)
        ]
        table: dict[str, object] = {"root": str(folder.root.absolute()), "pool": str(folder.pool.absolute())}
        table |= {"members": [member.to_json() for member in members]}
        write_atomically(task_file(one.folder, index), (json.dumps(table, indent=1) + "\n").encode())
    write_atomically(one.folder / SCRIPT_FILE, script(one, chosen).encode())


def script(one: Submission, chosen: Sequence[str]) -> str:
    """The script that sbatch gets. Its #SBATCH lines repeat what the command line says, for people to read."""
    program = [sys.executable, "-m", "xlt_scale.scaling.running.batch_task", str(one.folder)]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in chosen),
            "",
            f"unset {' '.join(LAUNCHER_VARIABLES)}",
            "# The signal before the end of the time must not end a program that does not listen yet.",
            "trap '' USR1",
            f"exec {shlex.join(program)}",
            "",
        ]
    )


def _words(further: Sequence[str]) -> list[str]:
    """The study file's options, one word each."""
    words = [word for line in further for word in shlex.split(line.strip().removeprefix("#SBATCH"))]
    for word in words:
        name = word.lstrip("-").split("=")[0]
        if word.startswith("-") and name in _OWN:
            raise UserError(f"resources.slurm: {word}: the study sets {name} itself; leave it out")
    return words


def _devices_per_node(task: Sequence[StudyJob], num_nodes: int, nodes: Nodes) -> int:
    job = task[0]
    if len(task) == 1:
        return ceil(job.devices / num_nodes)
    return min(nodes.devices, ceil(len(task) * job.devices / job.per_device))


def _visible(number: int, job: StudyJob) -> tuple[int, ...]:
    """Which of the batch job's GPUs belong to a job, among those side by side."""
    if job.devices == 1:
        return (number // job.per_device,)
    return tuple(number * job.devices + offset for offset in range(job.devices))


def _time(seconds: float) -> str:
    """SLURM's days-hours:minutes:seconds, with a margin over a rough cost."""
    minutes = ceil((seconds * _MARGIN + _START_SECONDS + SECONDS_OF_WARNING) / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02d}:{minutes:02d}:00"

"""What an allocation consists of: nodes, and how many processes belong on each."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from xlt_scale.cluster.allocation import batch_job_id
from xlt_scale.errors import UserError

_ASK_SECONDS = 30.0


@dataclass(frozen=True)
class Shape:
    """Attributes:
    nodes: their names, the first one first.
    processes: on each of them.
    uses_gpus: one for each process.
    """

    nodes: tuple[str, ...]
    processes: int
    uses_gpus: bool = False


def shape_of(environment: Mapping[str, str]) -> Shape:
    """The allocation that a batch script runs in. Asks scontrol.

    Raises:
        UserError: nodes differ in their tasks or GPUs, or tasks and GPUs do not match.
    """
    if int(environment.get("SLURM_HET_SIZE", "0")) > 1:
        raise UserError("this is a heterogeneous job; submit one group of equal nodes")
    nodes = tuple(host_names(environment["SLURM_JOB_NODELIST"]))
    tasks = _tasks_per_node(environment)
    gpus = _gpus_per_node(environment, len(nodes), tasks)
    if gpus and tasks > 1 and tasks != gpus:
        raise UserError(
            f"{tasks} tasks but {gpus} GPUs per node; each process has one GPU: leave --ntasks-per-node out, "
            f"or set it to {gpus}"
        )
    if gpus or tasks > 1:
        return Shape(nodes, gpus or tasks, uses_gpus=bool(gpus))
    set_by_user = environment.get("XLT_SCALE_PROCESSES_PER_NODE") or "1"
    if not set_by_user.isdecimal() or int(set_by_user) < 1:
        raise UserError(f"XLT_SCALE_PROCESSES_PER_NODE is {set_by_user!r} in cluster.env; it is a number from 1")
    return Shape(nodes, int(set_by_user))


def host_names(node_list: str) -> list[str]:
    """The names in SLURM's short form, as in node[1-3].

    Raises:
        UserError: scontrol does not answer.
    """
    return ask("show", "hostnames", node_list).split()


def ask(*words: str) -> str:
    """What scontrol prints.

    Raises:
        UserError: it is absent, fails or does not answer.
    """
    command = ["scontrol", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except FileNotFoundError:
        raise UserError("scontrol is not on PATH of this node") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{' '.join(command)}: no answer within {_ASK_SECONDS:.0f} s") from None
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _tasks_per_node(environment: Mapping[str, str]) -> int:
    """As asked for; 1 when nobody has asked: SLURM then counts processors as tasks."""
    counts = environment.get("SLURM_TASKS_PER_NODE", "1")
    if "SLURM_NTASKS" not in environment:
        return 1
    if not (equal := re.fullmatch(r"(\d+)(\(x\d+\))?", counts)):
        raise UserError(
            f"nodes have unequal numbers of tasks ({counts}); use --nodes with --ntasks-per-node instead of --ntasks"
        )
    return int(equal[1])


def _gpus_per_node(environment: Mapping[str, str], num_nodes: int, tasks: int) -> int:
    """As asked for; all that the job holds when nobody has asked: whole nodes come with all of their GPUs."""
    on_this_node = environment.get("SLURM_GPUS_ON_NODE", "")
    if not on_this_node.isdecimal() or not int(on_this_node):
        return 0
    details = ask("show", "job", "-d", batch_job_id(environment))
    asked = gpus_asked_for(details, num_nodes, tasks)
    held = gpus_by_nodes(details)
    few, many = min(held.values(), default=0), max(held.values(), default=0)
    # Whole nodes hold more than was asked for.
    is_unequal = few < asked if asked else few != many
    if is_unequal:
        listed = ", ".join(f"{nodes}: {count}" for nodes, count in held.items())
        raise UserError(f"nodes have unequal numbers of GPUs ({listed}); use --gpus-per-node instead of --gpus")
    return asked or int(on_this_node)


def gpus_asked_for(details: str, num_nodes: int, tasks: int) -> int:
    """GPUs per node that were asked for, from what `scontrol show job -d` prints; 0 when none were.

    Raises:
        UserError: a number for the whole job cannot be shared out evenly.
    """
    found = re.findall(r"TresPer(Node|Task|Job)=\S*?gpu(?::[^:,\s]+)*?:(\d+)", details)
    per_node = 0
    for what, text in found:
        if what == "Job" and int(text) % num_nodes:
            raise UserError(f"--gpus={text} cannot be shared out evenly over {num_nodes} nodes; use --gpus-per-node")
        per_node = {"Node": int(text), "Task": int(text) * tasks, "Job": int(text) // num_nodes}[what]
    return per_node


def gpus_by_nodes(details: str) -> dict[str, int]:
    """GPUs that a job holds, from the same: groups of nodes with the number on each of their nodes."""
    found: dict[str, int] = {}
    for nodes, resources in re.findall(r"^\s+Nodes=(\S+) .*?GRES=(\S*)", details, re.MULTILINE):
        counts = re.findall(r"gpu(?::[^:,(]+)?:(\d+)", resources)
        found[nodes] = sum(map(int, counts))
    return found


def meeting_port(job: int, start: int) -> int:
    """Where the ranks of a job's start meet.

    Another port for every start, since the last one's may still be taken; below those that systems give out themselves.
    """
    return 20000 + (job * 31 + start) % 12000

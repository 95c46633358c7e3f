"""Which process of which this is, by what the launcher or SLURM says, and where all of them can meet."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from xlt_scale.errors import UserError

# Below the ports that the kernel hands out (32768 and up), by job, so that two jobs of a node do not meet each other.
_FIRST_PORT, _NUM_PORTS = 20_000, 10_000
_NUM_SPARE_PORTS = 8
# A user's own choice, then what slurm/job.sh gives to the launchers of the same job.
_HEADS = ("MASTER_ADDR", "XLT_SCALE_MASTER_ADDRESS")
_PORTS = ("MASTER_PORT", "XLT_SCALE_MASTER_PORT")


@dataclass(frozen=True)
class Seat:
    """This process among those that are checked together.

    Attributes:
        local_rank: number on its node; 0 looks at the node, the others only come to the meeting. 0 as well where the
            launcher does not say: then each process looks.
        node: what SLURM calls this node, else its host name.
        head, port: where the processes of a run would meet; rank 0 listens there.
        nodes: the names of all nodes; () where only the meeting can tell.
        node_of_rank: the node on which SLURM starts each rank; () where it does not say.
        launcher: 'launcher' (RANK and WORLD_SIZE are set), 'srun', or 'alone'.
        port_is_held: torchrun itself listens at the port, for its own processes.
        token: tells this job's processes from another job's.
    """

    rank: int
    size: int
    local_rank: int
    node: str
    head: str
    port: int
    nodes: tuple[str, ...]
    node_of_rank: tuple[str, ...]
    launcher: str
    port_is_held: bool
    token: str

    @property
    def is_head(self) -> bool:
        return self.rank == 0

    @property
    def speaks_for_node(self) -> bool:
        return self.local_rank == 0

    @property
    def meeting_ports(self) -> tuple[int, ...]:
        """Where rank 0 may listen: the run's own port, then others, so that a port in use does not end the check."""
        spare = tuple(range(self.port + 1, self.port + 1 + _NUM_SPARE_PORTS))
        return spare if self.port_is_held else (self.port, *spare)

    def describe(self, rank: int) -> str:
        """A rank in words, with its node where that is known."""
        return f"rank {rank} on {self.node_of_rank[rank]}" if rank < len(self.node_of_rank) else f"rank {rank}"


def find_seat(environment: Mapping[str, str] = os.environ) -> Seat:
    """The seat that the environment describes: a launcher's variables first, then those of `srun`; else alone.

    Raises:
        UserError: the variables are incomplete or are not numbers.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _seat_of_launcher(environment)
    # In a batch script outside `srun` SLURM_PROCID and SLURM_NTASKS are set as well: there this process is the only
    # one.
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        return _seat_of_step(environment)
    node = _own_name(environment)
    return Seat(0, 1, 0, node, "127.0.0.1", 0, (node,), (node,), "alone", False, "")


def _seat_of_launcher(environment: Mapping[str, str]) -> Seat:
    for name in ("RANK", "WORLD_SIZE"):
        if name not in environment:
            raise UserError(f"{name} is not set but its companion is; start with torchrun, deepspeed or srun, or unset")
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    if not 0 <= rank < size:
        raise UserError(f"RANK = {rank} of WORLD_SIZE = {size}: ranks go from 0 to WORLD_SIZE - 1; correct them")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if size > 1 and missing:
        raise UserError(f"RANK is set but {', '.join(missing)} is not; start with torchrun, deepspeed or srun")
    return Seat(
        rank=rank,
        size=size,
        local_rank=_number(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else 0,
        node=_own_name(environment),
        head=environment.get("MASTER_ADDR", "127.0.0.1"),
        port=_number(environment, "MASTER_PORT") if size > 1 else 0,
        nodes=(),
        node_of_rank=(),
        launcher="launcher",
        port_is_held=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        token=f"{environment.get('SLURM_JOB_ID', '')}/{environment.get('TORCHELASTIC_RUN_ID', '')}/{size}",
    )


def _seat_of_step(environment: Mapping[str, str]) -> Seat:
    job = _number(environment, "SLURM_JOB_ID")
    size = _number(environment, "SLURM_STEP_NUM_TASKS")
    port_of_job = _FIRST_PORT + job % _NUM_PORTS
    nodes = expand_nodes(environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", ""))
    if not nodes:
        raise UserError("SLURM_PROCID is set but SLURM_STEP_NODELIST is not; start with srun, or unset SLURM_PROCID")
    counts = expand_counts(environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    fits = len(counts) == len(nodes) and sum(counts) == size
    # With another order of the tasks nobody says which node a rank is on.
    in_blocks = fits and environment.get("SLURM_DISTRIBUTION", "block").startswith("block")
    return Seat(
        rank=_number(environment, "SLURM_PROCID"),
        size=size,
        local_rank=_number(environment, "SLURM_LOCALID"),
        node=_own_name(environment),
        head=next((environment[name] for name in _HEADS if environment.get(name)), nodes[0]),
        port=next((_number(environment, name) for name in _PORTS if environment.get(name)), port_of_job),
        nodes=nodes,
        node_of_rank=tuple(n for n, count in zip(nodes, counts, strict=True) for _ in range(count))
        if in_blocks
        else (),
        launcher="srun",
        port_is_held=False,
        token=f"{job}.{environment.get('SLURM_STEP_ID', '')}/{size}",
    )


def expand_nodes(text: str) -> tuple[str, ...]:
    """The names in a list as SLURM writes it: `gpu[01-03,07],login` is five. Read here, because a container on
    a compute node seldom has `scontrol`.
    """
    found: list[str] = []
    for name in re.split(r",(?![^\[]*\])", text):
        bracket = re.search(r"\[([^\]]*)\]", name)
        if not bracket:
            found += [name] if name else []
            continue
        for part in bracket[1].split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                found += expand_nodes(f"{name[: bracket.start()]}{number:0{len(first)}d}{name[bracket.end() :]}")
    return tuple(found)


def expand_counts(text: str) -> tuple[int, ...]:
    """Numbers of tasks by node as SLURM writes them: `2(x3),1` is 2, 2, 2, 1."""
    found: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        found += [int(count)] * int(times or 1)
    return tuple(found)


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except KeyError:
        raise UserError(f"{name} is not set; start with torchrun, deepspeed or srun") from None
    except ValueError:
        raise UserError(f"{name} = {environment[name]!r} is not a number; correct it") from None


def _own_name(environment: Mapping[str, str]) -> str:
    return environment.get("SLURMD_NODENAME") or socket.gethostname()

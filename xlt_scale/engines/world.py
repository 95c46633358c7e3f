"""Which process this is among those that train together, and how they were joined."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from xlt_scale.cluster.mark import Mark
from xlt_scale.engines.meeting import Meeting
from xlt_scale.errors import UserError

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class World:
    """This process among all.

    Attributes:
        rank, size: number of this process and how many there are.
        local_rank: its number on its node, which is also its device.
        group: the process group that its collectives go through; None for the one that all ranks share.
        mark: where this process is, for the watch over all of them.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    mark: Mark = field(default_factory=Mark)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks, in place; a collective when there are several."""
        if self.size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def gather(self, item: object) -> list[object]:
        """Every rank's item, in rank order, on every rank; a collective."""
        if self.size == 1:
            return [item]
        items: list[object] = [None] * self.size
        dist.all_gather_object(items, item, group=self.group)
        return items

    def share(self, make: Callable[[], Shared]) -> Shared:
        """What `make` gives on rank 0, on every rank; a collective.

        Raises:
            UserError: `make` raised one, or could not read or write a file; all ranks raise it.
        """
        answer: list[Any] = [None, ""]
        if self.is_main:
            try:
                answer[0] = make()
            except UserError as error:
                answer[1] = str(error)
            except OSError as error:
                answer[1] = f"{error.filename or 'a file'}: {error.strerror or error}; mend that and start again"
        if self.size > 1:
            dist.broadcast_object_list(answer, src=0, group=self.group)
        if answer[1]:
            raise UserError(answer[1])
        return answer[0]

    def with_group_of_its_own(self) -> "World":
        """The same ranks with another process group, on the CPU: for a thread that communicates while training does. A
        collective.
        """
        return replace(self, group=dist.new_group(backend="gloo")) if self.size > 1 else self

    def barrier(self) -> None:
        """Wait for all ranks; a collective."""
        if self.size > 1:
            dist.barrier(group=self.group)


def join_world(
    device: str = "auto",
    meet: timedelta = timedelta(minutes=10),
    timeout: timedelta = timedelta(minutes=30),
    met: Callable[[Meeting], Mark] = lambda meeting: Mark(),
) -> World:
    """Join the process group that the launcher describes in RANK, WORLD_SIZE, LOCAL_RANK and MASTER_*; collective.

    Without a launcher this process is a world of its own.

    Args:
        meet: how long to wait for the other processes.
        timeout: how long a collective may take.
        met: called when all have come, before they do anything that waits for all; where this process says where it is.

    Raises:
        UserError: CUDA is asked for and absent, or the launcher's variables are incomplete.
        LostError: not all processes have come (`Meeting`).
    """
    use_cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if use_cuda and not torch.cuda.is_available():
        raise UserError("engine.device = 'cuda', but PyTorch sees no GPU; use 'auto' or 'cpu'")
    _describe_single_process()
    missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"RANK is set but {', '.join(missing)} is not; start with deepspeed, torchrun or accelerate launch"
        )
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    if use_cuda:
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"{local_rank + 1} processes on a node with {torch.cuda.device_count()} GPUs; start one process per GPU"
            )
        torch.cuda.set_device(local_rank)
    else:
        # DeepSpeed picks its accelerator when it is first imported.
        os.environ["DS_ACCELERATOR"] = "cpu"
        if "OMP_NUM_THREADS" not in os.environ:
            local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    mark = Mark()
    if not dist.is_initialized():
        meeting = Meeting(meet)
        mark = met(meeting)
        backend = "cpu:gloo,cuda:nccl" if use_cuda else "gloo"
        dist.init_process_group(backend, store=meeting.store, rank=rank, world_size=size, timeout=timeout)
    place = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    return World(rank, size, local_rank, place, mark=mark)


def _describe_single_process() -> None:
    """What a launcher says of one process; the address is `Meeting`'s choice."""
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update(alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"})

"""Hybrid sharding: how many groups hold the whole model, and how those that hold the same ranges read them once."""

import logging
from types import TracebackType
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from xlt_scale.engines.interface import StateSource, fill
from xlt_scale.engines.node_layout import find_nodes
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError

_log = logging.getLogger(__name__)

_PIECE = 1 << 24


def count_replicas(asked: int | Literal["nodes"], world: World) -> int:
    """How many groups of ranks each hold the whole model; 'nodes' means one per node. Called on every rank; a
    collective unless 1 is asked for.

    Groups that reach over several nodes are logged: they are slower, and a large model may need them.

    Raises:
        UserError: the groups would be of different sizes; the same on every rank.
    """
    if asked == 1:
        return 1
    if asked != "nodes" and world.size % asked:
        raise UserError(
            f"engine.replicas = {asked}, but {world.size} processes are running; set a divisor of {world.size}"
        )
    nodes = find_nodes(world)
    if asked == "nodes":
        if nodes.common_size is None:
            counts = ", ".join(str(count) for count in nodes.sizes)
            raise UserError(
                f"engine.replicas = 'nodes', but the nodes have {counts} processes; "
                "start as many on each, or set engine.replicas = 1"
            )
        _log.info(
            "engine.replicas = 'nodes': %d, each on %d processes of its own node", len(nodes.sizes), nodes.common_size
        )
        return len(nodes.sizes)
    if not nodes.keeps_together(world.size // asked):
        _log.info(
            "engine.replicas = %d: each of its groups of %d processes reaches over more than one node, so weights are "
            "gathered between nodes all the same; 'nodes' keeps them on one",
            asked,
            world.size // asked,
        )
    return asked


def mesh_of_replicas(world: World) -> DeviceMesh | None:
    """All ranks as replicas of one shard; None for a single one. A collective."""
    if world.size == 1:
        return None
    return init_device_mesh(world.device.type, (world.size, 1), mesh_dim_names=("replicate", "shard"))


class OneReader:
    """A source that the first replica reads, and that the others get from it; without replicas the source itself.

    A context manager. All ranks of a replicate group read the same ranges in the same order, each read is a collective
    of that group. A range that cannot be read is zeros until the block ends, which then raises: so no rank waits.

    Raises:
        UserError: on the rank that could not read.
    """

    def __init__(self, source: StateSource, mesh: DeviceMesh | None) -> None:
        self._source = source
        self._group: dist.ProcessGroup | None = None
        if mesh is not None and mesh.size(0) > 1:
            self._group = mesh.get_group("replicate")
            self._reads = mesh.get_local_rank("replicate") == 0
            self._device = mesh.device_type
        self._error: UserError | None = None

    def __enter__(self) -> StateSource:
        return self._source if self._group is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._error is not None:
            raise self._error

    def has(self, key: str) -> bool:
        return self._source.has(key)

    def read(self, key: str, start: int, stop: int) -> Tensor:
        values = torch.empty(stop - start, device=self._device)
        self.read_into(values, key, start)
        return values

    def read_into(self, destination: Tensor, key: str, start: int) -> None:
        if self._reads:
            try:
                fill(destination, self._source, key, start)
            except UserError as problem:
                self._error = self._error or problem
                destination.zero_()
        for low in range(0, destination.numel(), _PIECE):
            part = destination[low : low + _PIECE]
            sent = part.to(self._device)  # where the group communicates: states may lie on the host, beside a GPU
            dist.broadcast(sent, group=self._group, group_src=0)
            if sent is not part:
                part.copy_(sent)

"""Hybrid sharding: ranks that hold the same ranges read them once and pass them on."""

from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from xlt_scale.engines.interface import StateSource
from xlt_scale.errors import UserError


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
        values = torch.zeros(stop - start)
        if self._reads:
            try:
                values = self._source.read(key, start, stop)
            except UserError as problem:
                self._error = self._error or problem
        values = values.to(self._device)
        dist.broadcast(values, group=self._group, group_src=0)
        return values

"""Fills the 4-bit layers of a model, which no engine shards."""

import contextlib
from collections.abc import Iterator

from torch import nn

from xlt_scale.engines.interface import StateSource
from xlt_scale.engines.replicas import OneReader, mesh_of_replicas
from xlt_scale.engines.world import World
from xlt_scale.modeling.adapters import four_bit_layers


@contextlib.contextmanager
def filling_four_bit(model: nn.Module, source: StateSource, world: World) -> Iterator[None]:
    """When the block ends, even by an error, give every process the whole of each 4-bit weight: rank 0 reads it, each
    quantises it on its own device. So the ranks stay together when one of them cannot read its shards.

    Weights that the source does not have stay as they are. Collective where there are any; holds one weight in fp32
    at a time.

    Raises:
        UserError: on rank 0, which could not read one.
    """
    try:
        yield
    finally:
        _fill(model, source, world)


def _fill(model: nn.Module, source: StateSource, world: World) -> None:
    layers = {name: layer for name, layer in four_bit_layers(model) if source.has(f"param/{name}")}
    if not layers:
        return
    with OneReader(source, mesh_of_replicas(world)) as one_reader:
        for name, layer in layers.items():
            rows, columns = layer.shape
            values = one_reader.read(f"param/{name}", 0, rows * columns)
            layer.fill(values.to(world.device).view(rows, columns))

"""The result of a phase with adapters: ordinary weights, as if the encoder itself had been trained."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlt_scale.checkpoint.manifest import Manifest
from xlt_scale.checkpoint.training_state import check_arrival
from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.modeling.adapters import is_adapter
from xlt_scale.modeling.four_bit import FourBitLinear
from xlt_scale.modeling.merged_weights import MergedWeights
from xlt_scale.modeling.weights import FirstOf, WeightSource
from xlt_scale.training.handoff import parent_weights
from xlt_scale.training.job import PhaseJob

_PIECE = 1 << 24


def save_merged(job: PhaseJob, engine: Engine, folder: Path, facts: Mapping[str, Any]) -> Manifest:
    """Save what a phase with adapters has made of its parent's encoder, and the heads; collective.

    The encoder is read from the parent once more, since engines hold it rounded, and compared with what was saved.

    Raises:
        UserError: the parent cannot be read, or the folder not be written, on whichever rank; all ranks raise.
    """
    request = job.engine_request()
    with parent_weights(job, engine) as parent:
        manifest = write_merged(engine, request, parent.source, folder, facts)
        if parent.reader is not None:
            four_bit = engine.four_bit_weights()
            read = [name for name in parent.kept if request.is_borrowed(name) and name not in four_bit]
            check_arrival(engine, parent.reader, [f"param/{name}" for name in read])
    return manifest


def write_merged(
    engine: Engine, request: EngineRequest, base: WeightSource, folder: Path, facts: Mapping[str, Any]
) -> Manifest:
    """Save the encoder with the engine's adapters merged into it, and the heads; collective.

    Each rank of the first replica merges and writes an equal part of every parameter of the encoder. Each rank holds
    all adapters in fp32, and one piece of the encoder at a time.

    Args:
        base: gives the encoder's weights without adapters; those that lie in 4 bits come from the engine.

    Raises:
        UserError: the base cannot be read, or the folder not be written, on whichever rank; all ranks raise.
    """
    adapter, world = request.phase.adapter, engine.world
    assert adapter is not None
    mine = {key.removeprefix("param/"): values.to("cpu", copy=True) for key, values in engine.read_states(False)}
    factors = _whole_adapters(engine, request, mine)
    merged = MergedWeights(FirstOf([_FourBit(engine.four_bit_weights()), base]), factors, adapter.alpha / adapter.rank)
    writers = [rank for rank, writes in enumerate(world.gather(engine.is_first_replica)) if writes]
    shapes, ranges = {}, {}
    for name, spec in request.parameters.items():
        if is_adapter(name):
            continue
        shapes[f"param/{name}"] = spec.shape
        if world.rank in writers:
            part = _equal_part(spec.numel, writers.index(world.rank), len(writers))
            ranges[f"param/{name}"] = part if request.is_borrowed(name) else engine.parameter_range(name)

    def values() -> Iterator[tuple[str, Tensor]]:
        for key, (start, stop) in ranges.items():
            name = key.removeprefix("param/")
            if name in mine:
                yield key, mine[name]
            elif request.is_borrowed(name):
                for low in range(start, stop, _PIECE):
                    yield key, merged.read(name, low, min(low + _PIECE, stop))

    return write_checkpoint(world, folder, shapes, ranges, values(), facts)


def _whole_adapters(engine: Engine, request: EngineRequest, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every adapter matrix in one piece, fp32 on the CPU; collective."""
    parts = {name: (engine.parameter_range(name)[0], values) for name, values in mine.items() if is_adapter(name)}
    whole = {name: torch.empty(spec.numel) for name, spec in request.parameters.items() if is_adapter(name)}
    everyones: list[Any] = engine.world.gather(parts if engine.is_first_replica else {})
    for theirs in everyones:
        for name, (start, values) in theirs.items():
            whole[name][start : start + len(values)] = values
    return {name: values.view(request.parameters[name].shape) for name, values in whole.items()}


def _equal_part(numel: int, number: int, count: int) -> tuple[int, int]:
    size = -(-numel // count)
    return min(number * size, numel), min((number + 1) * size, numel)


class _FourBit(WeightSource):
    """The dequantised weights of 4-bit layers as a source."""

    def __init__(self, layers: Mapping[str, FourBitLinear]) -> None:
        self._layers = layers

    def has(self, name: str) -> bool:
        return name in self._layers

    def read_into(self, destination: Tensor, name: str, start: int) -> None:
        destination.copy_(self._layers[name].read(start, start + destination.numel()))

"""Between an engine and a checkpoint: save what it holds, fill it, and compare the two bit by bit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlt_scale.checkpoint.checksum import combine_all, tensor_checksum
from xlt_scale.checkpoint.manifest import BYTES_PER_ELEMENT, Manifest, read_manifest
from xlt_scale.checkpoint.reader import CheckpointReader, CheckpointWeights
from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.engines.interface import MOMENTS, Engine
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.modeling.parameters import ParameterSpec

Parameters = Mapping[str, ParameterSpec]


def save_weights(engine: Engine, parameters: Parameters, folder: Path, facts: Mapping[str, Any]) -> Manifest:
    """Save the fp32 masters, without the optimiser's states; collective.

    Raises:
        UserError: the folder cannot be written, on whichever rank; all ranks raise.
    """
    shapes, ranges = _layout(engine, parameters, with_moments=False)
    return write_checkpoint(engine.world, folder, shapes, ranges, engine.read_states(False), facts)


def optimizer_facts(engine: Engine) -> dict[str, Any]:
    """What the manifest says of the optimiser beside its tensors; it marks the checkpoint as a training state."""
    return {
        "optimizer": {"name": engine.optimizer_name, "num_steps": engine.num_steps, "groups": engine.group_settings()}
    }


class StagedState:
    """A copy of what this rank writes, on the CPU: taken between two steps, written while training goes on.

    As large as the rank's masters and moments. Without `copy` nothing is copied: then it must be written before the
    next step.
    """

    def __init__(self, engine: Engine, parameters: Parameters, copy: bool) -> None:
        self._engine = engine
        self._copies: dict[str, Tensor] | None = None
        self.shapes, self.ranges = _layout(engine, parameters, with_moments=True)
        self.facts = optimizer_facts(engine)
        if copy:
            self._copies = {}
            for key, values in engine.read_states(True) if self.ranges else []:
                self._copies[key] = torch.empty(values.numel()).copy_(values)

    def write(self, world: World, folder: Path, facts: Mapping[str, Any]) -> Manifest:
        """Save; collective over `world`, which may be another group of the same ranks than the engine's.

        Raises:
            UserError: the folder cannot be written, on whichever rank; all ranks raise.
        """
        if self._copies is not None:
            values = iter(self._copies.items())
        else:
            values = self._engine.read_states(True) if self.ranges else iter(())
        return write_checkpoint(world, folder, self.shapes, self.ranges, values, {**facts, **self.facts})


def open_together(world: World, folder: Path) -> CheckpointReader:
    """The reader of a checkpoint on every rank; rank 0 alone reads the manifest. Collective.

    Raises:
        UserError: the checkpoint is missing, unfinished or broken; all ranks raise.
    """
    return CheckpointReader(folder, world.share(lambda: read_manifest(folder)))


def load_weights(engine: Engine, reader: CheckpointReader, parameters: Parameters) -> None:
    """Fill every parameter of the engine and check that each arrived as it was saved; collective.

    Raises:
        UserError: the checkpoint is damaged or of another architecture; all ranks raise.
    """
    # `check_arrival` compares what lies in the engine, but for what is quantised there.
    reader.note_checksums(engine.quantises)
    engine.load_parameters(CheckpointWeights(reader, parameters))
    check_arrival(engine, reader, [f"param/{name}" for name in parameters])


def load_training_state(
    engine: Engine, reader: CheckpointReader, parameters: Parameters, with_settings: bool = True
) -> None:
    """Set the engine back to the state that was saved, bit by bit, whatever engine and world size saved it; collective.

    Args:
        with_settings: the groups' hyper-parameters as well; else the engine keeps its own.

    Raises:
        UserError: the checkpoint is damaged, of another architecture or holds weights only; all ranks raise.
    """
    CheckpointWeights(reader, parameters)
    manifest = reader.manifest
    if not manifest.holds_training_state:
        raise UserError(f"{reader.folder} holds weights only, no training state; use it as a parent")
    missing = [name for name in parameters if not reader.has(f"param/{name}")]
    if missing:
        raise UserError(f"{reader.folder}: {missing[0]} is missing; the checkpoint is of another phase")
    optimizer = manifest.facts["optimizer"]
    # `check_arrival` compares what lies in the engine, but for what is quantised there.
    reader.note_checksums(engine.quantises)
    groups = optimizer["groups"] if with_settings else engine.group_settings()
    engine.load_states(reader, groups, optimizer["num_steps"])
    keys = [key for key in _layout(engine, parameters, with_moments=True)[0] if reader.has(key)]
    check_arrival(engine, reader, keys)


def state_checksums(engine: Engine, keys: Sequence[str]) -> dict[str, int]:
    """The checksum of each whole tensor as it lies in the engine; the same for every engine and world size.
    Collective.
    """
    wanted = set(keys)
    with_moments = any(not key.startswith("param/") for key in keys)
    mine: dict[str, tuple[int, int, int]] = {}
    for key, values in engine.read_states(with_moments) if engine.is_first_replica else ():
        if key in wanted:
            start, stop = engine.parameter_range(key.partition("/")[2])
            mine[key] = (start, BYTES_PER_ELEMENT * (stop - start), tensor_checksum(values))
    return _join_checksums(engine.world, mine, keys)


def check_arrival(engine: Engine, reader: CheckpointReader, keys: Sequence[str]) -> None:
    """Every tensor lies in the engine as it was stored, bit by bit, else a `UserError`. Collective.

    8-bit moments are compared as they were read: quantised again in blocks that are cut elsewhere, they may move.
    """
    quantised = [key for key in keys if engine.quantises(key)]
    found = state_checksums(engine, [key for key in keys if not engine.quantises(key)])
    was_read = {key: reader.checksum_of_read(key) for key in quantised} if engine.is_first_replica else {}
    found |= _join_checksums(engine.world, {key: part for key, part in was_read.items() if part[1]}, quantised)
    for key in keys:
        if found[key] != reader.manifest.tensors[key].crc32:
            raise UserError(f"{reader.folder}: {key} did not arrive as it was saved; its file is damaged: use another")


def _join_checksums(world: World, mine: Mapping[str, tuple[int, int, int]], keys: Sequence[str]) -> dict[str, int]:
    """Checksums of whole tensors from those of every rank's part: (start, number of bytes, checksum). Collective."""
    everyones: list[Any] = world.gather(dict(mine))
    joined = {}
    for key in keys:
        parts = sorted(theirs[key] for theirs in everyones if key in theirs)
        joined[key] = combine_all((checksum, num_bytes) for _, num_bytes, checksum in parts)
    return joined


def _layout(
    engine: Engine, parameters: Parameters, with_moments: bool
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, int]]]:
    """Shapes of all tensors by key, and the ranges that this rank writes: none where another replica does."""
    shapes, ranges = {}, {}
    for name, spec in parameters.items():
        kinds = MOMENTS if with_moments and engine.is_trained(name) else ()
        for kind in ("param", *kinds):
            shapes[f"{kind}/{name}"] = spec.shape
            if engine.is_first_replica:
                ranges[f"{kind}/{name}"] = engine.parameter_range(name)
    return shapes, ranges

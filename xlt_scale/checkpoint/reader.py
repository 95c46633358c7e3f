"""Read ranges of a checkpoint, whatever engine and world size wrote it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from xlt_scale.checkpoint.digest import range_digest
from xlt_scale.checkpoint.manifest import StoredRange, read_manifest
from xlt_scale.engines.interface import Engine
from xlt_scale.errors import UserError
from xlt_scale.modeling.parameters import ParameterSpec


class CheckpointWeights:
    """The fp32 parameters of a checkpoint as a `WeightSource`; only the elements asked for are read.

    Args:
        parameters: what the model wants; an encoder parameter that is stored in another shape, is not stored, or is
            stored and not wanted, is an error.

    Raises:
        UserError: the checkpoint is missing, unfinished, broken, or of another architecture.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, ParameterSpec]) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._open: dict[str, Any] = {}
        for name, spec in parameters.items():
            stored = self.manifest.tensors.get(f"param/{name}")
            if stored is None:
                if name.startswith("encoder."):
                    raise UserError(f"{folder}: {name} is missing; the checkpoint is of another architecture")
            elif stored.shape != spec.shape and name.startswith("encoder."):
                raise UserError(
                    f"{folder}: {name} has shape {list(stored.shape)}, the model wants {list(spec.shape)}; "
                    "the checkpoint is of another architecture: mend [model] or the parent"
                )
        for key in self.manifest.tensors:
            if key.startswith("param/encoder.") and key.removeprefix("param/") not in parameters:
                raise UserError(
                    f"{folder}: the model has no {key.removeprefix('param/')}; "
                    "the checkpoint is of another architecture: mend [model] or the parent"
                )

    def has(self, name: str) -> bool:
        return f"param/{name}" in self.manifest.tensors

    def read(self, name: str, start: int, stop: int) -> Tensor:
        stored = self.manifest.tensors[f"param/{name}"]
        if stop > stored.numel:
            raise UserError(
                f"{self.folder}: {name} has {stored.numel} elements, the model wants {stop}; mend the parent"
            )
        values = torch.empty(stop - start)
        for part in stored.ranges:
            low, high = max(start, part.start), min(stop, part.stop)
            if low < high:
                values[low - start : high - start] = self._read_part(name, part, low, high)
        return values

    def _read_part(self, name: str, part: StoredRange, start: int, stop: int) -> Tensor:
        try:
            if part.file not in self._open:
                self._open[part.file] = safe_open(self.folder / part.file, framework="pt")
            stored = self._open[part.file].get_slice(f"param/{name}")
            if stored.get_shape() != [part.stop - part.start]:
                raise ValueError(f"{name} has shape {stored.get_shape()}, not [{part.stop - part.start}]")
            return stored[start - part.start : stop - part.start]
        except Exception as error:  # a torn file shows as one of several kinds
            raise UserError(f"{self.folder / part.file} cannot be read ({error}); use another checkpoint") from None


def state_digests(engine: Engine, names: list[str]) -> dict[str, int]:
    """Content hash of each parameter as it lies in the engine; the same for every engine and world size. Collective."""
    local = []
    for name in names:
        start, stop = engine.parameter_range(name)
        local.append(range_digest(engine.read_parameter(name), start) if stop > start else 0)
    # Signed 64-bit addition wraps around, which is the addition that digests are defined by.
    return dict(zip(names, engine.world.sum(torch.tensor(local, dtype=torch.int64)).tolist(), strict=True))


def check_arrival(engine: Engine, weights: CheckpointWeights, names: list[str]) -> None:
    """Every named parameter lies in the engine as it was stored, bit by bit, else a `UserError`. Collective."""
    for name, found in state_digests(engine, names).items():
        if found != weights.manifest.tensors[f"param/{name}"].digest:
            raise UserError(
                f"{weights.folder}: {name} did not arrive as it was saved; the file is damaged: save it again"
            )

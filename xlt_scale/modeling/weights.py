"""Where weights come from: fresh draws, Hugging Face files, or both. Any rank can ask for any range of any parameter.

All engines fill their parameters through `WeightSource.read`, a flat range at a time, so that no rank ever holds more
than its own shard, and the same values arrive whatever the engine and the world size.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from xlt_scale.data.counter_random import generator
from xlt_scale.errors import UserError, reason
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.huggingface_names import all_forms, encoder_names, form_of_head, head_names
from xlt_scale.modeling.parameters import ParameterSpec

_BLOCK = 1 << 16
_MLM_HEAD = HeadSpec("mlm", "masked_language_modeling")


class WeightSource(Protocol):
    """Gives flat ranges of parameters as fp32."""

    def has(self, name: str) -> bool:
        """Whether this source knows the parameter."""
        ...

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened parameter, fp32 [stop - start], on the CPU."""
        ...


class FreshWeights:
    """Weights drawn anew; element i of a parameter depends on (seed, name, i) alone.

    Drawn in blocks of 65,536 elements, each from its own generator: a rank draws the blocks that its range touches.
    """

    def __init__(self, specs: Mapping[str, ParameterSpec], seed: int) -> None:
        self._specs, self._seed = specs, seed

    def has(self, name: str) -> bool:
        return name in self._specs

    def read(self, name: str, start: int, stop: int) -> Tensor:
        spec = self._specs[name]
        if spec.fill != "normal":
            return torch.full((stop - start,), 1.0 if spec.fill == "ones" else 0.0)
        values = np.empty(stop - start, dtype=np.float32)
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            low, high = max(start, block * _BLOCK), min(stop, (block + 1) * _BLOCK)
            drawn = generator("weights", self._seed, name, block).standard_normal(_BLOCK, dtype=np.float32)
            values[low - start : high - start] = drawn[low - block * _BLOCK : high - block * _BLOCK]
        values *= spec.deviation
        if spec.zero_row is not None:
            width = spec.shape[1]
            low, high = spec.zero_row * width, (spec.zero_row + 1) * width
            values[max(low - start, 0) : max(high - start, 0)] = 0.0
        return torch.from_numpy(values)


class FirstOf:
    """Several sources; the first that has a parameter gives it."""

    def __init__(self, sources: Sequence[WeightSource]) -> None:
        self._sources = sources

    def has(self, name: str) -> bool:
        return any(source.has(name) for source in self._sources)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        return next(source for source in self._sources if source.has(name)).read(name, start, stop)


class PretrainedWeights:
    """The weights in a folder of Hugging Face files: safetensors, or PyTorch `.bin` read without unpickling code.

    Only the rows that a range touches are read. The encoder's names carry the family's prefix in files of a model with
    a head ('roberta.') and none in files of the bare encoder; old files call norm weights gamma and beta.

    Args:
        specs: the parameters of the model that wants them.
        prefix: the family's name for its encoder inside models with a head.
        heads: which heads to look for. What there is of a masked-language-modelling head is taken; any other head only
            where the files hold all of it, in the same shapes, under the names of the family's own class for it.

    Raises:
        UserError: no weight files, an encoder weight is missing, or a shape of the encoder's or of the
            masked-language-modelling head's differs.
    """

    def __init__(
        self,
        folder: Path,
        specs: Mapping[str, ParameterSpec],
        prefix: str,
        heads: Sequence[HeadSpec] = (_MLM_HEAD,),
    ) -> None:
        self._folder = folder
        self._open: dict[str, Any] = {}
        self._files = _weight_files(folder)
        self._keys: dict[str, str] = {}
        for name in specs:
            if name.startswith("encoder.") and not self._find(name, specs[name], encoder_names(name, prefix)):
                raise UserError(
                    f"{folder}: weight {name.removeprefix('encoder.')} of the encoder is missing; "
                    "the files are of another architecture, or not all were fetched"
                )
        for head in heads:
            self._find_head(head, specs, prefix)

    def _find_head(self, head: HeadSpec, specs: Mapping[str, ParameterSpec], prefix: str) -> None:
        start = f"heads.{head.name}."
        wanted = {name: name.removeprefix(start) for name in specs if name.startswith(start)}
        if head.kind == "masked_language_modeling":
            for name, parameter in wanted.items():
                # Published models of many families have RoBERTa's or BERT's head; which, only their names say.
                names = [known for form in all_forms(head.kind) for known in head_names(parameter, form)]
                self._find(name, specs[name], names)
            return
        form = form_of_head(head.kind, prefix)
        if form is None:
            return
        keys = {name: self._key(head_names(parameter, form)) for name, parameter in wanted.items()}
        if all(key is not None and self._shape(key) == specs[name].shape for name, key in keys.items()):
            self._keys |= {name: key for name, key in keys.items() if key is not None}

    def _find(self, name: str, spec: ParameterSpec, names: Sequence[str]) -> bool:
        """Look for a parameter under these names, best first; whether it is there."""
        key = self._key(names)
        if key is None:
            return False
        shape = self._shape(key)
        if shape != spec.shape:
            raise UserError(f"{self._folder}: {key} has shape {list(shape)}, the model wants {list(spec.shape)}")
        self._keys[name] = key
        return True

    def _key(self, names: Sequence[str]) -> str | None:
        return next((name for name in [*names, *map(_old_name, names)] if name in self._files), None)

    def has(self, name: str) -> bool:
        return name in self._keys

    def read(self, name: str, start: int, stop: int) -> Tensor:
        key = self._keys[name]
        shape = self._shape(key)
        width = 1
        for size in shape[1:]:
            width *= size
        first_row, last_row = start // width, -(-stop // width)
        rows = self._tensor(key)[first_row:last_row]
        return rows.reshape(-1)[start - first_row * width : stop - first_row * width].to(torch.float32, copy=True)

    def _tensor(self, key: str) -> Any:
        """Something that can be sliced by rows without reading the others."""
        file = self._files[key]
        if file not in self._open:
            self._open[file] = _open_file(self._folder / file)
        opened = self._open[file]
        return opened.get_slice(key) if file.endswith(".safetensors") else opened[key]

    def _shape(self, key: str) -> tuple[int, ...]:
        tensor = self._tensor(key)
        return tuple(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)


def _old_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def _weight_files(folder: Path) -> dict[str, str]:
    """Each stored tensor's name -> the file that holds it."""
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if index.is_file():
            try:
                return dict(json.loads(index.read_bytes())["weight_map"])
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{index} is not an index of weight files; fetch it again") from None
        if (folder / single).is_file():
            return dict.fromkeys(_open_file(folder / single, device="meta").keys(), single)
    raise UserError(f"{folder}: neither model.safetensors nor pytorch_model.bin (nor an index of parts) is there")


def _open_file(path: Path, device: str = "cpu") -> Any:
    """An open safetensors file, or the tensors of a PyTorch file, mapped where its format allows that."""
    try:
        if path.suffix == ".safetensors":
            return safe_open(path, framework="pt")
        return torch.load(path, map_location=device, weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # absent, torn, or a pickle of more than tensors: each library has its own kinds
        raise UserError(f"{path} cannot be read ({reason(error)}); fetch it again, or give it as safetensors") from None

"""Where weights come from: fresh draws, Hugging Face files, or both. Any rank can ask for any range of any parameter.

All engines fill their parameters through `WeightSource.read_into`, a flat range at a time, so that no rank ever holds
more than its own shard, and the same values arrive whatever the engine and the world size.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xlt_scale.data.counter_random import generator
from xlt_scale.errors import UserError
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.huggingface_names import all_forms, encoder_names, form_of_head, head_names
from xlt_scale.modeling.parameters import ParameterSpec
from xlt_scale.modeling.stored_tensors import StoredTensor, find_tensors

_BLOCK = 1 << 16
_MLM_HEAD = HeadSpec("mlm", "masked_language_modeling")


class WeightSource(ABC):
    """Gives flat ranges of parameters. Does not communicate."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether this source knows the parameter."""

    @abstractmethod
    def read_into(self, destination: Tensor, name: str, start: int) -> None:
        """Fill a contiguous 1-D tensor, of any floating dtype and on any device, with the flattened parameter's
        elements from `start` on.

        Raises:
            UserError: they cannot be read.
        """

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened parameter, fp32 [stop - start], on the CPU."""
        values = torch.empty(stop - start)
        self.read_into(values, name, start)
        return values


class FreshWeights(WeightSource):
    """Weights drawn anew; element i of a parameter depends on (seed, name, i) alone.

    Drawn in blocks of 65,536 elements, each from its own generator: a rank draws the blocks that its range touches.
    """

    def __init__(self, specs: Mapping[str, ParameterSpec], seed: int) -> None:
        self._specs, self._seed = specs, seed

    def has(self, name: str) -> bool:
        return name in self._specs

    def read_into(self, destination: Tensor, name: str, start: int) -> None:
        spec, stop = self._specs[name], start + destination.numel()
        if spec.fill != "normal":
            destination.fill_(1.0 if spec.fill == "ones" else 0.0)
            return
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            low, high = max(start, block * _BLOCK), min(stop, (block + 1) * _BLOCK)
            drawn = generator("weights", self._seed, name, block).standard_normal(_BLOCK, dtype=np.float32)
            drawn *= spec.deviation
            values = torch.from_numpy(drawn[low - block * _BLOCK : high - block * _BLOCK])
            destination[low - start : high - start].copy_(values)
        if spec.zero_row is not None:
            width = spec.shape[1]
            low, high = spec.zero_row * width, (spec.zero_row + 1) * width
            destination[max(low - start, 0) : max(high - start, 0)] = 0.0


class FirstOf(WeightSource):
    """Several sources; the first that has a parameter gives it."""

    def __init__(self, sources: Sequence[WeightSource]) -> None:
        self._sources = sources

    def has(self, name: str) -> bool:
        return any(source.has(name) for source in self._sources)

    def read_into(self, destination: Tensor, name: str, start: int) -> None:
        next(source for source in self._sources if source.has(name)).read_into(destination, name, start)


class PretrainedWeights(WeightSource):
    """The weights in a folder of Hugging Face files: safetensors, or PyTorch `.bin` read without unpickling code.

    Only the elements of a range are read, straight to where they are wanted. The encoder's names carry the family's
    prefix in files of a model with a head ('roberta.') and none in files of the bare encoder; old files call norm
    weights gamma and beta.

    Args:
        specs: the parameters of the model that wants them.
        prefix: the family's name for its encoder inside models with a head.
        family: by which the names of heads are found (`head_family`); '' = the prefix.
        heads: which heads to look for. What there is of a masked-language-modelling head is taken; any other head only
            where the files hold all of it, in the same shapes, under the names of the family's own class for it.

    Raises:
        UserError: no weight files, an encoder weight is missing, or one of the encoder's or of the
            masked-language-modelling head's has another shape or is not of floating-point numbers.
    """

    def __init__(
        self,
        folder: Path,
        specs: Mapping[str, ParameterSpec],
        prefix: str,
        heads: Sequence[HeadSpec] = (_MLM_HEAD,),
        family: str = "",
    ) -> None:
        self._folder = folder
        self._tensors: dict[str, Mapping[str, StoredTensor]] = {}
        self._files = self._weight_files()
        self._keys: dict[str, str] = {}
        for name in specs:
            if name.startswith("encoder.") and not self._find(name, specs[name], encoder_names(name, prefix)):
                raise UserError(
                    f"{folder}: weight {name.removeprefix('encoder.')} of the encoder is missing; "
                    "the files are of another architecture, or not all were fetched"
                )
        for head in heads:
            self._find_head(head, specs, family or prefix)

    def _find_head(self, head: HeadSpec, specs: Mapping[str, ParameterSpec], family: str) -> None:
        start = f"heads.{head.name}."
        wanted = {name: name.removeprefix(start) for name in specs if name.startswith(start)}
        if head.kind == "masked_language_modeling":
            for name, parameter in wanted.items():
                # Published models of many families have RoBERTa's or BERT's head; which, only their names say.
                names = [known for form in all_forms(head.kind) for known in head_names(parameter, form)]
                self._find(name, specs[name], names)
            return
        form = form_of_head(head.kind, family)
        if form is None:
            return
        keys = {name: self._key(head_names(parameter, form)) for name, parameter in wanted.items()}
        if all(key is not None and self._stored(key).shape == specs[name].shape for name, key in keys.items()):
            self._keys |= {name: key for name, key in keys.items() if key is not None}

    def _find(self, name: str, spec: ParameterSpec, names: Sequence[str]) -> bool:
        """Look for a parameter under these names, best first; whether it is there."""
        key = self._key(names)
        if key is None:
            return False
        stored = self._stored(key)
        if stored.shape != spec.shape:
            raise UserError(f"{self._folder}: {key} has shape {list(stored.shape)}, the model wants {list(spec.shape)}")
        if stored.dtype is None:
            raise UserError(
                f"{self._folder}: {key} is quantised, not of floating-point numbers; give unquantised files"
            )
        self._keys[name] = key
        return True

    def _key(self, names: Sequence[str]) -> str | None:
        return next((name for name in [*names, *map(_old_name, names)] if name in self._files), None)

    def has(self, name: str) -> bool:
        return name in self._keys

    def read_into(self, destination: Tensor, name: str, start: int) -> None:
        key = self._keys[name]
        try:
            self._stored(key).read_into(destination, start)
        except (OSError, EOFError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{self._folder / self._files[key]} cannot be read ({why}); fetch it again") from None

    def _stored(self, key: str) -> StoredTensor:
        file = self._files[key]
        if key not in self._tensors_of(file):
            raise UserError(f"{self._folder / file} does not hold {key}, though the index says so; fetch both again")
        return self._tensors[file][key]

    def _tensors_of(self, file: str) -> Mapping[str, StoredTensor]:
        if file not in self._tensors:
            self._tensors[file] = find_tensors(self._folder / file)
        return self._tensors[file]

    def _weight_files(self) -> dict[str, str]:
        """Each stored tensor's name -> the file that holds it."""
        for single in ("model.safetensors", "pytorch_model.bin"):
            index = self._folder / f"{single}.index.json"
            if index.is_file():
                try:
                    return dict(json.loads(index.read_bytes())["weight_map"])
                except (ValueError, KeyError, TypeError):
                    raise UserError(f"{index} is not an index of weight files; fetch it again") from None
            if (self._folder / single).is_file():
                return dict.fromkeys(self._tensors_of(single), single)
        raise UserError(
            f"{self._folder}: neither model.safetensors nor pytorch_model.bin (nor an index of parts) is there"
        )


def _old_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

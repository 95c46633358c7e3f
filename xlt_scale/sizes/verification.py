"""Compare what the ladders say of a size with the `config.json` of its published files.

Published files leave fields to the defaults of the library's configuration classes, and rename them from release to
release. So both sides are made configurations of those classes, and these are compared.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from xlt_scale.errors import UserError, nearest, reason
from xlt_scale.sizes.ladders import LADDERS, SIZES
from xlt_scale.sizes.model_size import ModelSize, size_of_fields
from xlt_scale.sizes.structure import structure_of

# Names that older files give to parts of a field.
_OLDER_NAMES = {
    "rope_parameters": ("rope_theta", "rope_scaling", "rope_local_base_freq", "global_rope_theta", "local_rope_theta"),
    "layer_types": ("global_attn_every_n_layers", "sliding_window_pattern", "_sliding_window_pattern"),
}

# The last part of each hub name, and the size's own name -> the size.
_PUBLISHED_NAMES = {
    known.rpartition("/")[2].lower(): name
    for ladder in LADDERS.values()
    for name, member in ladder.sizes.items()
    for known in (name, member.hub_name, *member.alternatives)
    if known
}


@dataclass(frozen=True)
class FieldComparison:
    """One field: what the ladder has, what the file means, and whether the file says it or leaves it to a default."""

    name: str
    ours: Any
    theirs: Any
    is_stated: bool

    @property
    def is_equal(self) -> bool:
        return bool(self.ours == self.theirs)


@dataclass(frozen=True)
class Verification:
    """A size beside one file, field by field."""

    size: str
    path: Path
    fields: tuple[FieldComparison, ...]

    @property
    def is_equal(self) -> bool:
        return all(field.is_equal for field in self.fields)


def verify(place: str) -> Verification:
    """Compare a size with a file.

    Args:
        place: a folder with config.json, or such a file; or NAME=PLACE, where neither the file nor its folder's name
            nor its shape says which size it is.

    Raises:
        UserError: there is no such file, it is no configuration, or it is of none of the sizes.
    """
    name, equals, rest = place.partition("=")
    is_named = bool(equals) and not Path(place).exists()
    if is_named and name not in SIZES:
        raise UserError(f"{place}: {name!r} is no size; {nearest(name, SIZES)}")
    path = Path(rest if is_named else place)
    path = path / "config.json" if path.is_dir() else path
    stated = _read(path)
    size = SIZES[name] if is_named else _find(path, stated)
    theirs = _text_part(_configuration(stated, str(path)))
    ours = _text_part(_configuration(size.architecture(), size.name))
    named = _text_fields(stated)
    wanted = [*_text_fields(size.architecture()), *(["layer_types"] if getattr(ours, "layer_types", None) else [])]
    compared = [
        FieldComparison(field, getattr(ours, field, None), getattr(theirs, field, None), _is_stated(field, named))
        for field in dict.fromkeys(wanted)
        if field != "model_type"
    ]
    counted = size_of_fields({**theirs.to_dict(), "model_type": size.model_type})
    counts = [
        FieldComparison(what, getattr(size, what), getattr(counted, what, None), True)
        for what in ("num_parameters", "num_non_embedding_parameters")
    ]
    type_of_part = FieldComparison("model_type", ours.model_type, theirs.model_type, "model_type" in named)
    return Verification(size.name, path, (type_of_part, *compared, *counts))


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a folder with config.json") from None
    except ValueError:
        raise UserError(f"{path} is not JSON; name the config.json of a model") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("model_type"), str):
        raise UserError(f"{path} is no configuration: it has no model_type; name the config.json of a model")
    return fields


def _configuration(fields: Mapping[str, Any], place: str) -> PretrainedConfig:
    others = {name: value for name, value in fields.items() if name != "model_type"}
    try:
        return AutoConfig.for_model(fields["model_type"], **others)
    except Exception as error:  # classes refuse in many ways
        raise UserError(f"{place} is no configuration that transformers can read: {reason(error)}") from None


def _text_part(config: PretrainedConfig) -> PretrainedConfig:
    return getattr(config, structure_of(config.model_type).part or "-", config)


def _text_fields(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    part = fields.get(structure_of(str(fields["model_type"])).part or "-")
    return part if isinstance(part, dict) else fields


def _is_stated(field: str, named: Mapping[str, Any]) -> bool:
    return any(name in named for name in (field, *_OLDER_NAMES.get(field, ())))


def _find(path: Path, stated: Mapping[str, Any]) -> ModelSize:
    """The size that a file is of: by the name that it or its folder has, else by its shape."""
    # The hub's cache calls its folders models--ORGANISATION--NAME.
    folders = [part.replace("--", "/") for part in reversed(path.absolute().parts)]
    for place in (str(stated.get("_name_or_path", "")), *folders):
        if (last := place.rstrip("/").rpartition("/")[2].lower()) in _PUBLISHED_NAMES:
            return SIZES[_PUBLISHED_NAMES[last]]
    shape = size_of_fields(stated)
    alike = [size for size in SIZES.values() if shape and _shape(size) == _shape(shape)]
    if len(alike) != 1:
        raise UserError(f"{path}: neither its name nor its shape is that of a size; write NAME={path}")
    return alike[0]


def _shape(size: ModelSize) -> tuple[Any, ...]:
    return (size.family, size.num_layers, size.hidden_size, size.num_heads, size.intermediate_size, size.vocab_size)

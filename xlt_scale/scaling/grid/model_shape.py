"""How big a model is, from its options alone: before anything is loaded, and without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt_scale.config import ModelOptions
from xlt_scale.sizes import SIZES, ModelSize


@dataclass(frozen=True)
class ModelShape:
    """Parameter counts and dimensions; those of a published size are exact, others estimated from a configuration."""

    num_parameters: int
    num_non_embedding_parameters: int
    num_layers: int
    hidden_size: int
    model_type: str
    is_pre_norm: bool


def model_shape(options: ModelOptions) -> ModelShape | None:
    """The shape of a run's model; None where nothing on this machine tells it (an unknown hub name)."""
    for size in SIZES.values():
        if options.name and options.name in (size.hub_name, size.hub_name.rpartition("/")[2]):
            return _of_size(size)
    if options.name:
        return _of_fields(_configuration(Path(options.name)))
    if options.size in SIZES and not options.architecture:
        return _of_size(SIZES[options.size])
    fields = SIZES[options.size].architecture() if options.size in SIZES else {}
    return _of_fields(fields | options.architecture)


def _of_size(size: ModelSize) -> ModelShape:
    return ModelShape(
        size.num_parameters,
        size.num_non_embedding_parameters,
        size.num_layers,
        size.hidden_size,
        size.model_type,
        size.is_pre_norm,
    )


def _configuration(folder: Path) -> dict[str, Any]:
    try:
        fields = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _of_fields(fields: dict[str, Any]) -> ModelShape | None:
    """The formula of the XLM-R family, for any configuration that has its fields."""
    try:
        size = ModelSize(
            name="",
            model_type=str(fields["model_type"]),
            num_layers=int(fields["num_hidden_layers"]),
            hidden_size=int(fields["hidden_size"]),
            num_heads=int(fields["num_attention_heads"]),
            intermediate_size=int(fields.get("intermediate_size", 4 * int(fields["hidden_size"]))),
            vocab_size=int(fields["vocab_size"]),
            num_position_slots=int(fields.get("max_position_embeddings", 0)),
        )
    except (KeyError, TypeError, ValueError):
        return None
    return _of_size(size)

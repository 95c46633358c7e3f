"""How big a model is, from its options alone: before anything is loaded, and without torch."""

import json
from pathlib import Path
from typing import Any

from xlt_scale.config import ModelOptions
from xlt_scale.planning.workload import Shape
from xlt_scale.sizes import SIZES, ModelSize, size_of_fields


def _well_known(name: str, layers: int, hidden: int, heads: int, vocab: int, positions: int = 512) -> ModelSize:
    return ModelSize(name, name.partition("-")[0], layers, hidden, heads, 4 * hidden, vocab, positions)


# Other encoders that people fine-tune, by the last part of their hub names.
_WELL_KNOWN = {
    size.name: size
    for size in (
        _well_known("bert-base-uncased", 12, 768, 12, 30_522),
        _well_known("bert-base-cased", 12, 768, 12, 28_996),
        _well_known("bert-base-multilingual-cased", 12, 768, 12, 119_547),
        _well_known("bert-large-uncased", 24, 1024, 16, 30_522),
        _well_known("roberta-base", 12, 768, 12, 50_265, 514),
        _well_known("roberta-large", 24, 1024, 16, 50_265, 514),
    )
}


def size_of_model(options: ModelOptions) -> ModelSize | None:
    """Dimensions and parameter counts of a run's model; None where nothing on this machine tells them (an unknown hub
    name). Those of a published size are exact, others estimated from a configuration.
    """
    for size in SIZES.values():
        if options.name and options.name in (size.hub_name, size.hub_name.rpartition("/")[2]):
            return size
    if options.name:
        known = _WELL_KNOWN.get(options.name.rpartition("/")[2])
        return known or size_of_fields(_configuration(Path(options.name)))
    if options.size in SIZES and not options.architecture:
        return SIZES[options.size]
    fields = SIZES[options.size].architecture() if options.size in SIZES else {}
    return size_of_fields(fields | options.architecture)


def shape_of(size: ModelSize, bidirectional: bool = True) -> Shape:
    """The same as the planner wants it.

    Args:
        bidirectional: decoders are read in both directions.
    """
    # Configurations of ModernBERT state the whole window.
    reach = size.sliding_window // 2 if size.model_type == "modernbert" else size.sliding_window
    return Shape(
        name=size.name or size.model_type,
        num_parameters=size.num_parameters,
        num_embedding_parameters=size.num_embedding_parameters,
        num_layers=size.num_layers,
        hidden_size=size.hidden_size,
        num_heads=size.num_heads,
        intermediate_size=size.intermediate_size,
        vocab_size=size.vocab_size,
        pre_norm=size.is_pre_norm,
        gated=size.is_gated,
        causal=size.is_decoder and not bidirectional,
        num_key_value_heads=size.num_key_value_heads,
        model_type=size.model_type,
        head_size=size.head_size,
        sliding_window=reach,
        is_rms_normed=not size.structure.has_norm_biases,
    )


def _configuration(folder: Path) -> dict[str, Any]:
    try:
        fields = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}

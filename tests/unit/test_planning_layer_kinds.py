"""What the planner says of a family's layers is what the real classes keep and move: shrunk, otherwise as published."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from layer_traces import bytes_kept, bytes_moved_by_encoder, bytes_saved_by_encoder

from xlt_scale.planning.activations import layer_bytes_per_token, selective_bytes_per_token
from xlt_scale.planning.layer_kinds import is_known, kind_of
from xlt_scale.planning.shapes import shape_of
from xlt_scale.planning.workload import Lengths, Shape, Workload
from xlt_scale.sizes import SIZES, find_size, size_of_fields

FAMILIES = (
    *("eurobert-2.1b", "mmbert-base", "mdeberta-base", "rembert", "mt5-large", "umt5-base"),
    *("t5gemma-2b", "qwen3-4b", "gemma3-4b"),
)
PADDED = ("mdeberta-base", "rembert", "mt5-large", "umt5-base")
LENGTHS = [32] * 16
TOKENS = sum(LENGTHS)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
NAMES = {"hidden_size": "d_model", "num_attention_heads": "num_heads", "intermediate_size": "d_ff", "head_dim": "d_kv"}
every_family = pytest.mark.parametrize("name", FAMILIES)


def shrunk(name: str, num_layers: int) -> dict[str, Any]:
    """The published configuration with other dimensions; all layers of one kind."""
    whole = find_size(name).architecture()
    parts = [whole["encoder"], whole["decoder"]] if "encoder" in whole else [whole]
    dimensions = {
        "num_hidden_layers": num_layers,
        "hidden_size": 192,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 480,
        "head_dim": 40,
        "vocab_size": 128,
        "input_embedding_size": 64,
        "num_layers": num_layers,
    }
    for part in parts:
        for field, value in dimensions.items():
            known = NAMES.get(field, field)
            part.update({place: value for place in (field, known) if place in part})
        part.update({field: 1 for field, value in part.items() if field.endswith("_token_id") and value is not None})
        if part.get("layer_types"):
            part["layer_types"] = ["full_attention"] * num_layers
    whole["vocab_size"] = 128
    return whole


def shape(name: str) -> Shape:
    size = size_of_fields(shrunk(name, 2))
    assert size is not None
    return shape_of(size)


def workload(name: str, precision: Any, dropout: float) -> Workload:
    lengths = Lengths(32.0, 32.0**2, 32)
    return Workload(shape(name), lengths, len(LENGTHS), precision, dropout=dropout, unpadded=name not in PADDED)


def saved_by_a_layer(name: str, precision: str, dropout: float) -> float:
    """By what the trace grows when the model gets two more layers."""
    few, more = (bytes_saved_by_encoder(shrunk(name, count), LENGTHS, dropout, DTYPES[precision]) for count in (2, 4))
    return (more - few) / 2


def does_not_grow_with_sequences(name: str, precision: str, dropout: float) -> float:
    """Bytes of a layer that are the same for any number of sequences: norms' weights in fp32, seeds, and what DeBERTa
    and umT5 make of relative positions.
    """
    width, length, hidden = (2 if precision == "bf16" else 4), LENGTHS[0], shape(name).hidden_size
    norms = 4 * (4 * hidden + 2 * 40)
    if name == "mdeberta-base":
        dropped = 512 * hidden * (width + 1) if dropout else 0
        return dropped + 2 * 8 * length**2 + TOKENS * length
    return norms + (8 * length**2 if name == "umt5-base" else 0)


@every_family
@pytest.mark.parametrize(("precision", "dropout"), [("bf16", 0.1), ("fp32", 0.0)])
def test_a_layer_saves_what_is_predicted(name: str, precision: str, dropout: float) -> None:
    predicted = layer_bytes_per_token(workload(name, precision, dropout)) * TOKENS
    more = saved_by_a_layer(name, precision, dropout) - predicted
    assert -64 <= more <= does_not_grow_with_sequences(name, precision, dropout) + 64


@every_family
def test_selective_checkpointing_keeps_products_and_attention(name: str) -> None:
    few, more = (_kept_with_selective_checkpointing(name, count) for count in (2, 4))
    predicted = selective_bytes_per_token(workload(name, "bf16", 0.0)) * TOKENS
    vectors = 2 * 2 * kind_of(shape(name)).scores.positions * shape(name).hidden_size
    assert (more - few) / 2 - vectors == pytest.approx(predicted, rel=0.001)


def _kept_with_selective_checkpointing(name: str, num_layers: int) -> int:
    fields = shrunk(name, num_layers)
    model_type = fields.pop("model_type")
    return bytes_kept(model_type, LENGTHS, fields, 0.0, torch.bfloat16, activation_checkpointing="selective")


@every_family
def test_passes_over_activations_are_those_of_the_real_layers(name: str) -> None:
    few, more = (bytes_moved_by_encoder(shrunk(name, count), LENGTHS, torch.bfloat16) for count in (2, 4))
    kind, this = kind_of(shape(name)), shape(name)
    for which, widths in enumerate((kind.forward, kind.backward)):
        traced = (more[which][0] - few[which][0]) / 2 / TOKENS
        of_scores = (kind.scores.forward, kind.scores.backward)[which] * LENGTHS[0]
        of_scores += (2, 5)[which] * kind.scores.positions * (1 + this.hidden_size / this.num_heads / LENGTHS[0])
        predicted = 2 * (widths.of(this) + of_scores * this.num_heads)
        assert predicted == pytest.approx(traced, rel=0.12), f"{name}: {'backward' if which else 'forward'}"
        operators = (more[which][1] - few[which][1]) / 2
        assert 1.2 < kind.kernels[which] / operators < 1.8


@every_family
def test_the_family_has_dropout_where_the_published_one_has(name: str) -> None:
    fields = find_size(name).architecture()
    fields = fields.get("encoder", fields)
    rates = [value for field, value in fields.items() if "dropout" in field and isinstance(value, float)]
    if rates:
        assert max(rates) == kind_of(shape_of(find_size(name))).dropout


def test_every_size_of_a_ladder_has_layers_that_have_been_counted() -> None:
    assert [name for name, size in SIZES.items() if not is_known(size.model_type)] == []


def test_a_family_that_is_not_known_is_counted_like_the_nearest() -> None:
    like_llama = replace(shape("qwen3-4b"), model_type="llama")
    like_bert = replace(shape("rembert"), model_type="electra")
    assert kind_of(like_llama) == kind_of(shape("eurobert-2.1b"))
    assert kind_of(like_bert) == kind_of(shape_of(find_size("xlmr-base")))

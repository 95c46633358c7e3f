"""The planner's count of activations is what autograd really keeps of the real layers."""

from typing import Any

import pytest
import torch
from layer_traces import bytes_kept, bytes_saved

from xlt_scale.planning.activations import kept_bytes, layer_bytes_per_token, selective_bytes_per_token
from xlt_scale.planning.workload import Layout, Lengths, Shape, Workload

NUM_LAYERS = 4
FIELDS = {
    "vocab_size": 200,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 640,
    "max_position_embeddings": 130,
}
LENGTHS = [32] * 8
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Seeds of dropout and attention, and the head's few rows: they do not grow with the tokens.
PER_LAYER = 64
HEAD = 15_000


def workload(model_type: str, precision: Any, dropout: float) -> Workload:
    shape = Shape(
        name="traced",
        num_parameters=1,
        num_embedding_parameters=0,
        num_layers=NUM_LAYERS,
        hidden_size=256,
        num_heads=4,
        intermediate_size=640,
        vocab_size=200,
        pre_norm=model_type == "xlm-roberta-xl",
    )
    return Workload(shape, Lengths(32.0, 32.0**2, 32), len(LENGTHS), precision, dropout=dropout)


def of_one_layer(kept: Any, *arguments: Any, **named: Any) -> float:
    """By what the trace grows when the model gets another layer."""
    sizes = [kept(*arguments[:2], FIELDS | {"num_hidden_layers": count}, *arguments[2:], **named) for count in (2, 3)]
    return float(sizes[1] - sizes[0])


@pytest.mark.parametrize("model_type", ["xlm-roberta", "xlm-roberta-xl"])
@pytest.mark.parametrize(("precision", "dropout"), [("bf16", 0.1), ("bf16", 0.0), ("fp32", 0.1)])
def test_a_layer_saves_what_is_predicted_to_the_byte(model_type: str, precision: str, dropout: float) -> None:
    traced = of_one_layer(bytes_saved, model_type, LENGTHS, dropout, DTYPES[precision])
    predicted = layer_bytes_per_token(workload(model_type, precision, dropout)) * sum(LENGTHS)
    assert 0 <= traced - predicted <= PER_LAYER


@pytest.mark.parametrize("model_type", ["xlm-roberta", "xlm-roberta-xl"])
def test_selective_checkpointing_keeps_products_and_attention(model_type: str) -> None:
    traced = of_one_layer(bytes_kept, model_type, LENGTHS, 0.1, torch.bfloat16, activation_checkpointing="selective")
    predicted = selective_bytes_per_token(workload(model_type, "bf16", 0.1)) * sum(LENGTHS)
    assert traced == pytest.approx(predicted, rel=0.01)


POLICIES: list[dict[str, Any]] = [
    {},
    {"activation_checkpointing": True},
    {"activation_checkpointing": True, "checkpoint_every": 2},
    {"activation_checkpointing": "selective"},
    {"activation_checkpointing": "selective", "checkpoint_every": 3},
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("model_type", ["xlm-roberta", "xlm-roberta-xl"])
def test_a_whole_model_keeps_what_is_predicted(model_type: str, policy: dict[str, Any]) -> None:
    fields = FIELDS | {"num_hidden_layers": NUM_LAYERS}
    traced = bytes_kept(model_type, LENGTHS, fields, 0.1, torch.bfloat16, **policy)
    predicted = kept_bytes(workload(model_type, "bf16", 0.1), Layout("fsdp2", 1, **policy), sum(LENGTHS))
    assert traced - HEAD == pytest.approx(predicted, rel=0.01)


def test_the_policies_are_told_apart() -> None:
    fields = FIELDS | {"num_hidden_layers": NUM_LAYERS}
    sizes = [bytes_kept("xlm-roberta-xl", LENGTHS, fields, 0.1, torch.bfloat16, **policy) for policy in POLICIES]
    assert sorted(sizes, reverse=True) == [sizes[index] for index in (0, 4, 3, 2, 1)]

"""What the planner says of weights, gradients and moments is what the engines' ranks hold."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from launch import launch
from xlt_scale.planning.known_hardware import find_cluster
from xlt_scale.planning.memory import predict_memory
from xlt_scale.planning.workload import Layout, Lengths, Shape, Workload

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

ARCHITECTURE = {
    "vocab_size": 2000,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
}
CASES = [
    *product(("fsdp2", "zero3"), ("fp32", "bf16"), ("adamw",)),
    *product(("fsdp2", "zero3"), ("bf16",), ("adamw_8bit",)),
    *product(("fsdp2", "zero3"), ("bf16_stochastic",), ("adamw", "adamw_8bit")),
    *product(("fsdp2", "zero3"), ("fp32", "bf16", "bf16_stochastic"), ("adamw, frozen embeddings",)),
]
# Of a tensor that does not divide evenly the last shard is smaller, or padded; biases keep 32-bit moments.
TOLERANCE = 0.01

Held = dict[tuple[str, str, str], list[dict[str, int]]]


@pytest.fixture(scope="module", params=[1, 2])
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Held:
    """What each rank holds, by engine, precision and optimiser."""
    actions = {
        "/".join(case): {
            "do": "hold",
            "engine": {"name": case[0], "precision": case[1], "max_tokens_per_micro_batch": 64},
            "architecture": ARCHITECTURE,
            "optimizer": case[2].partition(",")[0],
            "freezes": "frozen" in case[2],
        }
        for case in CASES
    }
    answers = launch("states_held", request.param, actions, tmp_path_factory.mktemp("held"))
    return {case: [answer["/".join(case)] for answer in answers] for case in CASES}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_weights_gradients_and_moments_are_as_predicted(held: Held, case: tuple[Any, Any, Any]) -> None:
    engine, precision, optimizer = case
    found = held[case]
    shape = Shape(
        name="small",
        num_parameters=found[0]["count"],
        num_embedding_parameters=found[0]["embeddings"],
        num_layers=4,
        hidden_size=256,
        num_heads=4,
        intermediate_size=1024,
        vocab_size=2000,
    )
    # Micro-batches of two or three examples: gradients are there when the next backward pass begins.
    lengths = Lengths(mean=20.0, mean_square=500.0, longest=60)
    workload = Workload(shape, lengths, 12, precision, optimizer.partition(",")[0])
    if "frozen" in optimizer:
        share = shape.num_non_embedding_parameters / shape.num_parameters
        workload = replace(workload, trained_share=share, trains_embeddings=False)
    layout = Layout(engine, len(found), max_tokens_per_micro_batch=64)
    predicted = predict_memory(workload, layout, find_cluster("cpu"))
    for part in ("parameters", "gradients", "optimizer"):
        fullest = max(rank[part] for rank in found)
        assert fullest == pytest.approx(getattr(predicted, part), rel=TOLERANCE), part

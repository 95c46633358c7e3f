"""A rank of many builds and fills a shard of the size that the planner says: benchmarks/large_shapes.py in small."""

import sys
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.config import ModelOptions
from xlt_scale.modeling.encoder import plan_encoder
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.sizes import find_size, size_of_fields

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from large_shapes import HEADS, make_folder, predicted_bytes, run_alone

RANKS = 4
# Lists and hooks of the libraries, and the block that is being read.
CONSTANT = 16 * 2**20


def architecture() -> dict[str, Any]:
    """Gemma 3 27B's, narrower and with fewer layers."""
    return find_size("gemma3-27b").architecture() | {
        "num_hidden_layers": 6,
        "layer_types": ["full_attention"] * 6,
        "hidden_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 4096,
        "vocab_size": 4096,
    }


@pytest.fixture(scope="module")
def last_rank(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("large")
    plan = plan_encoder(ModelOptions(architecture=architecture(), tokenizer="micro", max_length=64))
    make_folder(folder / "files", describe_parameters(plan, HEADS))
    return run_alone(architecture(), RANKS - 1, RANKS, folder / "files", folder)


@pytest.fixture(scope="module")
def predicted() -> int:
    size = size_of_fields(architecture())
    assert size is not None
    return predicted_bytes(size, RANKS)


def test_a_rank_reads_its_own_rows(last_rank: dict[str, float]) -> None:
    assert last_rank["checked"] > 100
    assert last_rank["wrong"] == 0


def test_building_a_model_takes_no_memory(last_rank: dict[str, float], predicted: int) -> None:
    assert predicted > 4 * CONSTANT
    assert last_rank["peak of building"] < CONSTANT


def test_a_rank_never_holds_more_than_the_shard_that_is_predicted(last_rank: dict[str, float], predicted: int) -> None:
    assert predicted * 0.98 < last_rank["held"] <= last_rank["peak"] < predicted + CONSTANT

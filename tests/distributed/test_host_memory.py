"""Building a model takes each rank the memory of its own shard: nowhere does the whole model lie in one process."""

import pytest

from launch import launch

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

RANKS = 2
ARCHITECTURE = {
    "vocab_size": 1000,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "num_hidden_layers": 32,
}
# Besides its shard a rank holds for a while a parameter or two, and lists and hooks of the libraries.
CONSTANT = 60.0
# How often a rank holds its shard in fp32 before the first step. ZeRO-3: forward weights, master weights, gradients.
COPIES = {"fsdp2": 1, "zero3": 3}

Stages = dict[str, float]


@pytest.fixture(scope="module", params=COPIES)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Stages]]:
    """Megabytes of each rank at each stage of a model of 400 MB, over what the process had before."""
    job = {"engine": {"name": request.param}, "architecture": ARCHITECTURE}
    # Freed memory goes back to the system at once, so that what is measured is what is held.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    ranks = launch("memory", RANKS, job, tmp_path_factory.mktemp("memory"), environment=allocator)
    return request.param, ranks


def test_the_model_is_large_and_its_parameters_small(measured: tuple[str, list[Stages]]) -> None:
    """Otherwise the bounds below would show nothing."""
    for stages in measured[1]:
        assert stages["model"] > 380
        assert stages["largest"] < 5
        assert stages["model"] - stages["model"] / RANKS > 3 * CONSTANT


def test_construction_makes_only_the_ranks_own_shard(measured: tuple[str, list[Stages]]) -> None:
    for stages in measured[1]:
        assert stages["constructed"] - stages["before"] < stages["model"] / RANKS + CONSTANT


def test_when_all_is_loaded_the_peak_is_what_the_engine_holds_of_its_shard(measured: tuple[str, list[Stages]]) -> None:
    engine, ranks = measured
    for stages in ranks:
        shard = stages["model"] / RANKS
        held = COPIES[engine] * shard
        assert held - 5 < stages["loaded"] - stages["before"] < held + CONSTANT


def test_a_destroyed_engine_holds_nothing(measured: tuple[str, list[Stages]]) -> None:
    """The next phase builds its own."""
    for stages in measured[1]:
        assert stages["destroyed"] - stages["before"] < CONSTANT

"""Saving and loading a training state streams it: no rank holds its part twice, but for one copy while training goes
on.
"""

import shutil
from typing import Any

import pytest

from launch import launch

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

RANKS = 2
# About 50 M parameters, half of them in one tensor.
ARCHITECTURE = {
    "vocab_size": 50_000,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
}
# What saving and loading may hold beside the engine: a piece of a tensor, and what the libraries allocate.
CONSTANT = 80.0


ENGINES = ("fsdp2", "zero3")

Rises = dict[str, Any]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Rises]]:
    """What each rank has measured with each engine."""
    folder = tmp_path_factory.mktemp("checkpoint-memory")
    job = {"engines": ENGINES, "architecture": ARCHITECTURE, "folder": str(folder / "state")}
    # Freed memory goes back to the system at once, so that what is measured is what is held.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    try:
        return launch("checkpoint_memory", RANKS, job, folder, environment=allocator)
    finally:
        shutil.rmtree(folder / "state", ignore_errors=True)


@pytest.fixture(params=ENGINES)
def measured(request: pytest.FixtureRequest, both: list[dict[str, Rises]]) -> list[Rises]:
    """How many megabytes each rank's peak rises above what it held before."""
    return [rank[request.param] for rank in both]


def test_the_state_is_large(measured: list[Rises]) -> None:
    """Otherwise the bounds below would show nothing."""
    for rank in measured:
        assert rank["shard"] > 3 * CONSTANT


def test_saving_holds_no_copy(measured: list[Rises]) -> None:
    for rank in measured:
        assert rank["save"] < CONSTANT


def test_loading_holds_no_copy_beside_the_state_that_it_replaces(measured: list[Rises]) -> None:
    for rank in measured:
        assert rank["changed"] and rank["arrived"]
        assert rank["load"] < CONSTANT


def test_saving_while_training_goes_on_holds_one_copy(measured: list[Rises]) -> None:
    for rank in measured:
        assert 0.8 * rank["shard"] < rank["save_while_training"] - rank["train"] < rank["shard"] + CONSTANT

"""Building a model and filling it from published files takes each rank the memory of its own shard: nowhere does the
whole model lie in one process, and of the files no more than what is being converted.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from launch import launch

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

RANKS = 2
ARCHITECTURE: dict[str, Any] = {
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


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's encoder as published files, two layers in each; bf16 in every other one."""
    from small_run import ARCHITECTURE as SMALL
    from small_run import make_plan

    from xlt_scale.modeling.parameters import describe_parameters

    folder = tmp_path_factory.mktemp("published")
    shapes = {
        name.removeprefix("encoder."): spec.shape
        for name, spec in describe_parameters(make_plan(SMALL | ARCHITECTURE), []).items()
    }
    places = {}
    for number in range(ARCHITECTURE["num_hidden_layers"] // 2):
        layers = tuple(f"encoder.layer.{layer}." for layer in (2 * number, 2 * number + 1))
        members = [name for name in shapes if name.startswith(layers) or (number == 0 and "layer." not in name)]
        file = f"model-{number:05d}.safetensors"
        dtype = torch.bfloat16 if number % 2 else torch.float32
        save_file({name: (0.02 * torch.randn(shapes[name])).to(dtype) for name in members}, folder / file)
        places |= dict.fromkeys(members, file)
    assert places.keys() == shapes.keys()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.fixture(scope="module")
def both(published: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Stages]]:
    """What each rank has measured with each engine."""
    job = {"engines": list(COPIES), "architecture": ARCHITECTURE, "published": str(published)}
    # Freed memory goes back to the system at once, so that what is measured is what is held.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return launch("memory", RANKS, job, tmp_path_factory.mktemp("memory"), environment=allocator)


@pytest.fixture(params=COPIES)
def measured(request: pytest.FixtureRequest, both: list[dict[str, Stages]]) -> tuple[str, list[Stages]]:
    """Megabytes of each rank at each stage of a model of 400 MB, over what the process had before."""
    return request.param, [rank[request.param] for rank in both]


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

"""Whole copies of a model that is only scored give what the sharded engines give, and hold nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch import launch

pytestmark = [pytest.mark.distributed]

Answers = dict[str, list[Any]]
PLACEMENTS = {
    "zero3": {"name": "zero3", "scoring": "sharded"},
    "fsdp2": {"name": "fsdp2", "scoring": "sharded"},
    "copies": {"name": "zero3", "scoring": "replicated"},
    "auto": {"name": "fsdp2"},
}
FAMILIES = ("modernbert", "t5", "albert")


def _actions(folder: Path, world_size: int) -> dict[str, Any]:
    actions: dict[str, Any] = {}
    for name, engine in PLACEMENTS.items():
        actions[name] = {"do": "predictions", "engine": engine, "budget": 40}
    actions["bf16 copies"] = {"do": "predictions", "engine": PLACEMENTS["copies"] | {"precision": "bf16"}, "budget": 40}
    actions["bf16 fsdp2"] = {"do": "predictions", "engine": PLACEMENTS["fsdp2"] | {"precision": "bf16"}, "budget": 40}
    for family in FAMILIES:
        for name in ("fsdp2", "copies"):
            engine = PLACEMENTS[name]
            actions[f"{name} {family}"] = {"do": "predictions", "engine": engine, "budget": 200, "family": family}
    for precision in ("fp32", "bf16"):
        place = str(folder / f"checkpoint-{precision}")
        actions[f"arrival {precision}"] = {"do": "arrival", "precision": precision, "folder": place}
        actions[f"memory {precision}"] = {"do": "memory", "precision": precision}
    if world_size > 1:
        actions["spread"] = {"do": "spread_refused"}
    else:
        engine = {"name": "fsdp2", "scoring": "spread"}
        actions["spread"] = {"do": "predictions", "engine": engine, "budget": 40}
    return actions


def _answers(folder: Path, world_size: int) -> Answers:
    actions = _actions(folder, world_size)
    answers = launch("replicated_actions", world_size, actions, folder)
    return {name: [answer[name] for answer in answers] for name in actions}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return _answers(tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return _answers(tmp_path_factory.mktemp("one"), 1)


def assert_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 0.0) -> None:
    assert found["found"].keys() == expected["found"].keys()
    for task, values in expected["found"].items():
        assert np.allclose(found["found"][task], values, rtol=0, atol=tolerance), task


@pytest.mark.parametrize("engine", ["zero3", "fsdp2"])
def test_copies_predict_every_format_as_sharded_models_do(two: Answers, engine: str) -> None:
    assert_same(two["copies"][0], two[engine][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_of_other_families_predict_as_sharded_ones_do(two: Answers, family: str) -> None:
    """Families with buffers, with parameters that are shared inside the encoder, and without unpadded attention."""
    assert_same(two[f"copies {family}"][0], two[f"fsdp2 {family}"][0], 1e-6)


def test_copies_in_bf16_predict_as_a_sharded_model_does_in_bf16(two: Answers) -> None:
    assert_same(two["bf16 copies"][0], two["bf16 fsdp2"][0])


def test_every_rank_runs_an_equal_number_of_forward_passes(two: Answers, one: Answers) -> None:
    for name in PLACEMENTS:
        first, second = (answer["passes"] for answer in two[name])
        assert first == second
        assert one[name][0]["passes"] / 2 <= first < one[name][0]["passes"]


def test_a_small_model_is_copied_where_nothing_else_is_asked_for(two: Answers) -> None:
    engines = {name: two[name][0]["engine"] for name in PLACEMENTS}
    assert engines == {
        "zero3": "Zero3Engine",
        "fsdp2": "Fsdp2Engine",
        "copies": "ReplicatedEngine",
        "auto": "ReplicatedEngine",
    }


def test_every_rank_has_all_predictions(two: Answers) -> None:
    assert two["copies"][0]["found"] == two["copies"][1]["found"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_checkpoint_arrives_bit_by_bit(world_size: int, one: Answers, two: Answers) -> None:
    answers = {1: one, 2: two}[world_size]["arrival fp32"]
    assert [answer["arrived"] for answer in answers] == [True] * world_size


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_rank_holds_the_same_weights(two: Answers, precision: str) -> None:
    first, second = two[f"arrival {precision}"]
    assert first["sums"] == second["sums"] and any(first["sums"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_damaged_checkpoint_ends_all_ranks_with_one_line(two: Answers, precision: str) -> None:
    for answer in two[f"arrival {precision}"]:
        assert "did not arrive as it was saved; its file is damaged" in answer["message"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_copy_takes_the_memory_of_its_weights_alone(two: Answers, precision: str) -> None:
    for answer in two[f"memory {precision}"]:
        assert answer["model"] <= answer["held"] < 1.05 * answer["model"] + 4096


def test_a_spread_model_predicts_as_a_copy_does(one: Answers) -> None:
    assert one["spread"][0]["engine"] == "ReplicatedEngine"
    assert_same(one["spread"][0], one["copies"][0])


def test_several_processes_are_not_to_spread_one_model(two: Answers) -> None:
    for message in two["spread"]:
        assert message.startswith("engine.scoring = 'spread' is for a single process, 2 are running; start one")

"""Float8 products and the sliced vocabulary loss in both engines, whose weights are there only while they are used."""

import json
from typing import Any

import pytest
from agreement import relative_difference
from small_runs import ENGINES, SMALL_BUDGET

from launch import launch

pytestmark = [pytest.mark.distributed]

STEPS = 4
Runs = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What rank 0 of two saw in each run. Under ZeRO-3 even the smallest parameter is partitioned."""
    folder = tmp_path_factory.mktemp("float8")
    settings = folder / "partitioned.json"
    settings.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}))
    actions: dict[str, Any] = {}
    for name in ENGINES:
        engine: dict[str, Any] = {"name": name, "max_tokens_per_micro_batch": SMALL_BUDGET}
        if name == "zero3":
            engine["deepspeed_config"] = str(settings)
        for float8 in (False, True):
            options = engine | {"precision": "bf16", "float8": float8}
            actions[f"{name} {'float8' if float8 else 'bf16'}"] = {"do": "train_in_float8", "engine": options}
        recomputing = engine | {"precision": "bf16", "float8": True, "activation_checkpointing": True}
        actions[f"{name} recomputing"] = {"do": "train_in_float8", "engine": recomputing}
        actions[f"{name} slices"] = {"do": "train_in_slices", "engine": engine}
        actions[f"{name} at once"] = {"do": "train_at_once", "engine": engine}
    actions = {name: {"steps": STEPS} | action for name, action in actions.items()}
    answers = launch("float8_actions", 2, actions, folder / "run")
    return answers[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_trains_in_float8_as_in_bf16_but_for_the_rounding(engine: str, runs: Runs) -> None:
    float8, bf16 = runs[f"{engine} float8"], runs[f"{engine} bf16"]
    assert float8["names"] == bf16["names"]
    assert 1e-6 < relative_difference(float8["losses"], bf16["losses"]) < 5e-3
    assert 1e-4 < relative_difference(float8["norms"], bf16["norms"]) < 5e-2


def test_both_engines_round_alike(runs: Runs) -> None:
    zero3, fsdp2 = (runs[f"{name} float8"] for name in ENGINES)
    assert relative_difference(zero3["losses"], fsdp2["losses"]) < 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_float8_products_can_be_computed_again_in_the_backward_pass(engine: str, runs: Runs) -> None:
    once = runs[f"{engine} float8"]
    assert relative_difference(runs[f"{engine} recomputing"]["losses"], once["losses"]) < 1e-5
    assert relative_difference(runs[f"{engine} recomputing"]["norms"], once["norms"]) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_a_vocabulary_loss_in_slices_changes_no_loss_and_no_norm(engine: str, runs: Runs) -> None:
    slices, at_once = runs[f"{engine} slices"], runs[f"{engine} at once"]
    assert slices["calls"] >= 2
    assert relative_difference(slices["losses"], at_once["losses"]) < 1e-5
    assert relative_difference(slices["norms"], at_once["norms"]) < 1e-5

"""Without fp32 masters: bf16 weights that are rounded at random learn as well, and go on as they were on any engine."""

import math
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from agreement import relative_difference
from small_runs import ENGINES, SMALL_BUDGET

from launch import launch

pytestmark = [pytest.mark.distributed]

STEPS, MANY_STEPS = 12, 500
SLOW = {"mixture": {"pairs": 1.0}, "learning_rate": 3e-5, "weight_decay": 0.0}
"""Updates of about 3e-5 of weights of about 0.05, which in bf16 are 2e-4 apart."""

ROUNDING = 2e-3
"""How far losses of so few steps are from those with masters, at most (seen: 1.3e-3)."""


class Runs:
    """Process groups of one and two ranks, each started when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def one(self) -> dict[str, Any]:
        actions = {f"{name} {STEPS}": _train(name) for name in ENGINES}
        actions["masters"] = _train("fsdp2", precision="bf16")
        slow = _train("fsdp2", MANY_STEPS, SLOW, max_tokens_per_micro_batch=10_000)
        actions["masters, slow"] = slow | {"engine": slow["engine"] | {"precision": "bf16"}}
        actions["at random, slow"] = slow
        actions["to nearest, slow"] = slow | {"to_nearest": True}
        return launch("actions", 1, actions, self._folder / "one")[0]

    @cached_property
    def two(self) -> dict[str, Any]:
        actions: dict[str, Any] = {}
        for name in ENGINES:
            actions[f"{name} {STEPS}"] = _train(name)
            actions[f"{name} one micro-batch"] = _train(name, max_tokens_per_micro_batch=10_000)
            actions[f"{name} 8-bit"] = _train(name, phase={"optimizer": "adamw_8bit"})
            actions[f"{name} frozen"] = _train(name, phase={"freeze_embeddings": True})
            actions[f"{name} frozen, masters"] = _train(name, phase={"freeze_embeddings": True}, precision="bf16")
        actions["fsdp2 offloaded"] = _train("fsdp2", offload="optimizer")
        actions["zero3 offloaded"] = {"do": "build_refused", "engine": _engine("zero3", offload="optimizer")}
        return launch("actions", 2, actions, self._folder / "two")[0]

    @cached_property
    def saved(self) -> dict[str, Any]:
        actions: dict[str, Any] = {}
        for name in ENGINES:
            actions[name] = {"do": "save", "engine": _engine(name), "folder": str(self.folder(name))}
            folder = str(self._folder / f"{name}-interrupted" / "step-00000005")
            actions[f"{name} interrupted"] = {
                "do": "interrupt",
                "engine": _engine(name, repeatable=True),
                "folder": folder,
            }
        return launch("checkpoint_actions", 2, actions, self._folder / "saved")[0]

    @cached_property
    def loaded(self) -> dict[str, Any]:
        actions = {
            f"{loader} loads {saver}": {"do": "load", "engine": _engine(loader), "folder": str(self.folder(saver))}
            for loader in ENGINES
            for saver in ENGINES
            if self.saved[saver]
        }
        return launch("checkpoint_actions", 1, actions, self._folder / "loaded")[0]

    def folder(self, name: str) -> Path:
        return self._folder / f"{name}-state" / "step-00000005"


def _engine(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "precision": "bf16_stochastic", "max_tokens_per_micro_batch": SMALL_BUDGET} | options


def _train(name: str, steps: int = STEPS, phase: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {"do": "train", "engine": _engine(name, **options), "steps": steps, "phase": phase or {}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("without-masters"))


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_are_those_with_masters_up_to_rounding(engine: str, runs: Runs) -> None:
    masters = runs.one["masters"]["losses"]
    for found in (runs.one, runs.two):
        assert relative_difference(found[f"{engine} {STEPS}"]["losses"], masters) < ROUNDING


@pytest.mark.parametrize("engine", ENGINES)
def test_how_a_step_is_cut_into_micro_batches_matters_as_little(engine: str, runs: Runs) -> None:
    """Several are summed in fp32, a single one is not."""
    found = runs.two[f"{engine} one micro-batch"]["losses"]
    assert relative_difference(found, runs.two[f"{engine} {STEPS}"]["losses"]) < ROUNDING


@pytest.mark.parametrize("engine", ENGINES)
def test_moments_can_have_8_bits_as_well(engine: str, runs: Runs) -> None:
    found = runs.two[f"{engine} 8-bit"]["losses"]
    assert relative_difference(found, runs.two[f"{engine} {STEPS}"]["losses"]) < ROUNDING


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_embeddings_keep_their_fp32_values(engine: str, runs: Runs) -> None:
    found, masters = (runs.two[f"{engine} frozen{with_masters}"] for with_masters in ("", ", masters"))
    assert relative_difference(found["losses"], masters["losses"]) < ROUNDING
    embeddings = [name for name in found["final"] if "embeddings" in name and "norm" not in name.lower()]
    assert embeddings
    for name in embeddings:
        assert found["final"][name] == masters["final"][name], name


def test_states_on_the_host_give_the_same_bits(runs: Runs) -> None:
    assert runs.two["fsdp2 offloaded"]["final"] == runs.two[f"fsdp2 {STEPS}"]["final"]


def test_deepspeed_cannot_put_them_there_and_says_what_can(runs: Runs) -> None:
    assert "use engine.name = 'fsdp2'" in runs.two["zero3 offloaded"]


def test_over_500_steps_small_updates_arrive_that_rounding_to_nearest_loses(runs: Runs) -> None:
    def gain(name: str) -> float:
        losses = runs.one[f"{name}, slow"]["losses"]
        return fmean(losses[:50]) - fmean(losses[-50:])

    masters = gain("masters")
    assert masters > 0.05
    assert math.isclose(gain("at random"), masters, rel_tol=0.05)
    assert gain("to nearest") < 0.5 * masters


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupted_run_is_the_undisturbed_one_bit_by_bit(engine: str, runs: Runs) -> None:
    found = runs.saved[f"{engine} interrupted"]
    assert found["again"] == found["undisturbed"]
    assert found["resumed"] == found["undisturbed"]


@pytest.mark.parametrize("saver", ENGINES)
@pytest.mark.parametrize("loader", ENGINES)
def test_a_state_goes_on_on_the_other_engine_and_at_another_world_size(loader: str, saver: str, runs: Runs) -> None:
    saved, found = runs.saved[saver], runs.loaded[f"{loader} loads {saver}"]
    assert found["checksums"] == found["stored"] == saved["checksums"]
    assert found["num_steps"] == 5
    assert relative_difference(found["losses"], saved["losses"]) < ROUNDING

"""Adapters under both engines, at several world sizes: one training, one state, one merged result."""

from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from agreement import relative_difference
from small_runs import ENGINES, SMALL_BUDGET, Answers

from launch import launch

pytestmark = [pytest.mark.distributed]

FULL = {"rank": 4, "alpha": 8.0}
NF4 = FULL | {"base": "nf4"}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"adapter": FULL},
    "nf4": {"adapter": NF4},
    "nf4 bf16": {"adapter": NF4, "engine": {"precision": "bf16"}},
    "8-bit states": {"adapter": FULL, "phase": {"optimizer": "adamw_8bit"}},
}
AGAIN = ("full", "nf4 bf16", "8-bit states")
ACROSS = ("full", "nf4 bf16")
STEPS = 5


class AdapterRuns:
    """Two ranks train and save every variant; then one and three ranks of the other engine go on from there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def two(self) -> Answers:
        actions = {f"{name} {variant}": self._train(name, variant) for variant in VARIANTS for name in ENGINES}
        actions |= {
            f"{name} {variant} again": self._resume(name, name, variant) for variant in AGAIN for name in ENGINES
        }
        return self._run(2, actions)

    def resumed(self, size: int) -> Answers:
        """Each engine goes on from the other's state."""
        assert self.two
        pairs = zip(ENGINES, reversed(ENGINES), strict=True)
        return self._run(
            size,
            {f"{name} {variant}": self._resume(name, other, variant) for name, other in pairs for variant in ACROSS},
        )

    def _train(self, name: str, variant: str) -> dict[str, Any]:
        return {"do": "train"} | self._common(name, name, variant)

    def _resume(self, name: str, saved_by: str, variant: str) -> dict[str, Any]:
        return {"do": "resume"} | self._common(name, saved_by, variant)

    def _common(self, name: str, saved_by: str, variant: str) -> dict[str, Any]:
        options = VARIANTS[variant]
        engine = {"name": name, "max_tokens_per_micro_batch": SMALL_BUDGET} | options.get("engine", {})
        folder = str(self._folder / f"{saved_by}-{variant.replace(' ', '-')}")
        return options | {"engine": engine, "folder": folder}

    def _run(self, size: int, actions: dict[str, Any]) -> Answers:
        answers = launch("adapter_actions", size, actions, self._folder / f"ranks-{size}")
        return {name: [answer[name] for answer in answers] for name in actions}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> AdapterRuns:
    return AdapterRuns(tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_engines_train_adapters_alike(variant: str, runs: AdapterRuns) -> None:
    zero3, fsdp2 = (runs.two[f"{name} {variant}"][0] for name in ENGINES)
    tolerance = {"8-bit states": 1e-2, "nf4 bf16": 2e-3}.get(variant, 1e-5)
    assert relative_difference(zero3["losses"], fsdp2["losses"]) < tolerance
    assert zero3["learned"] > 0.1, "the adapters have changed what the encoder computes"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", ["full", "nf4", "8-bit states"])
def test_the_merged_result_computes_what_the_adapters_do(variant: str, engine: str, runs: AdapterRuns) -> None:
    assert runs.two[f"{engine} {variant}"][0]["apart"] < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_in_bf16_it_differs_by_rounding(engine: str, runs: AdapterRuns) -> None:
    run = runs.two[f"{engine} nf4 bf16"][0]
    assert 0 < run["apart"] < 0.02 * run["learned"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_training_checkpoint_holds_adapters_and_heads_and_a_result_ordinary_weights(
    engine: str, runs: AdapterRuns
) -> None:
    run = runs.two[f"{engine} full"][0]
    kinds = {key.partition("/")[0] for key in run["stored"]}
    assert kinds == {"param", "exp_avg", "exp_avg_sq"}
    assert all(".lora_" in key or "/heads." in key for key in run["stored"])
    assert not [key for key in run["result"] if "lora" in key or "base_layer" in key]
    assert "param/encoder.encoder.layer.0.attention.self.query.weight" in run["result"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", AGAIN)
def test_an_interrupted_phase_goes_on_to_the_bit(variant: str, engine: str, runs: AdapterRuns) -> None:
    whole, again = runs.two[f"{engine} {variant}"][0], runs.two[f"{engine} {variant} again"][0]
    assert again["saved"] == whole["saved"]
    assert again["losses"] == whole["losses"][STEPS:]


@pytest.mark.parametrize("size", [1, 3])
def test_it_goes_on_under_the_other_engine_on_other_numbers_of_processes(size: int, runs: AdapterRuns) -> None:
    resumed = runs.resumed(size)
    for name, other in zip(ENGINES, reversed(ENGINES), strict=True):
        for variant in ACROSS:
            found, whole = resumed[f"{name} {variant}"][0], runs.two[f"{other} {variant}"][0]
            assert found["saved"] == whole["saved"]
            tolerance = 5e-3 if "bf16" in variant else 1e-4
            assert relative_difference(found["losses"], whole["losses"][STEPS:]) < tolerance

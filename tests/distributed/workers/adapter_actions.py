"""Trains adapters, saves and resumes them and merges them, one named action after another in one process group."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from small_run import FAMILIES, HEADS, PHASE, TASKS, make_data, make_plan, run_actions, run_loop
from torch import Tensor

from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.training_state import StagedState, load_training_state, load_weights, state_checksums
from xlt_scale.config import EngineOptions, PhaseOptions
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import MOMENTS, Engine, EngineRequest
from xlt_scale.engines.world import World
from xlt_scale.evaluation.predict import predict
from xlt_scale.modeling.adapters import is_adapter
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import FreshWeights, WeightSource
from xlt_scale.training.merging import write_merged

STEPS, MORE = 5, 3


def train(
    world: World, engine: dict[str, Any], adapter: dict[str, Any], folder: str, phase: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train, save the state, train on, merge, and load the result into an engine without adapters."""
    request = _request(world, engine, adapter, phase)
    built = build_engine(request)
    built.load_parameters(FreshWeights(request.parameters, 1))
    fresh = _outputs(built)
    losses = [row["loss"] for row in run_loop(built, request, STEPS)]
    StagedState(built, _saved(request), copy=True).write(world, Path(folder) / "state", {})
    saved = _checksums(built, request)
    rows = run_loop(built, request, STEPS + MORE, start=STEPS)
    adapted = _outputs(built)
    write_merged(built, request, FreshWeights(request.parameters, 1), Path(folder) / "result", {})
    built.destroy()
    plain = replace(
        request,
        parameters={name: spec for name, spec in request.parameters.items() if not is_adapter(name)},
        phase=request.phase.model_copy(update={"adapter": None}),
        only_scores=True,
    )
    scoring = build_engine(plain)
    load_weights(scoring, CheckpointReader(Path(folder) / "result"), plain.parameters)
    merged = _outputs(scoring)
    scoring.destroy()
    return {
        "losses": losses + [row["loss"] for row in rows],
        "norms": [row["grad_norm"] for row in rows],
        "saved": saved,
        "stored": sorted(CheckpointReader(Path(folder) / "state").manifest.tensors),
        "result": {key: tensor.crc32 for key, tensor in _manifest(folder).items()},
        "learned": float(np.abs(adapted - fresh).max()),
        "apart": float(np.abs(adapted - merged).max()),
    }


def resume(
    world: World, engine: dict[str, Any], adapter: dict[str, Any], folder: str, phase: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Load that state beside the same encoder into an engine whose adapters and heads are others, and train on."""
    request = _request(world, engine, adapter, phase)
    built = build_engine(request)
    built.load_parameters(_BaseOf(FreshWeights(request.parameters, 1), FreshWeights(request.parameters, 99), request))
    load_training_state(built, CheckpointReader(Path(folder) / "state"), _saved(request))
    found = _checksums(built, request)
    rows = run_loop(built, request, STEPS + MORE, start=STEPS)
    built.destroy()
    return {"saved": found, "losses": [row["loss"] for row in rows]}


class _BaseOf(WeightSource):
    """The encoder of one source, everything else of another."""

    def __init__(self, base: FreshWeights, other: FreshWeights, request: EngineRequest) -> None:
        self._base, self._other, self._request = base, other, request

    def has(self, name: str) -> bool:
        return self._base.has(name)

    def read_into(self, destination: Tensor, name: str, start: int) -> None:
        (self._base if self._request.is_borrowed(name) else self._other).read_into(destination, name, start)


def _request(
    world: World, engine: dict[str, Any], adapter: dict[str, Any], phase: dict[str, Any] | None
) -> EngineRequest:
    options = PhaseOptions(**PHASE | {"learning_rate": 0.03, "adapter": adapter} | (phase or {}))
    plan = make_plan(FAMILIES["xlm-roberta-xl"] | {"hidden_size": 64, "intermediate_size": 128})
    return EngineRequest(
        world=world,
        plan=plan,
        heads=HEADS,
        parameters=describe_parameters(plan, HEADS, options.adapter),
        options=EngineOptions(**engine),
        phase=options,
        precision=engine.get("precision", "fp32"),
    )


def _saved(request: EngineRequest) -> dict[str, Any]:
    return {name: spec for name, spec in request.parameters.items() if not request.is_borrowed(name)}


def _checksums(engine: Engine, request: EngineRequest) -> dict[str, int]:
    keys = [f"{kind}/{name}" for name in _saved(request) for kind in ("param", *MOMENTS)]
    return state_checksums(engine, keys)


def _manifest(folder: str) -> Any:
    return CheckpointReader(Path(folder) / "result").manifest.tensors


def _outputs(engine: Engine) -> np.ndarray:
    engine.train(False)
    found = predict(engine, TASKS["pairs"], make_data("pairs"), 64, padded=False, mode="embedding", layers=[2])[:, 0]
    engine.train(True)
    return found


if __name__ == "__main__":
    run_actions({"train": train, "resume": resume})

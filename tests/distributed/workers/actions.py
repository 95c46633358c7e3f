"""Does named actions one after another in one process group, because starting a process costs more than most of them.

Each action is an object with 'do' (a function below) and its arguments; the answer has what it returned under its name.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from small_run import (
    ALL_FORMATS,
    ALL_HEADS,
    FAMILIES,
    HEADS,
    TASKS,
    digests,
    make_data,
    make_engine,
    make_plan,
    make_request,
    run_actions,
    run_loop,
)

from xlt_scale.engines import portions
from xlt_scale.engines.rounding import RoundedRange
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.evaluation.predict import predict
from xlt_scale.modeling.weights import FreshWeights


def train(
    world: World,
    engine: dict[str, Any],
    phase: dict[str, Any] | None = None,
    steps: int = 20,
    lopsided: bool = False,
    family: str = "",
    formats: bool = False,
    to_nearest: bool = False,
) -> dict[str, Any]:
    """Losses, gradient norms and weights of a run; with `formats`, of a mixture of all task formats; with `to_nearest`,
    what is to be rounded at random is not.
    """
    rounding = portions.stochastic_round_all_
    if to_nearest:
        portions.stochastic_round_all_ = _round_to_nearest
    plan = make_plan(FAMILIES[family]) if family else None
    if formats:
        phase = {**(phase or {}), **ALL_FORMATS}
    request = make_request(world, engine, phase, plan, ALL_HEADS if formats else HEADS)
    built = make_engine(request)
    initial = digests(built, request)
    rows = run_loop(built, request, steps, lopsided)
    final = digests(built, request)
    built.destroy()
    portions.stochastic_round_all_ = rounding
    return {
        "losses": [row["loss"] for row in rows],
        "norms": [row["grad_norm"] for row in rows],
        "tasks": [row["task"] for row in rows],
        "initial": initial,
        "final": final,
    }


def _round_to_nearest(ranges: Sequence[RoundedRange]) -> None:
    for found in ranges:
        found.destination.copy_(found.source)


def load_after_prediction(world: World, engine: dict[str, Any]) -> dict[str, Any]:
    """Embeddings of weights that are loaded after the engine has predicted with others, and after a training step."""
    request = make_request(world, engine)
    built = make_engine(request, seed=1)
    before = _embeddings(built)
    built.load_parameters(FreshWeights(request.parameters, 2))
    after_prediction = _embeddings(built)
    run_loop(built, request, 1)
    built.load_parameters(FreshWeights(request.parameters, 2))
    after_training = _embeddings(built)
    built.destroy()
    fresh = make_engine(request, seed=2)
    expected = _embeddings(fresh)
    fresh.destroy()
    return {
        "changed": float(np.abs(before - expected).max()),
        "after_prediction": float(np.abs(after_prediction - expected).max()),
        "after_training": float(np.abs(after_training - expected).max()),
    }


def classes(world: World, engine: dict[str, Any], budget: int) -> list[int]:
    """The predicted class of every example of the classification task."""
    request = make_request(world, engine)
    built = make_engine(request)
    found = predict(built, TASKS["pairs"], make_data("pairs"), budget, padded=False)
    built.destroy()
    return [int(number) for number in found]


def predictions(world: World, engine: dict[str, Any], budget: int) -> dict[str, Any]:
    """What is predicted for every example of every format that has a head."""
    request = make_request(world, engine, ALL_FORMATS, None, ALL_HEADS)
    built = make_engine(request)
    found = {
        name: predict(built, spec, make_data(name), budget, padded=False).tolist()
        for name, spec in TASKS.items()
        if name != "text"
    }
    built.destroy()
    return found


def build_refused(world: World, engine: dict[str, Any]) -> str:
    """The error that an engine's options get."""
    try:
        make_engine(make_request(world, engine)).destroy()
    except UserError as error:
        return str(error)
    return ""


def _embeddings(engine: Any) -> np.ndarray:
    return predict(engine, TASKS["pairs"], make_data("pairs"), 64, padded=False, mode="embedding", layers=[1])[:, 0]


ACTIONS = {
    function.__name__: function for function in (train, load_after_prediction, classes, predictions, build_refused)
}


if __name__ == "__main__":
    run_actions(ACTIONS)

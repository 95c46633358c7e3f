"""Does named actions one after another in one process group, because starting a process costs more than most of them.

Each action is an object with 'do' (a function below) and its arguments; the answer has what it returned under its name.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from small_run import FAMILIES, TASKS, digests, make_data, make_engine, make_plan, make_request, run_loop, run_worker

from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.training_state import load_weights, save_weights
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
    save: str = "",
    family: str = "",
) -> dict[str, Any]:
    """Losses, gradient norms and weights of a run; the weights are saved when a folder is given."""
    request = make_request(world, engine, phase, make_plan(FAMILIES[family]) if family else None)
    built = make_engine(request)
    initial = digests(built, request)
    rows = run_loop(built, request, steps, lopsided)
    final = digests(built, request)
    if save:
        save_weights(built, request.parameters, Path(save), {"world_size": world.size})
    built.destroy()
    return {
        "losses": [row["loss"] for row in rows],
        "norms": [row["grad_norm"] for row in rows],
        "tasks": [row["task"] for row in rows],
        "initial": initial,
        "final": final,
    }


def load(world: World, engine: dict[str, Any], folder: str) -> dict[str, Any]:
    """Weights after loading a checkpoint into an engine that held others, and a loss computed with them."""
    request = make_request(world, engine)
    built = make_engine(request, seed=99)
    reader = CheckpointReader(Path(folder))
    load_weights(built, reader, request.parameters)
    found = digests(built, request)
    stored = {f"param/{name}": reader.manifest.tensors[f"param/{name}"].crc32 for name in request.parameters}
    losses = [row["loss"] for row in run_loop(built, request, 1)]
    built.destroy()
    return {"digests": found, "stored": stored, "losses": losses}


def load_refused(world: World, engine: dict[str, Any], folder: str) -> str:
    """The error that a damaged checkpoint gets."""
    request = make_request(world, engine)
    built = make_engine(request)
    try:
        load_weights(built, CheckpointReader(Path(folder)), request.parameters)
    except UserError as error:
        return str(error)
    finally:
        built.destroy()
    return ""


def save_refused(world: World, engine: dict[str, Any], folder: str, failing_rank: int = -1) -> str:
    """The error of a checkpoint that cannot be written; with `failing_rank`, that rank alone finds its disk full."""
    from xlt_scale.checkpoint import writer

    request = make_request(world, engine)
    built = make_engine(request)
    write = writer._write_ranges

    def full_disk(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    if world.rank == failing_rank:
        writer._write_ranges = full_disk
    try:
        save_weights(built, request.parameters, Path(folder), {})
    except UserError as error:
        return str(error)
    finally:
        writer._write_ranges = write
        built.destroy()
    return ""


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


def build_refused(world: World, engine: dict[str, Any]) -> str:
    """The error that an engine's options get."""
    try:
        make_engine(make_request(world, engine)).destroy()
    except UserError as error:
        return str(error)
    return ""


def _embeddings(engine: Any) -> np.ndarray:
    return predict(engine, TASKS["pairs"], make_data("pairs"), 64, padded=False, mode="embedding", layer=1)


ACTIONS = {
    function.__name__: function
    for function in (train, load, load_refused, save_refused, load_after_prediction, classes, build_refused)
}


def work(world: World, job: dict[str, dict[str, Any]]) -> dict[str, Any]:
    answers = {}
    for name, action in job.items():
        arguments = dict(action)
        started = time.perf_counter()
        answers[name] = ACTIONS[arguments.pop("do")](world, **arguments)
        print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)
    return answers


if __name__ == "__main__":
    run_worker(work)

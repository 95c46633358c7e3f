"""Trains, saves and loads under hierarchical and hybrid sharding, one named action after another.

Each action is an object with 'do' (a function below, or of the other workers) and its arguments.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import actions
import checkpoint_actions
from checkpoint_actions import MORE, STEPS
from small_run import TASKS, make_data, make_engine, make_request, run_actions, run_loop

from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.training_state import StagedState, load_training_state
from xlt_scale.engines.interface import Engine
from xlt_scale.engines.world import World
from xlt_scale.evaluation.predict import predict


def train_and_save(
    world: World,
    engine: dict[str, Any],
    folder: str,
    phase: Mapping[str, Any] | None = None,
    evaluate_every: int = 0,
) -> dict[str, Any]:
    """A run whose state is saved on the way: its losses, the state as it was saved, what it predicted just then, and
    beside that what its second copies took and what it had logged at the start.
    """
    lines = _Lines()
    logging.getLogger("xlt_scale").addHandler(lines)
    logging.getLogger("xlt_scale").setLevel(logging.INFO)
    request = make_request(world, engine, dict(phase or {}))
    built = make_engine(request)
    logging.getLogger("xlt_scale").removeHandler(lines)
    losses: list[float] = []
    found: dict[str, Any] = {}
    for done in range(STEPS + MORE):
        losses += [row["loss"] for row in run_loop(built, request, done + 1, start=done)]
        if evaluate_every and done % evaluate_every == 0:
            _predict(built)
        if done + 1 == STEPS:
            found["checksums"] = checkpoint_actions._checksums(built, request)
            StagedState(built, request.parameters, copy=False).write(world, Path(folder), {"step": STEPS})
            found["predicted"] = _predict(built)
            second_copy = _second_copy(built)
    built.destroy()
    return {"run": found | {"losses": losses}, "second_copy": second_copy, "lines": lines.lines}


def load_after_evaluation(
    world: World, engine: dict[str, Any], folder: str, phase: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Load into an engine that was built with other weights, has trained and then predicted: what it predicts next, and
    the losses of the steps after it, and the state as it was stored and as it has arrived.
    """
    request = make_request(world, engine, dict(phase or {}))
    built = make_engine(request, seed=99)
    run_loop(built, request, 1)
    _predict(built)
    reader = CheckpointReader(Path(folder))
    load_training_state(built, reader, request.parameters)
    checksums = checkpoint_actions._checksums(built, request)
    predicted = _predict(built)
    rows = run_loop(built, request, STEPS + MORE, start=STEPS)
    built.destroy()
    stored = {key: tensor.crc32 for key, tensor in reader.manifest.tensors.items()}
    losses = [row["loss"] for row in rows]
    return {"predicted": predicted, "losses": losses, "checksums": checksums, "stored": stored}


def _second_copy(engine: Any) -> float:
    """Elements that ZeRO-3 holds beside its own partition, relative to the model's; 0 under FSDP2."""
    parameters = list(engine._parameters.values())
    copies = [getattr(parameter, "ds_secondary_tensor", None) for parameter in parameters]
    whole = sum(getattr(parameter, "ds_numel", 1) for parameter in parameters)
    return sum(copy.numel() for copy in copies if copy is not None) / whole


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _predict(engine: Engine) -> list[float]:
    found = predict(engine, TASKS["pairs"], make_data("pairs"), 64, padded=False, mode="embedding", layers=[1])
    return [float(value) for value in found.flatten()]


OWN = (train_and_save, load_after_evaluation)
ACTIONS = actions.ACTIONS | checkpoint_actions.ACTIONS | {function.__name__: function for function in OWN}


if __name__ == "__main__":
    run_actions(ACTIONS)

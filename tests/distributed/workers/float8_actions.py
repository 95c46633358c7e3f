"""Trains with float8 products, and with the loss over a large vocabulary in slices. Named actions as in actions.py."""

from typing import Any

import actions
import torch
from small_run import ARCHITECTURE, make_engine, make_plan, make_request, run_actions, run_loop

from xlt_scale.engines.world import World
from xlt_scale.modeling import vocabulary_loss

# Every linear layer of the encoder has sides that are multiples of 16.
ALIGNED = ARCHITECTURE | {"hidden_size": 32, "intermediate_size": 64}


def train_in_slices(world: World, engine: dict[str, Any], steps: int) -> dict[str, Any]:
    """Losses and norms of a run whose vocabulary loss sees 128 words at a time; and how often it did."""
    limit, chunked = vocabulary_loss.CHUNK_ELEMENTS, vocabulary_loss.chunked_cross_entropy
    calls = []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(len(arguments[0]))
        return chunked(*arguments)

    vocabulary_loss.CHUNK_ELEMENTS, vocabulary_loss.chunked_cross_entropy = 1, counted
    try:
        found = _train(world, engine, steps, ARCHITECTURE | {"vocab_size": 300})
    finally:
        vocabulary_loss.CHUNK_ELEMENTS, vocabulary_loss.chunked_cross_entropy = limit, chunked
    return found | {"calls": sum(number > 0 for number in calls)}


def train_at_once(world: World, engine: dict[str, Any], steps: int) -> dict[str, Any]:
    return _train(world, engine, steps, ARCHITECTURE | {"vocab_size": 300})


def train_in_float8(world: World, engine: dict[str, Any], steps: int) -> dict[str, Any]:
    return _train(world, engine, steps, ALIGNED)


def _train(world: World, engine: dict[str, Any], steps: int, architecture: dict[str, Any]) -> dict[str, Any]:
    request = make_request(world, engine, plan=make_plan(architecture))
    built = make_engine(request)
    names = [key for key, _ in built.read_states(False)]
    rows = run_loop(built, request, steps)
    built.destroy()
    return {"losses": [row["loss"] for row in rows], "norms": [row["grad_norm"] for row in rows], "names": names}


OWN = (train_in_slices, train_at_once, train_in_float8)
ACTIONS = actions.ACTIONS | {function.__name__: function for function in OWN}


if __name__ == "__main__":
    run_actions(ACTIONS)

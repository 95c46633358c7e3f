"""What whole copies of a model do: predictions, loading from a checkpoint, memory. Named actions as in actions.py."""

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_run import (
    ALL_FORMATS,
    ALL_HEADS,
    FAMILIES,
    TASKS,
    digests,
    make_data,
    make_engine,
    make_plan,
    make_request,
    run_actions,
)

from xlt_scale.checkpoint.training_state import load_weights, open_together, save_weights
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.evaluation.predict import predict


def predictions(world: World, engine: dict[str, Any], budget: int, family: str = "") -> dict[str, Any]:
    """What a model that is only scored predicts in every format, how often each rank ran it, and by which engine."""
    built = make_engine(_request(world, engine, family))
    counter = _Counter(built)
    padded = bool(family) and not make_plan(FAMILIES[family]).unpadded
    found: dict[str, Any] = {
        name: predict(built, spec, make_data(name), budget, padded=padded).tolist()
        for name, spec in TASKS.items()
        if name != "text"
    }
    vectors = predict(built, TASKS["pairs"], make_data("pairs"), budget, padded=padded, mode="embedding", layers=[1])
    kind = type(built).__name__
    built.destroy()
    return {"found": found | {"vectors": vectors[:, 0].tolist()}, "passes": counter.number, "engine": kind}


def arrival(world: World, precision: str, folder: str) -> dict[str, Any]:
    """Whether weights of a checkpoint arrive in each rank's copy, and what is said of a damaged checkpoint."""
    trained = make_request(world, {"name": "fsdp2"}, ALL_FORMATS, None, ALL_HEADS)
    writer = make_engine(trained, seed=3)
    expected = digests(writer, trained)
    save_weights(writer, trained.parameters, Path(folder), {})
    writer.destroy()
    request = _request(world, {"name": "fsdp2", "precision": precision, "scoring": "replicated"})
    built = build_engine(request)
    _load(world, built, request, Path(folder))
    checksums = [float(values.double().sum()) for _, values in built.read_states(False)]
    arrived = digests(built, request) == expected
    # The second load begins behind forward passes, as nothing forbids.
    predict(built, TASKS["pairs"], make_data("pairs"), 64, padded=False)
    world.share(lambda: _damage(Path(folder)))
    message = ""
    try:
        _load(world, built, request, Path(folder))
    except UserError as error:
        message = str(error)
    built.destroy()
    return {"arrived": arrived, "sums": checksums, "message": message}


def memory(world: World, precision: str) -> dict[str, int]:
    """Bytes of the model, and of all tensors that building it, filling it and predicting with it have left."""
    request = _request(world, {"name": "fsdp2", "precision": precision, "scoring": "replicated"})
    before = _bytes_of_tensors()
    built = make_engine(request)
    predict(built, TASKS["pairs"], make_data("pairs"), 64, padded=False)
    held = _bytes_of_tensors() - before
    width = 2 if precision == "bf16" else 4
    built.destroy()
    return {"model": width * sum(spec.numel for spec in request.parameters.values()), "held": held}


def spread_refused(world: World) -> str:
    """What several processes are told that are to spread one model."""
    try:
        build_engine(_request(world, {"name": "fsdp2", "scoring": "spread"}))
    except UserError as error:
        return str(error)
    return ""


def _request(world: World, engine: dict[str, Any], family: str = "") -> EngineRequest:
    plan = make_plan(FAMILIES[family]) if family else None
    return replace(make_request(world, engine, ALL_FORMATS, plan, ALL_HEADS), only_scores=True)


def _load(world: World, engine: Engine, request: EngineRequest, folder: Path) -> None:
    reader = open_together(world, folder)
    try:
        load_weights(engine, reader, request.parameters)
    finally:
        reader.close()


def _damage(folder: Path) -> None:
    path = next(iter(sorted(folder.glob("rank-*"))))
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x10
    path.write_bytes(content)


def _bytes_of_tensors() -> int:
    gc.collect()
    tensors = [item for item in gc.get_objects() if isinstance(item, torch.Tensor) and not item.is_meta]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


class _Counter:
    """Counts the forward passes of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.number = 0
        self._forward = engine.forward
        engine.forward = self  # type: ignore[method-assign, assignment]

    def __call__(self, batch: MicroBatch, mode: str = "loss", layers: Sequence[int] = ()) -> torch.Tensor:
        self.number += 1
        return self._forward(batch, mode, layers)


ACTIONS = {function.__name__: function for function in (predictions, arrival, memory, spread_refused)}


if __name__ == "__main__":
    run_actions(ACTIONS)

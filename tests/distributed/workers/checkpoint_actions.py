"""Saves and loads training states in one process group, one named action after another.

Each action is an object with 'do' (a function below) and its arguments; the answer has what it returned under its name.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from small_run import ARCHITECTURE, FAMILIES, digests, make_engine, make_plan, make_request, run_actions, run_loop

from xlt_scale.checkpoint import writer
from xlt_scale.checkpoint.background import BackgroundWriter
from xlt_scale.checkpoint.huggingface_export import ExportOptions, export_checkpoint
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.training_state import StagedState, load_training_state, save_weights, state_checksums
from xlt_scale.engines.interface import MOMENTS, Engine, EngineRequest
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.weights import PretrainedWeights

STEPS, MORE = 5, 3
DIRTY = {"learning_rate": 123.0, "weight_decay": 7.0, "betas": [0.5, 0.6], "epsilon": 0.1}


def save(
    world: World,
    engine: dict[str, Any],
    folder: str,
    phase: Mapping[str, Any] | None = None,
    asynchronous: bool = False,
    architecture: Mapping[str, Any] = MappingProxyType(ARCHITECTURE),
) -> dict[str, Any]:
    """Train, save the state, and train on: the state as it was saved, and the losses of the steps after it."""
    request = _request(world, engine, phase, architecture=architecture)
    built = make_engine(request)
    run_loop(built, request, STEPS)
    checksums = _checksums(built, request)
    facts = {"step": STEPS, "world_size": world.size}
    if asynchronous:
        background = BackgroundWriter(world)
        staged = StagedState(built, request.parameters, copy=True)

        def write(group: World) -> None:
            time.sleep(0.3)  # so that training is well under way
            staged.write(group, Path(folder), facts)

        background.start(write)
        rows = run_loop(built, request, STEPS + MORE, start=STEPS)
        outcome = background.wait()
        assert outcome is not None and not outcome.problem, outcome
    else:
        StagedState(built, request.parameters, copy=False).write(world, Path(folder), facts)
        rows = run_loop(built, request, STEPS + MORE, start=STEPS)
    built.destroy()
    return {"checksums": checksums, "losses": [row["loss"] for row in rows]}


def load(
    world: World,
    engine: dict[str, Any],
    folder: str,
    phase: Mapping[str, Any] | None = None,
    architecture: Mapping[str, Any] = MappingProxyType(ARCHITECTURE),
) -> dict[str, Any]:
    """Load into an engine that was built with other weights and hyper-parameters and has trained; then train on."""
    request = _request(world, engine, {**(phase or {}), **DIRTY}, architecture=architecture)
    built = make_engine(request, seed=99)
    run_loop(built, request, 1)
    reader = CheckpointReader(Path(folder))
    load_training_state(built, reader, request.parameters)
    settings, num_steps, checksums = built.group_settings(), built.num_steps, _checksums(built, request)
    # The loop asks for the learning rate that the phase has, and that is the dirty one.
    clean = _request(world, engine, phase, architecture=architecture)
    rows = run_loop(built, clean, STEPS + MORE, start=STEPS)
    built.destroy()
    stored = {key: tensor.crc32 for key, tensor in reader.manifest.tensors.items()}
    return {
        "checksums": checksums,
        "stored": stored,
        "settings": settings,
        "num_steps": num_steps,
        "losses": [row["loss"] for row in rows],
    }


def interrupt(
    world: World, engine: dict[str, Any], folder: str, phase: Mapping[str, Any] | None = None, dropout: float = 0.1
) -> dict[str, Any]:
    """A run, the same once more, and the same interrupted and resumed: losses and states at the end of each."""
    request = _request(world, engine, phase, dropout)
    found: dict[str, Any] = {}
    for name in ("undisturbed", "again"):
        built = make_engine(request)
        losses = [row["loss"] for row in run_loop(built, request, STEPS + MORE)]
        found[name] = {"losses": losses[STEPS:], "checksums": _checksums(built, request)}
        built.destroy()
    built = make_engine(request)
    run_loop(built, request, STEPS)
    StagedState(built, request.parameters, copy=False).write(world, Path(folder), {})
    built.destroy()
    built = make_engine(request, seed=99)
    load_training_state(built, CheckpointReader(Path(folder)), request.parameters)
    losses = [row["loss"] for row in run_loop(built, request, STEPS + MORE, start=STEPS)]
    found["resumed"] = {"losses": losses, "checksums": _checksums(built, request)}
    built.destroy()
    return found


def load_refused(world: World, engine: dict[str, Any], folder: str) -> str:
    """The error that a damaged checkpoint gets."""
    request = _request(world, engine)
    built = make_engine(request)
    try:
        load_training_state(built, CheckpointReader(Path(folder)), request.parameters)
    except UserError as error:
        return str(error)
    finally:
        built.destroy()
    return ""


def save_refused(world: World, engine: dict[str, Any], folder: str, failing_rank: int = -1) -> str:
    """The error of a checkpoint that cannot be written; with `failing_rank`, that rank alone finds its disk full."""
    request = _request(world, engine)
    built = make_engine(request)
    write = writer._write_ranges

    def full_disk(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    if world.rank == failing_rank:
        writer._write_ranges = full_disk
    try:
        StagedState(built, request.parameters, copy=False).write(world, Path(folder), {})
    except UserError as error:
        return str(error)
    finally:
        writer._write_ranges = write
        built.destroy()
    return ""


def swapped(
    world: World, engine: dict[str, Any], folder: str, swap: str, architecture: Mapping[str, Any]
) -> dict[str, Any]:
    """`save` with states on NVMe, and the sizes of the swap files while the engine lived."""
    request = _request(world, engine, architecture=architecture)
    built = make_engine(request)
    run_loop(built, request, 1)
    world.barrier()
    files = [path for path in Path(swap).rglob("*") if path.is_file()]
    sizes = {str(path.relative_to(swap)): path.stat().st_size for path in files}
    world.barrier()  # a rank that has looked may remove its files
    built.destroy()
    return save(world, engine, folder, architecture=architecture) | {"swap_files": sizes}


def round_trip(world: World, engine: dict[str, Any], folder: str, family: str) -> dict[str, Any]:
    """Out to Hugging Face and in from there, under one engine: the weights before and after."""
    plan, heads = make_plan(FAMILIES[family]), [HeadSpec("mlm", "masked_language_modeling")]
    request = make_request(world, engine, {"mixture": {"text": 1.0}}, plan, heads)
    built = make_engine(request)
    run_loop(built, request, 2)
    before = digests(built, request)
    facts = {"model": plan.config.to_dict(), "heads": [vars(head) for head in heads]}
    save_weights(built, request.parameters, Path(folder), facts)
    built.destroy()
    published = Path(f"{folder}-published")
    if world.is_main:
        export_checkpoint(Path(folder), published, ExportOptions(max_shard_size="50KB"), lambda line: None)
    world.barrier()
    built = make_engine(request, seed=99)
    built.load_parameters(PretrainedWeights(published, request.parameters, plan.prefix))
    after = digests(built, request)
    built.destroy()
    return {"before": before, "after": after, "files": sorted(path.name for path in published.iterdir())}


def _request(
    world: World,
    engine: dict[str, Any],
    phase: Mapping[str, Any] | None = None,
    dropout: float = 0.0,
    architecture: Mapping[str, Any] = MappingProxyType(ARCHITECTURE),
) -> EngineRequest:
    return make_request(world, engine, dict(phase or {}), make_plan(dict(architecture), dropout))


def _checksums(engine: Engine, request: EngineRequest) -> dict[str, int]:
    """Of every tensor of the state."""
    keys = [
        f"{kind}/{name}"
        for name in request.parameters
        for kind in ("param", *(MOMENTS if engine.is_trained(name) else ()))
    ]
    return state_checksums(engine, keys)


ACTIONS = {
    function.__name__: function for function in (round_trip, save, load, interrupt, load_refused, save_refused, swapped)
}


if __name__ == "__main__":
    run_actions(ACTIONS)

"""Trains every task format with one family of models under both engines, and crosses their checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_run import (
    ALL_FORMATS,
    ALL_HEADS,
    FAMILIES,
    VOCABULARY,
    make_engine,
    make_plan,
    make_request,
    run_actions,
    run_loop,
)

from xlt_scale.checkpoint.huggingface_export import ExportOptions, export_checkpoint
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.training_state import StagedState, load_training_state
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.engines.world import World
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.sizes import find_size

# A size of each ladder: its published configuration, with the dimensions of the small one.
PUBLISHED = {
    "eurobert": "eurobert-210m",
    "modernbert": "mmbert-small",
    "deberta-v2": "mdeberta-base",
    "rembert": "rembert",
    "mt5": "mt5-small",
    "umt5": "umt5-small",
    "t5gemma": "t5gemma-2b",
    "qwen3": "qwen3-8b",
    "gemma3_text": "gemma3-1b",
}
OTHER = {"zero3": "fsdp2", "fsdp2": "zero3"}
LENGTHS = [13, 5, 9]
RESUMED_STEPS = 5
BODY_STEPS = 3


def cross(world: World, family: str, folder: str, saved_at: int, steps: int, **options: Any) -> dict[str, Any]:
    """Under each engine: a run, its state saved on the way and taken on by the other engine, its encoder exported."""
    found: dict[str, Any] = {}
    for name in OTHER:
        place = Path(folder) / f"{family}-{name}"
        request, other = (_request(world, family, engine, options) for engine in (name, OTHER[name]))
        built = make_engine(request)
        rows = run_loop(built, request, saved_at)
        facts = {"model": request.plan.config.to_dict(), "heads": [vars(head) for head in request.heads]}
        StagedState(built, request.parameters, copy=False).write(world, place, facts)
        means = _means(built, request)
        rows += run_loop(built, request, steps, start=saved_at)
        built.destroy()
        built = make_engine(other, seed=99)
        load_training_state(built, CheckpointReader(place), other.parameters)
        resumed = run_loop(built, other, saved_at + RESUMED_STEPS, start=saved_at)
        built.destroy()
        if world.is_main:
            export_checkpoint(place, Path(f"{place}-exported"), ExportOptions(head="none"), lambda line: None)
        found[name] = {
            "losses": [row["loss"] for row in rows],
            "norms": [row["grad_norm"] for row in rows],
            "tasks": [row["task"] for row in rows],
            "resumed": [row["loss"] for row in resumed],
            "means": means,
        }
    return found


def bodies(world: World, family: str, engine: str, variants: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """Losses and gradient norms of some steps, by what is asked of the layers' bodies or of the phase."""
    found = {}
    for name, options in variants.items():
        built = make_engine(request := _request(world, family, engine, options))
        rows = run_loop(built, request, BODY_STEPS)
        found[name] = [row[kind] for row in rows for kind in ("loss", "grad_norm")]
        built.destroy()
    return found


def buffers(world: World, family: str) -> dict[str, float]:
    """How far the buffers of a bf16 model under ZeRO-3 are from those that the family's class makes."""
    request = _request(world, family, "zero3", {"precision": "bf16"})
    built = make_engine(request)
    exact = dict(HeadedEncoder(request.plan, request.heads).named_buffers())
    found = dict(built._engine.module.named_buffers())
    built.destroy()
    return {name: (found[name].double() - values.double()).abs().max().item() for name, values in exact.items()}


def example_batch() -> MicroBatch:
    """Some sequences, the same at every call."""
    tokens = torch.randint(4, VOCABULARY, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    return MicroBatch(
        head="pairs",
        kind="classification",
        input_ids=tokens,
        positions=torch.cat([torch.arange(length) for length in LENGTHS]),
        lengths=LENGTHS,
    )


def _request(world: World, family: str, engine: str, options: dict[str, Any]) -> EngineRequest:
    plan = make_plan(_shrunken(family))
    heads = [replace(head, pooling=plan.pooling) for head in ALL_HEADS]
    phase = ALL_FORMATS | options.get("phase", {})
    engine_options = {name: value for name, value in options.items() if name != "phase"}
    settings = {"name": engine, "max_tokens_per_micro_batch": 64} | engine_options
    request = make_request(world, settings, phase, plan, heads)
    return replace(request, parameters=describe_parameters(plan, heads, request.phase.adapter))


def _shrunken(family: str) -> dict[str, Any]:
    published, small = find_size(PUBLISHED[family]).architecture(), FAMILIES[family]
    inner = {part: published[part] | small[part] for part in ("encoder", "decoder") if part in published}
    return published | small | inner


def _means(engine: Engine, request: EngineRequest) -> list[list[float]]:
    """Each sequence's mean hidden state."""
    with torch.no_grad():
        return engine.forward(example_batch(), "embedding", [request.plan.num_layers])[:, 0].tolist()


if __name__ == "__main__":
    run_actions({"cross": cross, "bodies": bodies, "buffers": buffers})

"""Small engines and training states on disk, and several ranks in one process, for the tests of checkpoints."""

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from small_models import MLM, PAIRS, classification_batch, plan_for
from torch import Tensor

from xlt_scale.checkpoint.manifest import COMPLETE, MANIFEST, complete_marker
from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.config import EngineOptions, PhaseOptions
from xlt_scale.engines.fsdp2 import Fsdp2Engine
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.engines.world import World
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import FreshWeights

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU)
HEADS = [MLM, PAIRS]
PARAMETERS = describe_parameters(plan_for("xlm-roberta"), HEADS)
EMBEDDINGS = "encoder.embeddings.word_embeddings.weight"
FILE = "rank-00000.safetensors"
FACTS: dict[str, Any] = {"phase": "target", "step": 7}


def make_engine(seed: int, **options: Any) -> Engine:
    """Fresh weights, no step taken."""
    phase = PhaseOptions(name="target", task="pairs", steps=1, **options)
    request = EngineRequest(
        ALONE, plan_for("xlm-roberta"), HEADS, PARAMETERS, EngineOptions(name="fsdp2"), phase, "fp32"
    )
    engine = Fsdp2Engine(request)
    engine.load_parameters(FreshWeights(PARAMETERS, seed))
    return engine


def take_step(engine: Engine, learning_rate: float = 0.01) -> None:
    engine.backward(engine.forward(classification_batch([9, 5, 12])), is_last=True)
    engine.step(learning_rate)


def states_of(engine: Engine) -> dict[str, Tensor]:
    """A copy of masters and moments."""
    return {key: values.clone() for key, values in engine.read_states(True)}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@dataclass(frozen=True)
class ThreadWorld(World):
    """A rank that is a thread of this process."""

    items: list[Any] = field(default_factory=list)
    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def gather(self, item: object) -> list[object]:
        self.items[self.rank] = item
        self.meeting.wait()
        found = list(self.items)
        self.meeting.wait()
        return found


def on_ranks(size: int, action: Callable[[World], Any]) -> list[Any]:
    """What an action gives, or raises, on each of several ranks."""

    def attempt(rank: int) -> Any:
        try:
            return action(ThreadWorld(rank, size, rank, CPU, items=items, meeting=meeting))
        except Exception as error:
            return error

    items: list[Any] = [None] * size
    meeting = threading.Barrier(size, timeout=30)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(attempt, range(size)))


def save_tensors(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] = FACTS, size: int = 1) -> None:
    """Save tensors, each rank an equal part of each."""

    def save(world: World) -> None:
        ranges = {}
        for key, tensor in tensors.items():
            piece = -(-tensor.numel() // size)
            ranges[key] = (min(world.rank * piece, tensor.numel()), min((world.rank + 1) * piece, tensor.numel()))
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        values = ((key, tensors[key].reshape(-1)[low:high]) for key, (low, high) in ranges.items() if high > low)
        write_checkpoint(world, folder, shapes, ranges, values, facts)

    for answer in on_ranks(size, save):
        if isinstance(answer, Exception):
            raise answer


def random_tensors(seed: int = 0, moments: bool = True) -> dict[str, Tensor]:
    """A training state of a matrix and a bias."""
    random = torch.Generator().manual_seed(seed)
    kinds = ("param", "exp_avg", "exp_avg_sq") if moments else ("param",)
    shapes = {"encoder.weight": (30, 7), "heads.pairs.bias": (5,)}
    return {f"{kind}/{name}": torch.randn(shape, generator=random) for kind in kinds for name, shape in shapes.items()}


GROUP = {"lr": 1e-4, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-8}


def facts_of(step: int, **others: Any) -> dict[str, Any]:
    """What the manifest of a training state says."""
    facts: dict[str, Any] = {
        "phase": "target",
        "hash": "0123456789abcdef",
        "step": step,
        "num_steps": 40,
        "model": {"model_type": "xlm-roberta", "hidden_size": 7},
        "heads": [{"name": "pairs"}],
        "engine": "zero3",
        "world_size": 2,
        "precision": "bf16",
        "optimizer": {
            "name": "adamw",
            "num_steps": step,
            "groups": {"decay": GROUP, "no_decay": GROUP | {"weight_decay": 0.0}},
        },
        "position": {"xnli": {"steps": step, "epoch": 0.5}},
        "progress": {"examples": 32 * step, "tokens": 12_345 * step, "seconds": 1.5 * step},
        "best": {"step": 20, "value": 71.5},
        "versions": {"torch": "2.11.0"},
        "git_revision": "abc123",
        "saved_at": f"2026-11-01T10:{step:02d}:00+00:00",
    }
    return facts | others


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest as a program would that wrote it so: COMPLETE fits."""
    table = json.loads((folder / MANIFEST).read_text())
    change(table)
    text = json.dumps(table)
    (folder / MANIFEST).write_text(text)
    (folder / COMPLETE).write_text(complete_marker(text))


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))

"""A short run of two phases, and what is looked at when it was interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import MICRO, rows

from xlt_scale.checkpoint.manifest import read_manifest
from xlt_scale.errors import UserError
from xlt_scale.training.setup import read_json

# The pre-training phase is a mixture, and ends within the first epoch of either task.
HEAD, PRETRAIN, _, TARGET, _ = Path(MICRO).read_text().split("[[phases]]\n")
RUN = f"{HEAD}[[phases]]\n{PRETRAIN}[[phases]]\n{TARGET}"
SHORT = (
    "logging.every=1",
    "checkpoints.every=3",
    "phases.pretrain.steps=18",
    "phases.target.steps=9",
    "phases.target.evaluation_examples=64",
    "phases.target.evaluate_languages=['qen']",
)
IN_PROCESS = (*SHORT, "engine.name=fsdp2", "logging.tensorboard=false")


def checkpoint(folder: Path, phase: str, step: int) -> Path:
    return folder / "phases" / phase / "checkpoints" / f"step-{step:08d}"


def checkpoints(folder: Path, phase: str = "pretrain") -> list[Path]:
    """Oldest first."""
    return sorted((folder / "phases" / phase / "checkpoints").glob("step-*"))


def weights(folder: Path, phase: str) -> dict[str, Any]:
    """Checksums of what a phase ended with."""
    tensors = read_manifest(folder / "phases" / phase / "result").tensors
    return {key: (tensor.shape, tensor.crc32) for key, tensor in tensors.items()}


def losses(folder: Path) -> dict[tuple[str, int], float]:
    found = {(row["phase"], row["step"]): row["loss"] for row in rows(folder)}
    assert len(found) == len(rows(folder)), "no step has two rows"
    return found


def assert_same_end(folder: Path, other: Path) -> None:
    """Weights, scores and the loss of every step are the same to the last bit."""
    assert losses(folder) == losses(other)
    for phase in ("pretrain", "target"):
        assert weights(folder, phase) == weights(other, phase)
    assert read_json(folder / "scores.json")["scores"] == read_json(other / "scores.json")["scores"]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its number and the time of its last change."""
    stats = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items() if not name.endswith(".lock")}


def refused(go: Callable[..., None], *arguments: object) -> str:
    """The one line that a run ends on; exit code 2 for a user."""
    with pytest.raises(UserError) as caught:
        go(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)

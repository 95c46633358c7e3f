"""What a start of training leaves behind on the disk and in its log, read without touching it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.manifest import COMPLETE, read_manifest
from xlt_scale.checkpoint.store import check_files, list_checkpoints, step_of
from xlt_scale.training.setup import read_json

PHASES = ("pretrain", "target")
_GOES_ON = re.compile(r"^phase (\S+): goes on after step (\d+) of", re.MULTILINE)
_TRAINS = re.compile(r"^phase (\S+): .*, \d+ steps of \d+ examples", re.MULTILINE)
_COMPARED = ("phase", "step", "loss", "grad_norm", "learning_rate", "examples", "tokens", "task", "dev_accuracy")


@dataclass(frozen=True)
class Left:
    """What the next start finds.

    Attributes:
        finished: phases whose result is there.
        phase: the first that is not finished; '' when all are.
        last_step: of that phase, by its rows of metrics.
        saved_step: of that phase's newest complete checkpoint; 0 without one.
    """

    finished: tuple[str, ...]
    phase: str
    last_step: int
    saved_step: int


def look(folder: Path) -> Left:
    """Read what a run's folder holds between two starts."""
    finished = tuple(name for name in PHASES if read_json(folder / "phases" / name / "phase.json"))
    phase = next((name for name in PHASES if name not in finished), "")
    steps = [row["step"] for row in _rows(folder) if row["phase"] == phase and "loss" in row]
    checkpoints = list_checkpoints(folder / "phases" / phase / "checkpoints")
    saved = [step_of(path) for path in checkpoints if (path / COMPLETE).is_file()]
    return Left(finished, phase, max(steps, default=0), max(saved, default=0))


def find_saves(folder: Path) -> set[Path]:
    """Folders that a save is writing into, or was when it was killed."""
    return set(folder.glob("phases/*/.*.unfinished")) | set(folder.glob("phases/*/checkpoints/.*.unfinished"))


def activity(folder: Path, log: str) -> str:
    """What a running start is at, beside saving."""
    for name in PHASES:
        phase = folder / "phases" / name
        if not (phase / "phase.json").exists():
            return "training" if name in _TRAINS.findall(log) else "start-up"
    return "scoring"


def resumed_steps(log: str) -> dict[str, int]:
    """The step after which each phase that a start has trained went on; 0 for those that it began."""
    return dict.fromkeys(_TRAINS.findall(log), 0) | {phase: int(step) for phase, step in _GOES_ON.findall(log)}


def fingerprint(folder: Path) -> dict[str, Any]:
    """Everything that a finished run must have in common with an undisturbed one, and what must not be left over."""
    weights = {}
    for name in PHASES:
        result = folder / "phases" / name / "result"
        manifest = read_manifest(result)
        check_files(result, manifest, read_all=True)
        weights[name] = {key: (tensor.shape, tensor.crc32) for key, tensor in manifest.tensors.items()}
    left_over = [*folder.glob("phases/*/.*"), *folder.glob("phases/*/checkpoints/*"), *folder.glob(".*.tmp")]
    left_over += folder.glob("phases/*/checkpoints/.*")
    return {
        "weights": weights,
        "scores": read_json(folder / "scores.json")["scores"],
        "rows": [{key: row.get(key) for key in _COMPARED} for row in _rows(folder) if "checkpoint" not in row],
        "left over": sorted(str(path.relative_to(folder)) for path in left_over),
    }


def _rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # torn by a kill
    return rows

"""What a run's folder shows of its phases' scores: every task by the last phase that was scored on it."""

from pathlib import Path
from typing import Any

from xlt_scale.config import RunOptions
from xlt_scale.evaluation.benchmarks import benchmark_totals
from xlt_scale.training.environment import write_json
from xlt_scale.training.setup import read_json

_LINKED = ("predictions", "labels")


def publish_scores(folder: Path, options: RunOptions) -> None:
    """Write the run's scores.json, and link the predictions and labels of each task. Called on rank 0.

    Raises:
        OSError: the folder cannot be written.
    """
    published: dict[str, Any] = {"scores": {}, "benchmarks": {}, "request": {}, "phases": {}}
    for phase in options.phases:
        found = read_json(folder / "phases" / phase.name / "scores.json") if phase.evaluate else {}
        for task, scores in found.get("scores", {}).items():
            published["scores"][task] = scores
            published["request"][task] = found.get("request", {}).get("tasks", {}).get(task)
            published["phases"][task] = phase.name
    if not published["scores"]:
        return
    published["benchmarks"] = benchmark_totals(published["scores"])
    if read_json(folder / "scores.json") != published:
        write_json(folder / "scores.json", published)
    for name in _LINKED:
        _link_tasks(folder, name, published["phases"])


def _link_tasks(folder: Path, name: str, phases: dict[str, str]) -> None:
    """A folder per task with a link to each file: programs that walk through folders often pass by linked ones."""
    place = folder / name
    if place.is_symlink():
        place.unlink()
    place.mkdir(exist_ok=True)
    for link in place.glob("*/*"):
        if link.is_symlink():
            link.unlink()
    for task, phase in phases.items():
        source = folder / "phases" / phase / name / task
        for path in sorted(source.iterdir()) if source.is_dir() else ():
            link = place / task / path.name
            link.parent.mkdir(exist_ok=True)
            if not link.exists():
                link.symlink_to(Path("..", "..", "phases", phase, name, task, path.name))

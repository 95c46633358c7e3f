"""A study of the micro world in seconds, run by a program as `xlt-scale study run` runs it."""

import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from runs import Finished, start

from xlt_scale.config_files import apply_setting
from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.jobs import Placement
from xlt_scale.scaling.records.collect import collect
from xlt_scale.scaling.running.executors.local import LocalExecutor
from xlt_scale.scaling.running.outcome import Outcome
from xlt_scale.scaling.running.runner import run_study
from xlt_scale.study_config import load_study

STUDY = """
name = "small"
question = "Does it run?"
seeds = { intermediate = [1, 2], target = [1] }

[run.model]
tokenizer = "micro"
max_length = 64

[run.engine]
name = "fsdp2"
max_tokens_per_micro_batch = 512

[[pretraining]]
mixture = { micro-mlm = 0.4, micro-tlm = 0.6 }
steps = 3
batch_size = 8
max_examples = 40

[intermediate]
steps = 3
batch_size = 8
max_examples = 40

[target]
batch_size = 8
max_examples = 40
evaluate_languages = ["qen", "qea"]

[[sizes]]
name = "micro-small"

[[sizes]]
name = "micro-large"

[[arms]]
name = "none"

[[arms]]
name = "nli"
phases = [{ task = "micro-nli" }]

[[targets]]
name = "valence"
phase = { task = "micro-valence", steps = 2 }
evaluate = ["micro-valence"]

[[targets]]
name = "retrieval"
phase = { evaluate_languages = ["qea"] }
evaluate = ["micro-retrieval"]
"""


def write_study(
    folder: Path, cache: Path, *settings: str, change: Callable[[dict[str, Any]], None] = lambda table: None
) -> Path:
    """A study file; its results go beside it."""
    table = tomllib.loads(STUDY)
    for setting in [f"output={folder / 'study'}", f"run.data.cache={cache}", *settings]:
        apply_setting(table, setting)
    change(table)
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def estimate(grid: StudyGrid, seconds: float) -> tuple[Mapping[str, Placement], Mapping[str, float]]:
    """Devices as the sizes say, and so many seconds for each phase: many short ones share a job."""
    devices = {size.name: size.devices or 1 for size in grid.study.sizes}
    placements = {name: Placement(count, 1, 10**6, 10**6) for name, count in devices.items()}
    return placements, dict.fromkeys(grid.phases, seconds)


def go(path: Path, seconds: float) -> Outcome:
    """Run a study with jobs of launch/train.py."""
    study = load_study(path)
    return run_study(
        study,
        LocalExecutor([], 2),
        redesign=lambda: design(study),
        estimate=lambda grid: estimate(grid, seconds),
        collect=collect,
        say=lambda line: print(line, flush=True),
    )


def run_small_study(path: Path, seconds: float = 1.0) -> Finished:
    """The same in a process of its own, two jobs at a time."""
    return start([sys.executable, str(Path(__file__).resolve()), str(path), str(seconds)], limit=280)


def stamps(paths: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """Number and time of the last change of files: they change when a file is written again."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


if __name__ == "__main__":
    sys.exit(0 if go(Path(sys.argv[1]), float(sys.argv[2])).is_complete else 1)

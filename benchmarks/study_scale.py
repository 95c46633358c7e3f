"""How long a study of twenty thousand records takes to look at: index, status, analysis tables, item values, export.

The records are made up, and written as a study's own collector writes them: 4 sizes x 20 arms x 10 targets x 25 pairs
of seeds, each scored on 600 items in 8 languages, and the encoders above them. Times are of one process, files in the
kernel's cache.

    python benchmarks/study_scale.py --folder /tmp/study-scale --markdown benchmarks/study_scale_cpu_2026-11-21.md
"""

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from xlt_scale.evaluation.scorers import SCORERS
from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid, design
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.records.outcome_store import headline_arrays, item_values, packed_outcomes, write_outcome_file
from xlt_scale.scaling.records.recording import Recorder
from xlt_scale.scaling.records.records import write_record
from xlt_scale.study_config import StudyOptions
from xlt_scale.tasks.catalogue import load_catalogue

LANGUAGES = ("en", "de", "es", "hi", "ru", "sw", "tr", "zh")
SIZES = ("xlmr-base", "xlmr-large", "xlmr-xl", "xlmr-xxl")
TARGETS = {
    "xnli": "mnli",
    "pawsx": "pawsx",
    "xcopa": "siqa",
    "panx": "panx",
    "udpos": "udpos",
    "xquad": "squad",
    "mlqa": "squad-v2",
    "tydiqa": "tydiqa",
    "lareqa": "squad-retrieval",
    "americasnli": "snli",
}
TASKS = (
    "mnli",
    "anli",
    "snli",
    "qqp",
    "imdb",
    "squad",
    "squad-v2",
    "hellaswag",
    "cosmosqa",
    "commonsenseqa",
    "siqa",
    "ccg",
)
_POINTS = 25
_FOLDER = "/tmp/study-scale"

Result = TypeVar("Result")
Measured = tuple[str, float, float, str]
"""What is done, seconds by the clock, seconds of processor time, what came out."""


@dataclass(frozen=True)
class Scale:
    """How much is made up. The first arm is the baseline."""

    sizes: int = 4
    arms: int = 20
    targets: int = 10
    intermediate_seeds: int = 5
    target_seeds: int = 5
    languages: int = 8
    items: int = 600


def make_study(folder: Path, scale: Scale = Scale(), name: str = "scale") -> tuple[StudyFolder, StudyGrid]:
    """A study of made-up records in a fresh folder: gains that differ by arm and shrink with size, seeds and items with
    effects of their own.
    """
    study = _study(folder, scale, name)
    grid = design(study)
    place = StudyFolder.of(study)
    place.records.mkdir(parents=True)
    recorder, draw = Recorder(place, grid), np.random.default_rng(7)
    makers = _Outcomes(scale, draw)
    for phase in grid.phases.values():
        _write(place, recorder, phase, makers, draw)
    return place, grid


def _study(folder: Path, scale: Scale, name: str) -> StudyOptions:
    arms: list[dict[str, Any]] = [{"name": "none"}]
    for number in range(scale.arms - 1):
        first, second = TASKS[number % len(TASKS)], TASKS[(number + 1 + number // len(TASKS)) % len(TASKS)]
        phases = [{"task": first}] if number < len(TASKS) else [{"mixture": {first: 1.0, second: 1.0}}]
        arms.append({"name": f"arm-{number + 1}", "phases": phases})
    targets = [
        {"name": task, "phase": {"task": trained}, "evaluate": [task]}
        for task, trained in list(TARGETS.items())[: scale.targets]
    ]
    return StudyOptions.model_validate(
        {
            "name": name,
            "question": "Does the gain from intermediate training shrink as the encoder grows?",
            "output": str(folder),
            "seeds": {
                "intermediate": list(range(1, scale.intermediate_seeds + 1)),
                "target": list(range(1, scale.target_seeds + 1)),
            },
            "reference_size": SIZES[min(1, scale.sizes - 1)],
            "intermediate": {"steps": 1000},
            "target": {"steps": 1000},
            "sizes": [{"name": size} for size in SIZES[: scale.sizes]],
            "arms": arms,
            "targets": targets,
        }
    )


class _Outcomes:
    """Made-up outcomes by metric: an item is easy or hard whoever answers it."""

    def __init__(self, scale: Scale, draw: np.random.Generator) -> None:
        self._scale, self._draw = scale, draw
        self._difficulty = {task: draw.normal(size=scale.items) for task in TARGETS}
        self._arms: dict[tuple[str, str], float] = {}

    def items(self, phase: PlannedPhase, task: str, metric: str, language: int) -> Mapping[str, np.ndarray]:
        chance = self._chance(phase, task, language)
        right = self._draw.random(self._scale.items) < chance
        match metric:
            case "squad" | "mlqa":
                partly = np.minimum(1.0, self._draw.integers(0, 8, self._scale.items) / 7)
                return {"exact_match": right.astype(np.uint8), "f1": np.where(right, 1.0, partly).astype(np.float32)}
            case "entity_f1" | "tagging_f1":
                gold = self._draw.integers(1, 12, self._scale.items)
                correct = self._draw.binomial(gold, chance)
                counts = np.stack([correct, np.maximum(correct, gold - 1), gold], axis=1).astype(np.int32)
                return {"counts": counts, "tokens": np.stack([correct, gold], axis=1).astype(np.int32)}
            case "map_at_20":
                return {"average_precision": np.where(right, 1.0, 1 / self._draw.integers(2, 20, self._scale.items))}
        return {"correct": right.astype(np.uint8)}

    def _chance(self, phase: PlannedPhase, task: str, language: int) -> np.ndarray:
        size = SIZES.index(phase.size)
        key = (phase.arm, phase.target)
        if key not in self._arms:
            self._arms[key] = 0.0 if phase.arm == "none" else abs(self._draw.normal(0.0, 0.4))
        gain = self._arms[key] * (1.0 - 0.25 * size)
        level = 0.6 + 0.25 * size - 0.12 * language + gain + self._draw.normal(0.0, 0.03)
        return 1.0 / (1.0 + np.exp(-(level - self._difficulty[task])))


_CATALOGUE = load_catalogue()


def _write(
    folder: StudyFolder, recorder: Recorder, phase: PlannedPhase, makers: _Outcomes, draw: np.random.Generator
) -> None:
    """Outcomes and record of a phase, as collect.py writes them, without the files of training and scoring."""
    scores: dict[str, Any] = {}
    requests: dict[str, Any] = {}
    outcomes = {}
    for task in phase.options.evaluate:
        metric = _CATALOGUE[task].metric
        headline = SCORERS[metric].headline
        scores[task] = {}
        for number, language in enumerate(LANGUAGES[: makers._scale.languages]):
            items = makers.items(phase, task, metric, number)
            names = headline_arrays(headline, list(items))
            score = float(item_values([items[name] for name in names], names).mean(dtype=float))
            outcomes[task, language] = packed_outcomes(items, headline, score)
            scores[task][language] = {headline: score, "chance": 33.3, "num_items": float(makers._scale.items)}
        requests[task] = {
            "split": "test",
            "languages": list(scores[task]),
            "max_examples": 0,
            "scorer": SCORERS[metric].version,
            "headline": headline,
        }
    facts = _facts(phase, draw)
    record = recorder.record(phase, facts, {"scores": scores, "request": {"tasks": requests}})
    if outcomes:
        path = folder.outcome_file(phase.name)
        write_outcome_file(path, outcomes)
        record["outcomes"] = path.name
    write_record(folder.record_file(phase.name), record)


def _facts(phase: PlannedPhase, draw: np.random.Generator) -> dict[str, Any]:
    steps = phase.options.steps
    seconds = float(draw.uniform(500, 600)) * 2 ** SIZES.index(phase.size)
    curve = [
        {"step": round(steps * (point + 1) / _POINTS), "loss": float(0.2 + np.exp(-point / 5) + draw.normal(0, 0.02))}
        for point in range(_POINTS)
    ]
    return {
        "hash": phase.name.rsplit("-", 1)[1],
        "num_steps": steps,
        "training": {
            "steps": steps,
            "examples": 32 * steps,
            "tokens": 2_000_000,
            "flops": 1e15,
            "seconds": seconds,
            "device_seconds": seconds,
            "memory_gib": 20.0,
            "mfu": 0.3,
            "engine": "zero3",
            "precision": "bf16",
            "attention": "unpadded",
            "num_parameters": 277_000_000,
            "num_non_embedding_parameters": 85_000_000,
            "model_type": "xlm-roberta",
            "options": phase.options.model_dump(mode="json"),
            "environment": {
                "time": "2026-11-21T12:00:00+00:00",
                "git_revision": "0" * 40,
                "versions": {"xlt-scale": "0.1.0", "torch": "2.11.0"},
                "python": "3.11.7",
                "host": "made up",
                "device": "NVIDIA made up",
                "world_size": 1,
                "threads": 1,
            },
            "curve": curve,
        },
    }


def measure(folder: StudyFolder, grid: StudyGrid) -> list[Measured]:
    """Everything that is looked at, one after another."""
    from rich.console import Console

    from xlt_scale.scaling.records.collect import collect
    from xlt_scale.scaling.records.export import export_study
    from xlt_scale.scaling.records.load_results import load_results
    from xlt_scale.scaling.records.record_index import RecordIndex
    from xlt_scale.scaling.records.status import status_table, study_status
    from xlt_scale.scaling.start import write_study_report

    rows: list[Measured] = []

    def timed(what: str, work: Callable[[], Result], says: Callable[[Result], str]) -> Result:
        began, processor = time.perf_counter(), time.process_time()
        found = work()
        rows.append((what, time.perf_counter() - began, time.process_time() - processor, says(found)))
        print(*rows[-1], flush=True)
        return found

    shutil.rmtree(folder.index, ignore_errors=True)
    timed("index, from all records", lambda: RecordIndex(folder), lambda index: f"{index.num_records:,} records")
    timed("index, nothing new", lambda: RecordIndex(folder), lambda index: _size(folder.index))
    status = timed("status", lambda: study_status(folder, grid), lambda one: f"{one.total.done:,} done")
    with open(os.devnull, "w") as nowhere:
        timed("status, printed", lambda: Console(file=nowhere, width=200).print(status_table(status)), lambda _: "")
    timed("collect, nothing new", lambda: collect(folder, grid), lambda names: f"{len(names)} new")
    results = timed(
        "load_results",
        lambda: load_results(folder, grid),
        lambda one: f"{len(one.runs):,} rows, {len(one.curves):,} points",
    )

    def read_all() -> int:
        return sum(
            results.items.values(list(records), str(task), str(language)).size
            for (_, task, language), records in results.runs.groupby(["size", "task", "language"])["record"]
        )

    timed("all item values", read_all, lambda number: f"{number:,} values")
    for ending in ("parquet", "csv"):
        export = partial(export_study, folder, grid, folder.root / f"export.{ending}")
        timed(f"export, {ending}", export, lambda number: f"{number:,} rows")
    for number, name in enumerate(folder.recorded()):
        if number == 100:
            break
        folder.record_file(name).touch()
    timed("index, 100 changed records", lambda: RecordIndex(folder), lambda index: f"{index.num_records:,} records")
    folder.study_file.write_text(grid.study.to_toml(), encoding="utf-8")
    timed(
        "`xlt-scale study status`, a process", lambda: _command("status", folder), lambda _: "processor time not seen"
    )
    timed("report, 2,000 resamples", lambda: write_study_report(grid.study, 2_000), lambda page: _size(page.parent))
    return rows


def _command(name: str, folder: StudyFolder) -> None:
    command = [sys.executable, "-m", "xlt_scale.cli", "study", name, str(folder.root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _size(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*')) / 2**20:,.0f} MiB"


def markdown(rows: Sequence[Measured], made: tuple[float, float, str], scale: Scale) -> str:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = [
        "# A study of 20,000 records on two CPU cores, 2026-11-21",
        "",
        f"`python benchmarks/study_scale.py`: {scale.sizes} sizes x {scale.arms} arms x {scale.targets} targets x "
        f"{scale.intermediate_seeds * scale.target_seeds} pairs of seeds, each scored on {scale.items} items in "
        f"{scale.languages} languages, and the encoders above them; made up, and written by the study's own writers "
        f"({made[2]} of records and outcomes). {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, files in the kernel's cache, the grid given; the most memory held was "
        f"{peak:.1f} GiB. The load was {os.getloadavg()[1]:.0f}.",
        "",
        "| what | seconds | of processor time | |",
        "|---|---:|---:|---|",
        f"| made and written | {made[0]:.1f} | {made[1]:.1f} | |",
        *(f"| {what} | {seconds:.2f} | {processor:.2f} | {says} |" for what, seconds, processor, says in rows),
        "",
        "Wanted were: status within 2 s, the report within 90 s, all item values within 15 s, the index within 60 s.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(_FOLDER), help="for the made-up study; must not be there")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    for name, value in vars(Scale()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    arguments = parser.parse_args()
    scale = Scale(**{name: getattr(arguments, name) for name in vars(Scale())})
    began, processor = time.perf_counter(), time.process_time()
    folder, grid = make_study(arguments.folder, scale)
    made = (time.perf_counter() - began, time.process_time() - processor, _size(folder.records))
    print("made", *made, flush=True)
    page = markdown(measure(folder, grid), made, scale)
    print(page)
    if arguments.markdown:
        arguments.markdown.write_text(page)


if __name__ == "__main__":
    main()

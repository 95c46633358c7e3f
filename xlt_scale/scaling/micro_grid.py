"""The quickstart's grid: two sizes, with and without the intermediate task, several seeds, and the table of gains.

    python -m xlt_scale.scaling.micro_grid --output runs/grid

Each (size, seed) is one run of launch/runs/micro_grid.toml in a process of its own. Finished runs are taken over when
it is started again.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from xlt_scale.config import RunOptions, load_run
from xlt_scale.errors import TrainingError, UserError, run_as_program
from xlt_scale.scaling.jobs import Job, run_side_by_side
from xlt_scale.tasks.languages import describe
from xlt_scale.training.setup import read_json

ROOT = Path(__file__).resolve().parents[2]
# The wider model wants smaller steps; both rates were chosen on development worlds (docs/micro_benchmark.md).
SIZES = {
    "micro-small": ["phases.pretrain.learning_rate=3e-3"],
    "micro-large": ["phases.pretrain.learning_rate=2e-3"],
}


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    size: str
    seed: int
    folder: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--run", default=str(ROOT / "launch" / "runs" / "micro_grid.toml"), metavar="RUN.toml")
    parser.add_argument("--sizes", nargs="+", default=tuple(SIZES), metavar="SIZE")
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2), metavar="SEED")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    cells = [
        Cell(size, seed, arguments.output / f"{size}-seed{seed}")
        # The larger size takes longer: started first, it leaves no slot idle at the end.
        for size in reversed(arguments.sizes)
        for seed in arguments.seeds
    ]
    options = load_run(arguments.run, arguments.settings)
    slots = _slots()
    print(f"{len(cells)} runs of {arguments.run}, {len(slots)} at a time", flush=True)
    jobs = [_job(cell, arguments.run, arguments.settings, arguments.output) for cell in cells]
    failed = run_side_by_side(jobs, slots, lambda line: print(line, flush=True))
    if failed:
        raise TrainingError(f"{len(failed)} of {len(jobs)} runs failed; start again to repeat only those")
    Console(width=max(110, Console().width) if not sys.stdout.isatty() else None).print(
        *tables(cells, options, arguments.sizes), sep="\n"
    )
    print(
        "gain = with - without the intermediate task, whatever its sign. A few seeds of a laboratory world carry no\n"
        "claim about it: compare the gains by seed (docs/micro_benchmark.md)."
    )


def _slots() -> list[dict[str, str]]:
    """One slot per GPU, or one per two processor cores' worth of work, at most two: each job has one thread."""
    if torch.cuda.is_available():
        return [{"CUDA_VISIBLE_DEVICES": str(number)} for number in range(torch.cuda.device_count())]
    return [{"OMP_NUM_THREADS": "1"}] * min(2, os.cpu_count() or 1)


def _job(cell: Cell, run_file: str, settings: Sequence[str], output: Path) -> Job:
    own = [f"output={cell.folder}", f"seed={cell.seed}", f"model.size={cell.size}", "logging.tensorboard=false"]
    command = [sys.executable, str(ROOT / "launch" / "train.py"), "--run", run_file]
    for setting in [*SIZES.get(cell.size, []), *settings, *own]:
        command += ["--set", setting]
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in launcher}
    return Job(f"{cell.size} seed {cell.seed}", command, environment, output / f"{cell.folder.name}.log")


def tables(cells: Sequence[Cell], options: RunOptions, sizes: Sequence[str]) -> list[Table]:
    """For each target the scores without and with the intermediate task and their difference, by size and language
    family; and the scores of the phases that no gain is taken of (retrieval).

    Raises:
        UserError: a run's scores are missing.
    """
    scores = {(cell.size, cell.seed): _scores(cell, options) for cell in cells}
    seeds = sorted({cell.seed for cell in cells})
    found = []
    for phase in options.phases:
        if phase.baseline:
            for task in phase.evaluate:
                found.append(_gain_table(task, phase.baseline, phase.name, scores, sizes, seeds))
    plain = [phase for phase in options.phases if not phase.baseline and "micro-retrieval" in phase.evaluate]
    if plain:
        found.append(_retrieval_table([phase.name for phase in plain], scores, sizes, seeds))
    return found


Scores = dict[str, dict[str, dict[str, dict[str, float]]]]


def _scores(cell: Cell, options: RunOptions) -> Scores:
    """Phase -> task -> language -> metrics of one run."""
    found = {}
    for phase in options.phases:
        if phase.evaluate:
            path = cell.folder / "phases" / phase.name / "scores.json"
            found[phase.name] = read_json(path).get("scores", {})
            if not found[phase.name]:
                raise UserError(f"{path} is missing; start the grid again")
    return found


def _families(scores: dict[tuple[str, int], Scores], phase: str, task: str, source: str) -> dict[str, list[str]]:
    """Languages by family; the source language, which the model was trained on, stands alone."""
    families: dict[str, list[str]] = {}
    for language in next(iter(scores.values()))[phase][task]:
        family = f"{language} (trained on)" if language == source else describe(language).family
        families.setdefault(family, []).append(language)
    return dict(sorted(families.items()))


def _mean(scores: Scores, phase: str, task: str, languages: Sequence[str]) -> float:
    return statistics.mean(scores[phase][task][language]["accuracy"] for language in languages)


def _gain_table(
    task: str,
    without: str,
    with_it: str,
    scores: dict[tuple[str, int], Scores],
    sizes: Sequence[str],
    seeds: Sequence[int],
) -> Table:
    table = Table(title=f"{task}: accuracy in percent, mean of {len(seeds)} seeds", title_justify="left")
    for name in ("size", "family", "languages"):
        table.add_column(name, no_wrap=True)
    for name in ("chance", "without", "with", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("gain by seed", justify="right")
    families = _families(scores, without, task, "qen")
    unseen = [language for languages in families.values() for language in languages if language != "qen"]
    for size in sizes:
        rows = {**families, "all but qen": unseen}
        for family, languages in rows.items():
            base = [_mean(scores[size, seed], without, task, languages) for seed in seeds]
            after = [_mean(scores[size, seed], with_it, task, languages) for seed in seeds]
            gains = [b - a for a, b in zip(base, after, strict=True)]
            chance = next(iter(scores[size, seeds[0]][without][task].values()))["chance"]
            table.add_row(
                size,
                family,
                " ".join(languages) if len(languages) < 4 else str(len(languages)),
                f"{chance:.0f}",
                f"{statistics.mean(base):.1f}",
                f"{statistics.mean(after):.1f}",
                f"{statistics.mean(gains):+.1f}",
                " ".join(f"{gain:+.1f}" for gain in gains),
                end_section=family == "all but qen",
            )
    return table


def _retrieval_table(
    phases: Sequence[str], scores: dict[tuple[str, int], Scores], sizes: Sequence[str], seeds: Sequence[int]
) -> Table:
    table = Table(
        title=f"micro-retrieval after each phase: accuracy in percent, mean of {len(seeds)} seeds", title_justify="left"
    )
    for name in ("size", "family", "languages"):
        table.add_column(name, no_wrap=True)
    for name in ("chance", *phases):
        table.add_column(name, justify="right", no_wrap=True)
    families = _families(scores, phases[0], "micro-retrieval", "qen")
    for size in sizes:
        for family, languages in families.items():
            chance = next(iter(scores[size, seeds[0]][phases[0]]["micro-retrieval"].values()))["chance"]
            values = [
                statistics.mean(_mean(scores[size, seed], phase, "micro-retrieval", languages) for seed in seeds)
                for phase in phases
            ]
            cells = [f"{value:.1f}" for value in values]
            table.add_row(size, family, " ".join(languages), f"{chance:.1f}", *cells)
        table.add_section()
    return table


if __name__ == "__main__":
    run_as_program(main)

"""What the `xlt-scale study` commands do: from options to a plan, to jobs, to records, to a report."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from xlt_scale.errors import UserError
from xlt_scale.planning.gpus import visible_gpus
from xlt_scale.planning.this_machine import num_cores
from xlt_scale.scaling.grid.costs import CostModel, counted_on, measured_seconds
from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import Placement, StudyJob, pack, phases_left
from xlt_scale.scaling.records.collect import collect
from xlt_scale.scaling.records.record_index import RecordIndex, finished, recorded_seconds
from xlt_scale.scaling.records.trials import choices
from xlt_scale.scaling.running.encoder_needs import drop_unneeded_encoders, encoders_there
from xlt_scale.scaling.running.executors.interface import Executor
from xlt_scale.scaling.running.executors.local import local_executor
from xlt_scale.scaling.running.executors.slurm import SlurmExecutor, nodes_of
from xlt_scale.scaling.running.outcome import Outcome
from xlt_scale.scaling.running.runner import run_study
from xlt_scale.study_config import StudyOptions

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rest:
    """What is left of a study.

    Attributes:
        left: phases that have to be run, parents first.
        jobs: these phases in chains.
    """

    grid: StudyGrid
    folder: StudyFolder
    left: list[str]
    jobs: list[StudyJob]
    costs: CostModel


def current_grid(study: StudyOptions) -> StudyGrid:
    """The grid with the learning rates that the search has chosen so far.

    Raises:
        UserError: the study cannot work as it is written.
    """
    grid = design(study)
    folder = StudyFolder.of(study)
    if not study.search.learning_rates or not folder.records.is_dir():
        return grid
    return design(study, choices(folder, grid))


def existing_grid(study: StudyOptions) -> tuple[StudyGrid, StudyFolder]:
    """The grid and folder of a study that was started.

    Raises:
        UserError: it was not.
    """
    folder = StudyFolder.of(study)
    if not folder.records.is_dir():
        raise UserError(f"{folder.root}: no study was started there; xlt-scale study run starts it, or give --output")
    return current_grid(study), folder


def plan_rest(study: StudyOptions, executor: str = "local") -> Rest:
    """What is left, by the files that are there.

    Args:
        executor: that jobs are counted for, local or slurm.

    Raises:
        UserError: the study cannot work as it is written.
    """
    grid, folder = current_grid(study), StudyFolder.of(study)
    costs = _costs(grid, folder, executor)
    placements, seconds = _estimate(costs)
    done = finished(folder, grid) if folder.records.is_dir() else set()
    left = phases_left(grid, done, encoders_there(folder, grid))
    keep_last = max(run.checkpoints.keep_last for run in grid.runs.values())
    jobs = pack(grid, left, placements, seconds, study.resources.hours_per_job, keep_last)
    return Rest(grid, folder, left, jobs, costs)


def run_rest(study: StudyOptions, executor: str, slots: int, say: Say | None = None) -> Outcome:
    """Run what is left; how it ended.

    Args:
        executor: local or slurm.
        slots: devices of this machine to use; 0 = all.

    Raises:
        UserError: the study cannot work as it is written, or a file cannot be written.
    """
    folder = StudyFolder.of(study)
    return run_study(
        study,
        _executor(study, executor, slots, say or _print),
        redesign=lambda: current_grid(study),
        estimate=lambda grid: _estimate(_costs(grid, folder, executor)),
        collect=collect,
        say=say or _print,
        finished=finished,
    )


def collect_and_tidy(study: StudyOptions) -> list[str]:
    """Write the records of phases that have finished, and remove encoders that nothing needs any more; the records."""
    grid, folder = existing_grid(study)
    names = collect(folder, grid)
    drop_unneeded_encoders(folder, grid, finished(folder, grid))
    return names


def write_study_report(study: StudyOptions, num_draws: int, to: Path | None = None) -> Path:
    """Analyse what has been recorded and write the report; its page.

    Raises:
        UserError: nothing has been recorded.
    """
    from xlt_scale.scaling.analysis.analysis import analyse
    from xlt_scale.scaling.records.load_results import load_results
    from xlt_scale.scaling.report import write_report

    grid, folder = existing_grid(study)
    results = load_results(folder, grid, _print_error)
    if results.runs.empty:
        others = folder.recorded() - grid.phases.keys()
        why = f"; the {len(others)} records there are of another version of the study" if others else ""
        raise UserError(f"{folder.root}: no scored phase of this study is recorded yet{why}")
    place = to or folder.report
    return write_report(analyse(results, num_draws=num_draws), place, os.path.relpath(folder.root, place))


def num_slots(wanted: int) -> int:
    """Devices of this machine that jobs may use: its GPUs, else its processor cores."""
    there = len(visible_gpus()) or num_cores()
    return min(wanted, there) if wanted else there


def _executor(study: StudyOptions, name: str, slots: int, say: Say) -> Executor:
    device = study.run.get("engine", {}).get("device", "auto")
    if name == "slurm":
        # A login node without GPUs says nothing about the cluster's.
        has_gpus = device != "cpu" and os.environ.get("DS_ACCELERATOR") != "cpu"
        return SlurmExecutor(StudyFolder.of(study), study.resources, nodes_of(study.resources, has_gpus), say)
    return local_executor(device, slots)


def _costs(grid: StudyGrid, folder: StudyFolder, executor: str) -> CostModel:
    cluster, notes = counted_on(grid.study, elsewhere=executor == "slurm")
    measured: Mapping[str, list[float]] = {}
    if folder.records.is_dir():
        measured = measured_seconds(grid, recorded_seconds(RecordIndex(folder)))
    return CostModel(grid, measured, notes, cluster, is_assumed=True)


def _estimate(costs: CostModel) -> tuple[Mapping[str, Placement], Mapping[str, float]]:
    placements = costs.placements()
    return placements, costs.all_seconds(placements)


def _print(line: str) -> None:
    print(line, flush=True)


def _print_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

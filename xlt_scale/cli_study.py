"""Run a study, look at its progress, cancel it, and get its report and its table."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from xlt_scale.errors import UserError
from xlt_scale.study_config import StudyOptions, load_study

# What lies behind the commands imports pandas and pyarrow: only when they run.
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
StudyPath = Annotated[Path, typer.Argument(help="A study file, or the folder of a study that was started.")]
Output = Annotated[str, typer.Option(help="The study's folder, in place of the file's.")]
Pool = Annotated[str, typer.Option(help="Folder of phases that several studies share.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Override a key: key.path=value; repeatable.")]
_WIDTH_WITHOUT_TERMINAL = 130


@app.command()
def run(
    study_file: StudyPath,
    output: Output = "",
    pool: Pool = "",
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the grid, its cost and its disk.")] = False,
    executor: Annotated[str, typer.Option(help="local: on this machine; slurm: by sbatch.")] = "local",
    slots: Annotated[int, typer.Option(help="Devices of this machine to use; 0 = all.")] = 0,
    report: Annotated[bool, typer.Option(help="Write the report at the end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run what is left of a study; the same command goes on after any interruption.

    Example: xlt-scale study run studies/micro/size_beyond_10b.toml --dry-run
    """
    from xlt_scale.scaling.start import num_slots, plan_rest, run_rest

    study = _options(study_file, output, pool, settings or ())
    if executor not in ("local", "slurm"):
        raise UserError(f"--executor {executor}: there are local and slurm")
    if dry_run:
        from xlt_scale.scaling.grid.preview import preview, show_preview

        rest = plan_rest(study, executor)
        devices = num_slots(slots) if executor == "local" else 0
        plan = preview(rest.grid, rest.folder, rest.left, rest.jobs, rest.costs, devices)
        if as_json:
            print(json.dumps(plan, indent=1))
        else:
            _console().print(show_preview(plan, rest.grid))
        return
    outcome = run_rest(study, executor, slots)
    if report and outcome.num_done and not outcome.stopped_by:
        _write_report(study, num_draws=2000)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


@app.command()
def cancel(
    study: StudyPath,
    output: Output = "",
    pool: Pool = "",
    seconds: Annotated[float, typer.Option(help="For what runs to save before it is ended.")] = 60.0,
) -> None:
    """End whatever works on a study: its runners on any machine, and its batch jobs, running or in the queue. Records
    and checkpoints stay; `run` goes on from them.

    Example: xlt-scale study cancel runs/studies/size_beyond_10b
    """
    from xlt_scale.scaling.grid.folder import StudyFolder
    from xlt_scale.scaling.running.cancelling import cancel_study

    cancel_study(StudyFolder.of(_options(study, output, pool)), seconds, say=print)


@app.command()
def status(study: StudyPath, output: Output = "", pool: Pool = "", as_json: AsJson = False) -> None:
    """Show how far a study is, as a grid, with what has failed and the time left.

    Example: xlt-scale study status runs/studies/size_beyond_10b
    """
    from xlt_scale.scaling.records.status import status_table, study_status
    from xlt_scale.scaling.start import existing_grid

    grid, folder = existing_grid(_options(study, output, pool))
    found = study_status(folder, grid)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _console().print(status_table(found))


@app.command()
def report(
    study: StudyPath,
    output: Output = "",
    pool: Pool = "",
    final: Annotated[bool, typer.Option("--final", help="10,000 resamples in place of 2,000.")] = False,
    to: Annotated[str, typer.Option(help="Folder of the report; default: report/ in the study's folder.")] = "",
) -> None:
    """Analyse the records there are and write the report: one page, figures, tables.

    Example: xlt-scale study report runs/studies/size_beyond_10b --final
    """
    _write_report(_options(study, output, pool), num_draws=10_000 if final else 2_000, to=to)


@app.command()
def export(
    study: StudyPath,
    file: Annotated[Path, typer.Argument(help="NAME.parquet or NAME.csv")],
    output: Output = "",
    pool: Pool = "",
) -> None:
    """Write all records as one tidy table: a row for each record, task, language and metric (docs/records.md).

    Example: xlt-scale study export runs/studies/size_beyond_10b scores.parquet
    """
    from xlt_scale.scaling.records.export import export_study
    from xlt_scale.scaling.start import existing_grid

    grid, folder = existing_grid(_options(study, output, pool))
    num_rows = export_study(folder, grid, file)
    print(f"{file}: {num_rows:,} rows")


@app.command()
def collect(study: StudyPath, output: Output = "", pool: Pool = "") -> None:
    """Write the records of phases that have finished since, and remove what is no longer needed: what `run` does as it
    goes, for jobs that a cluster runs.

    Example: xlt-scale study collect runs/studies/size_beyond_10b
    """
    from xlt_scale.scaling.start import collect_and_tidy

    recorded = collect_and_tidy(_options(study, output, pool))
    print(f"{len(recorded)} new records")


def _options(path: Path, output: str, pool: str, settings: tuple[str, ...] | list[str] = ()) -> StudyOptions:
    """The options of a study file, or those that a study's folder was last started with."""
    if path.is_dir():
        file = path / "study.toml"
        if not file.is_file():
            raise UserError(f"{path} is no study's folder: it has no study.toml; give the study file or another folder")
        found = load_study(file, settings, output or str(path))
    else:
        found = load_study(path, settings, output)
    return found.model_copy(update={"pool": pool}) if pool else found


def _write_report(study: StudyOptions, num_draws: int, to: str = "") -> None:
    from xlt_scale.scaling.start import write_study_report

    page = write_study_report(study, num_draws, Path(to) if to else None)
    print(f"report: {page}")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else max(_WIDTH_WITHOUT_TERMINAL, Console().width))

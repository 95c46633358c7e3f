"""What a run or a study will take, before anything is started."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from xlt_scale.config_files import read_toml
from xlt_scale.errors import FAILURE_EXIT_CODE, UserError

if TYPE_CHECKING:
    from xlt_scale.planning.hardware import Cluster

_WIDTH_WITHOUT_TERMINAL = 140


def plan(
    file: Annotated[Path, typer.Argument(help="A run file or a study file, or the folder of one that was started.")],
    cluster: Annotated[
        str, typer.Option(help="h200, hgx-h200, dgx-h100, a100-80g, a100-40g, or a TOML file; default: this machine.")
    ] = "",
    nodes: Annotated[int, typer.Option(min=0, help="In place of the cluster's own number.")] = 0,
    devices: Annotated[int, typer.Option(min=0, help="Devices of all nodes together; 0 = all there are.")] = 0,
    price: Annotated[float, typer.Option(min=0.0, help="Of a device for an hour, in any currency.")] = 0.0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the file: key.path=value; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Predict memory, time and cost of a run or a study, and the engine settings that fit and are fastest; exit code 1
    when nothing fits.

    Example: xlt-scale plan launch/runs/mnli_xnli_xl.toml --cluster hgx-h200 --devices 2
    """
    from xlt_scale.planning.cluster_files import describe_cluster
    from xlt_scale.planning.run_plan import NothingFitsError

    found, notes = describe_cluster(cluster, nodes, devices, price)
    place = _file_of(file)
    is_study = "sizes" in read_toml(place)
    try:
        (_plan_study if is_study else _plan_run)(place, settings or [], found, notes, as_json)
    except NothingFitsError as problem:
        print(f"nothing fits: {problem}", file=sys.stderr)
        raise typer.Exit(FAILURE_EXIT_CODE) from None


def _plan_run(place: Path, settings: list[str], cluster: "Cluster", notes: list[str], as_json: bool) -> None:
    from xlt_scale.config import load_run
    from xlt_scale.planning.describe import RunDescription
    from xlt_scale.planning.layouts import check_auto, fixed_settings, free_settings
    from xlt_scale.planning.run_plan import plan_run
    from xlt_scale.planning.run_tables import run_plan_json, show_run_plan
    from xlt_scale.planning.task_data import DataFacts
    from xlt_scale.planning.this_machine import is_processor

    run = load_run(place, settings)
    check_auto(run.engine)
    if run.engine.deepspeed_config:
        notes.append(f"{run.engine.deepspeed_config} is not read: counted with ds_configs/zero3.json")
    description = RunDescription(run, DataFacts(run, notes=list(notes)), is_processor(cluster.device))
    fixed = fixed_settings(run.engine, cluster) if run.engine.auto else free_settings(run.engine, cluster)
    found = plan_run(description, cluster, fixed)
    _print(run_plan_json(found), show_run_plan(found, str(place)), as_json)


def _plan_study(place: Path, settings: list[str], cluster: "Cluster", notes: list[str], as_json: bool) -> None:
    from xlt_scale.scaling.grid.study_plan import plan_study
    from xlt_scale.scaling.grid.study_plan_tables import show_study_plan, study_plan_json
    from xlt_scale.study_config import load_study

    found = plan_study(load_study(place, settings), cluster, notes)
    _print(study_plan_json(found), show_study_plan(found), as_json)


def _file_of(path: Path) -> Path:
    """The run or study file: itself, or what a run's or study's folder was started with."""
    if not path.is_dir():
        return path
    for name in ("study.toml", "run.toml"):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path} has neither study.toml nor run.toml; give a run file or a study file")


def _print(facts: dict[str, Any], tables: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL, highlight=False).print(tables)

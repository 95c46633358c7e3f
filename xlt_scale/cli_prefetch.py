"""`xlt-scale prefetch`: fetch on a node with a network what jobs without one will need, and check it there."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from xlt_scale.config import RunOptions, load_run
from xlt_scale.config_files import read_toml
from xlt_scale.errors import USER_ERROR_EXIT_CODE, UserError
from xlt_scale.study_config import load_study

_WIDTH_WITHOUT_TERMINAL = 180
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def prefetch(
    path: Annotated[Path, typer.Argument(help="A run file or study file, or the folder of one that was started.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: key.path=value; repeatable.")
    ] = None,
    output: Annotated[str, typer.Option(help="The output folder, in place of the file's.")] = "",
    pool: Annotated[str, typer.Option(help="Of a study: folder of phases that several studies share.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Only check, without a network, that all is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Fetch the models and data of a run or study, tokenise, build DeepSpeed's operations, and compare hashes, so that
    its jobs run without a network.

    What was fetched is listed in prefetched.json in the output folder. The same command goes on after any interruption.

    Example: xlt-scale prefetch launch/runs/mnli_xnli_large.toml --check
    """
    runs, folder = _runs(path, settings or [], output, pool)
    from xlt_scale.training.prefetched import LIST

    if check:
        from xlt_scale.training.prefetch import places_of, request_of
        from xlt_scale.training.prefetched import check_list

        entries = list(check_list(folder, request_of(runs), places_of(runs)))
    else:
        from xlt_scale.training.prefetch import prefetch as fetch

        _quiet_progress()
        entries = fetch(runs, folder, _say)
    _print([entry.row() for entry in entries], f"{folder / LIST}", as_json)
    broken = [entry for entry in entries if check and entry.state != "ok"]
    if broken:
        first = broken[0].state.split("; ")[0]
        own = " (it is your own file: put it back)" if broken[0].mend == "leave" else ""
        print(
            f"error: {broken[0].kind} {broken[0].name}: {first}{own}; run xlt-scale prefetch again on a node with a "
            f"network: it fetches anew what has changed ({len(broken)} of {len(entries)} are not ok)",
            file=sys.stderr,
        )
        raise typer.Exit(USER_ERROR_EXIT_CODE)


def _runs(path: Path, settings: list[str], output: str, pool: str) -> tuple[list[RunOptions], Path]:
    """What is to be run, and its output folder."""
    file = next((path / name for name in ("study.toml", "run.toml") if (path / name).is_file()), path)
    if path.is_dir() and file == path:
        raise UserError(f"{path} has neither study.toml nor run.toml; give a run file or a study file")
    table = read_toml(file)
    if "sizes" in table or "arms" in table:
        from xlt_scale.scaling.prefetch import runs_of_study

        study = load_study(file, settings, output or (str(path) if path.is_dir() else ""))
        if pool:
            study = study.model_copy(update={"pool": pool})
        return runs_of_study(study), study.folder
    if pool:
        raise UserError(f"--pool {pool}: {path} is a run file; only studies have a pool")
    run = load_run(file, [*settings, *([f"output={json.dumps(output)}"] if output else [])])
    if not run.output:
        raise UserError("output is not set; add output = 'runs/NAME' to the run file, or --output runs/NAME")
    return [run], Path(run.output)


def _quiet_progress() -> None:
    """Bars of downloads belong on a terminal, not into a log."""
    if sys.stderr.isatty():
        return
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    import datasets

    datasets.disable_progress_bars()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(rows: list[dict[str, Any]], title: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    table = Table(title=title, title_justify="left")
    for name in ("what", "where", "revision", "files", "size", "sha256", "state"):
        is_number = name in ("files", "size")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in rows:
        cells = {**row, "revision": row["revision"][:12], "size": _bytes(row["size"]), "sha256": row["sha256"][:12]}
        table.add_row(*(str(cell) for cell in cells.values()))
    console = Console(width=None if sys.stdout.isatty() else max(_WIDTH_WITHOUT_TERMINAL, Console().width))
    console.print(table)


def _bytes(number: int) -> str:
    value, unit = float(number), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"

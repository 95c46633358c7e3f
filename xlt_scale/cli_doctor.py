"""Check a machine, or all nodes of an allocation together, before hours are spent on them."""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xlt_scale.errors import USER_ERROR_EXIT_CODE, UserError

if TYPE_CHECKING:
    from xlt_scale.config import RunOptions
    from xlt_scale.doctor.findings import Row

_WIDTH_WITHOUT_TERMINAL = 130
_COLOURS = {"pass": "green", "warn": "yellow", "fail": "bold red", "-": "dim"}


def doctor(
    run_file: Annotated[Path | None, typer.Argument(help="The run file that is to be started.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of it: key.path=value; repeatable.")
    ] = None,
    output: Annotated[str, typer.Option(help="The folder to write into; default: the run file's, or this one.")] = "",
    interface: Annotated[str, typer.Option(help="Network interface to try, in place of the environment's.")] = "",
    seconds: Annotated[float, typer.Option(help="Time limit of each step on network and folder.")] = 30.0,
    collectives: Annotated[bool, typer.Option(help="Try an all-reduce over all processes.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out all that loads PyTorch.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Check this machine or, started by srun or a launcher, all nodes together; exit code 2 when something fails.

    Example: srun xlt-scale doctor launch/runs/micro.toml
    """
    from xlt_scale.doctor.arrival import CannotMeet
    from xlt_scale.doctor.examination import Plan, examine, use_interface
    from xlt_scale.doctor.run_needs import bytes_needed
    from xlt_scale.doctor.seat import find_seat

    if not seconds > 0:
        raise UserError(f"--seconds {seconds:g}: give a number above 0")
    if settings and run_file is None:
        raise UserError("--set overrides a key of a run file; name one: xlt-scale doctor RUN.toml --set ...")
    run = _run(run_file, settings or [])
    seat = find_seat()
    if interface:
        use_interface(interface)
    plan = Plan(
        folder=Path(output or (run.output if run else "") or Path.cwd()).absolute(),
        run=run,
        bytes_needed=bytes_needed(run, parameters) if run and (parameters := _num_parameters(run)) else None,
        seconds=seconds,
        tries_stack=not quick,
        tries_collectives=collectives and not quick,
    )
    try:
        result = examine(seat, plan)
    except CannotMeet as problem:
        print(f"{seat.node} (rank {seat.rank}): {problem}", file=sys.stderr, flush=True)
        # A launcher that sees one process end takes the others' table away.
        time.sleep(problem.seconds_to_wait)
        _end(USER_ERROR_EXIT_CODE)
    if seat.is_head:
        print_table(result.rows, f"{seat.size} processes" if seat.size > 1 else "This machine", as_json)
    _end(0 if result.is_well else USER_ERROR_EXIT_CODE)


def _run(run_file: Path | None, settings: list[str]) -> "RunOptions | None":
    from xlt_scale.config import load_run

    return load_run(run_file, settings) if run_file is not None else None


def _num_parameters(run: "RunOptions") -> int:
    """0 where nothing on this machine tells the model's shape."""
    from xlt_scale.planning.shapes import size_of_model

    size = size_of_model(run.model)
    return size.num_parameters if size else 0


def print_table(rows: tuple["Row", ...], title: str, as_json: bool) -> None:
    """The rows for people, each with the nodes that it is about where these are not all; or as JSON."""
    from xlt_scale.doctor.findings import name_nodes

    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False))
        return
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_WITHOUT_TERMINAL)
    table = Table(title=title, title_justify="left")
    for name in ("check", "state", "found", "mend"):
        table.add_column(name, no_wrap=name in ("check", "state"), overflow="fold")
    nodes = {node for row in rows for node in row.nodes}
    for row in rows:
        where = f"{name_nodes(row.nodes)}: " if row.nodes and len(row.nodes) < len(nodes) else ""
        # As text: what libraries say may look like rich's markup.
        cells = (row.check, row.state, where + row.found, row.mend)
        table.add_row(*map(Text, cells), style=_COLOURS[row.state])
    console.print(table)


def _end(code: int) -> None:
    """At once: a thread that hangs on a dead disk must not keep the process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

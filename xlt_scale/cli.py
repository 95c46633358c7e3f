"""The `xlt-scale` command: studies, checkpoints, scores, look things up. One run is started by launch/train.py."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from xlt_scale.cli_checkpoint import app as checkpoint_app
from xlt_scale.cli_convert import convert
from xlt_scale.cli_doctor import doctor
from xlt_scale.cli_export import export
from xlt_scale.cli_plan import plan
from xlt_scale.cli_prefetch import prefetch
from xlt_scale.cli_score import score
from xlt_scale.cli_study import app as study_app
from xlt_scale.cli_tasks import tasks
from xlt_scale.errors import USER_ERROR_EXIT_CODE, UserError
from xlt_scale.sizes import SIZES

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(study_app, name="study")
app.command()(convert)
app.command()(doctor)
app.command()(export)
app.command()(plan)
app.command()(prefetch)
app.command()(score)
app.command()(tasks)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


_FREE_TEXT = ("hub_name",)


def _print(rows: list[dict[str, Any]], title: str, as_json: bool) -> None:
    """Rows as a table for people, or as JSON."""
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        right = any(isinstance(row[name], int | float) for row in rows)
        # Exact numbers and names keep their width; text gives way and wraps.
        table.add_column(name.replace("_", " "), justify="right" if right else "left", no_wrap=name not in _FREE_TEXT)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console().print(table)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


@app.command()
def sizes(as_json: AsJson = False) -> None:
    """List the model sizes and their exact parameter counts (encoder without pooler).

    Example: xlt-scale sizes
    """
    rows = [
        {
            "size": size.name,
            "parameters": size.num_parameters,
            "non_embedding": size.num_non_embedding_parameters,
            "layers": size.num_layers,
            "hidden": size.hidden_size,
            "norm": "pre" if size.is_pre_norm else "post",
            "hub_name": size.hub_name or "-",
        }
        for size in SIZES.values()
    ]
    _print(rows, "Sizes (model.size in a run file; hub names go into model.name)", as_json)


@app.command()
def options(study: Annotated[bool, typer.Option("--study", help="Of the study file.")] = False) -> None:
    """Print the reference of the run file: every key, its default and what it is for, in Markdown.

    Example: xlt-scale options > docs/run_file.md
    """
    from xlt_scale.option_reference import run_file_reference, study_file_reference

    print(study_file_reference() if study else run_file_reference(), end="")


@app.command("micro-world")
def micro_world(
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    seed: Annotated[int, typer.Option(help="The world's seed.")] = 200,
) -> None:
    """Write the files of a micro-benchmark world, to look at them.

    Example: xlt-scale micro-world /tmp/world --seed 3
    """
    from xlt_scale.micro import write_micro_world

    if folder.exists():
        raise UserError(f"{folder} exists already; name a new folder")
    write_micro_world(folder, seed)
    print(f"{folder}: written")


def main() -> None:
    """Entry point of the console script: a `UserError`, or a file that cannot be read or written, is one line and exit
    code 2.
    """
    try:
        app()
    except BrokenPipeError:
        # Whoever read the output has seen enough: `xlt-scale tasks | head`.
        os._exit(0)
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'a file'}: {error.strerror or error}"
    else:
        return
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USER_ERROR_EXIT_CODE)


if __name__ == "__main__":
    main()

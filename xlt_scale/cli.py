"""The `xlt-scale` command: studies, checkpoints, scores, look things up. One run is started by launch/train.py."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from xlt_scale.cli_checkpoint import app as checkpoint_app
from xlt_scale.cli_convert import convert
from xlt_scale.cli_doctor import doctor
from xlt_scale.cli_export import export
from xlt_scale.cli_plan import plan
from xlt_scale.cli_prefetch import prefetch
from xlt_scale.cli_score import score
from xlt_scale.cli_sizes import sizes
from xlt_scale.cli_study import app as study_app
from xlt_scale.cli_tasks import tasks
from xlt_scale.errors import USER_ERROR_EXIT_CODE, UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(study_app, name="study")
app.command()(convert)
app.command()(doctor)
app.command()(export)
app.command()(plan)
app.command()(prefetch)
app.command()(score)
app.command()(sizes)
app.command()(tasks)


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

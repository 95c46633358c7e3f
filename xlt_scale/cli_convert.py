"""`xlt-scale convert`: checkpoints of other programs into our format, and ours into PyTorch's."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from xlt_scale.errors import UserError


class Target(StrEnum):
    """What a checkpoint can be written as."""

    OURS = "ours"
    DCP = "dcp"


def convert(
    source: Annotated[Path, typer.Argument(help="Folder of a checkpoint of any known format.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    to: Annotated[Target, typer.Option(help="Format to write; 'dcp' is torch.distributed.checkpoint.")] = Target.OURS,
    prefix: Annotated[
        list[str] | None,
        typer.Option(help="OLD=NEW: how parameter names begin there and here; may be repeated.", show_default=False),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(help="OLD=NEW: an optimiser group there and here; may be repeated.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The model's config.json, to keep with the checkpoint.", show_default=False)
    ] = None,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Leave the optimiser's state behind.")] = False,
) -> None:
    """Convert a checkpoint: DeepSpeed (ZeRO-3, universal), torch.distributed.checkpoint, Hugging Face, ours.

    Example: xlt-scale convert runs/old/checkpoint converted --prefix roberta.=encoder.
    """
    from xlt_scale.checkpoint.foreign.detect import detect

    found = detect(source)
    if to is Target.DCP:
        _refuse_options(prefix or group or config or weights_only, "--to dcp")
        if found != "ours":
            raise UserError(f"{source} is not of our format; convert it to ours first, then that to dcp")
        _write_dcp(source, destination)
    elif found == "ours":
        raise UserError(f"{source} is of our format already; name another --to")
    elif found == "huggingface":
        _refuse_options(prefix or group or config or weights_only, "a Hugging Face folder")
        # Absent where only the other formats are wanted.
        from xlt_scale.checkpoint.huggingface_import import import_huggingface

        import_huggingface(source, destination)
        _print_summary(destination)
    else:
        facts = {"model": _read_config(config)} if config else {}
        _write_ours(
            source, destination, found, _pairs(prefix, "--prefix"), _pairs(group, "--group"), facts, weights_only
        )


def _write_ours(
    source: Path,
    destination: Path,
    found: str,
    prefixes: list[tuple[str, str]],
    groups: list[tuple[str, str]],
    facts: dict[str, Any],
    without_optimizer: bool,
) -> None:
    from xlt_scale.checkpoint.foreign.deepspeed_universal import read_universal
    from xlt_scale.checkpoint.foreign.deepspeed_zero3 import read_zero3
    from xlt_scale.checkpoint.foreign.distributed_checkpoint import read_distributed_checkpoint
    from xlt_scale.checkpoint.foreign.state import regrouped, rename_parameters, write_ours

    read = {
        "deepspeed_zero3": read_zero3,
        "deepspeed_universal": read_universal,
        "distributed_checkpoint": read_distributed_checkpoint,
    }[found]
    state = rename_parameters(read(source, not without_optimizer), prefixes)
    moved = regrouped(write_ours(state, destination, facts, groups))
    notes = list(state.notes)
    if moved:
        notes.append(
            f"{len(moved)} parameters, {moved[0]} say, get the settings of the other group when training goes on"
        )
    _print_summary(destination, notes)


def _write_dcp(source: Path, destination: Path) -> None:
    from xlt_scale.checkpoint.foreign.dcp_writer import write_distributed_checkpoint

    write_distributed_checkpoint(source, destination)
    _print_summary(source, title=f"{destination}, a folder of torch.distributed.checkpoint")


def _print_summary(folder: Path, notes: Sequence[str] = (), title: str = "") -> None:
    """What a checkpoint of ours holds."""
    from xlt_scale.checkpoint.manifest import read_manifest

    manifest = read_manifest(folder)
    optimizer = manifest.facts.get("optimizer")
    parameters = [tensor for key, tensor in manifest.tensors.items() if key.startswith("param/")]
    table = Table(title=title or str(folder), title_justify="left", show_header=False)
    source = manifest.facts.get("source")
    if isinstance(source, dict):
        table.add_row("from", f"{source.get('format')}, saved at world size {source.get('world_size') or 'unknown'}")
    table.add_row("tensors", f"{len(manifest.tensors):,}")
    table.add_row("parameters", f"{len(parameters):,} of {sum(tensor.numel for tensor in parameters):,} elements")
    table.add_row("step", str(manifest.facts.get("step", "unknown")))
    for name, settings in (optimizer or {}).get("groups", {}).items():
        table.add_row(f"group {name}", ", ".join(f"{key} {value}" for key, value in settings.items()))
    if optimizer is None:
        table.add_row("optimiser", "none: weights only")
    console = Console()
    console.print(table)
    for note in notes:
        console.print(f"note: {note}", highlight=False)


def _pairs(options: list[str] | None, name: str) -> list[tuple[str, str]]:
    pairs = []
    for text in options or []:
        old, sign, new = text.partition("=")
        if not sign or (not old and name == "--group"):
            raise UserError(f"{name} {text!r} is not OLD=NEW; write, say, {name} roberta.=encoder.")
        pairs.append((old, new))
    return pairs


def _refuse_options(given: object, where: str) -> None:
    if given:
        raise UserError(f"--prefix, --group, --config and --weights-only have no use with {where}; remove them")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the model's config.json") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); give the model's config.json") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object; give the model's config.json")
    return found

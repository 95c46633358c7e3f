"""`xlt-scale export`: a checkpoint as a Hugging Face folder."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A phase's folder (runs/NAME/phases/PHASE), or a checkpoint's.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    head: Annotated[
        str, typer.Option(help="The head to export; none: the bare encoder; default: the only one.", show_default=False)
    ] = "",
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, bfloat16 or float16.")] = "float32",
    max_shard_size: Annotated[str, typer.Option(help="Bytes of weights in a file.")] = "5GB",
    max_memory: Annotated[str, typer.Option(help="Bytes of memory that the program may take.")] = "2GB",
) -> None:
    """Write a checkpoint as a Hugging Face folder, for from_pretrained to load.

    Example: xlt-scale export runs/micro/phases/target exported/micro --dtype bfloat16
    """
    from xlt_scale.checkpoint.huggingface_export import ExportOptions, export_checkpoint

    export_checkpoint(checkpoint, folder, ExportOptions(head, dtype, max_shard_size, max_memory))

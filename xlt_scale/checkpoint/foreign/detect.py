"""Which program's checkpoint a folder holds."""

from pathlib import Path
from typing import Literal

from xlt_scale.checkpoint.foreign import deepspeed_universal, deepspeed_zero3
from xlt_scale.checkpoint.foreign.dcp_metadata import METADATA
from xlt_scale.checkpoint.foreign.deepspeed_files import rank_files, step_folder
from xlt_scale.checkpoint.manifest import MANIFEST
from xlt_scale.errors import UserError

Format = Literal["ours", "deepspeed_zero3", "deepspeed_universal", "distributed_checkpoint", "huggingface"]

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def detect(folder: Path) -> Format:
    """The format of a checkpoint's folder, by the names of its files; nothing is read but DeepSpeed's pointers.

    A folder with both of DeepSpeed's formats is taken for its own: that one has all that the other was made of.

    Raises:
        UserError: there is no such folder, or it is none of the formats.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a checkpoint")
    if (folder / MANIFEST).is_file():
        return "ours"
    if (folder / METADATA).is_file():
        return "distributed_checkpoint"
    # A universal checkpoint keeps the model files of the ZeRO-3 checkpoint that it was made of, not the optimiser's.
    if rank_files(step_folder(folder, deepspeed_zero3.LATEST), "optim"):
        return "deepspeed_zero3"
    universal = step_folder(folder, deepspeed_universal.LATEST) / deepspeed_universal.PARAMETERS
    if (universal / deepspeed_universal.OPTIMIZER).is_file():
        return "deepspeed_universal"
    if (folder / "config.json").is_file() or any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        return "huggingface"
    raise UserError(
        f"{folder} is no checkpoint of xlt-scale, DeepSpeed (ZeRO-3, universal), torch.distributed.checkpoint or "
        "Hugging Face; give the folder that holds its files"
    )

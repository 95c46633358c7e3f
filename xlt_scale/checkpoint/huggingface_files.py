"""The weight files of a Hugging Face folder: written piece by piece from a checkpoint, then looked at again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import safe_open

from xlt_scale.checkpoint.checksum import PIECE
from xlt_scale.checkpoint.huggingface_plan import ExportPlan
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.tensor_file import TensorFileWriter, TensorLayout, flush_to_disk
from xlt_scale.errors import UserError, reason

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# A piece is held twice at most: as the parts it is stored in and joined, or as fp32 and in the dtype of the files.
_BYTES_PER_ELEMENT = 8
_FEWEST_ELEMENTS = 1 << 16
# What libraries take on their first use, after the program's own size was measured.
_RESERVE = 64_000_000
_SAMPLE_ELEMENTS = 1 << 14


def elements_per_piece(max_memory: int) -> int:
    """How many elements may be held at a time so that the whole process stays below `max_memory` bytes.

    Raises:
        UserError: the program itself leaves no room for that.
    """
    in_use = psutil.Process().memory_info().rss + _RESERVE
    elements = min(PIECE, (max_memory - in_use) // _BYTES_PER_ELEMENT)
    if elements < _FEWEST_ELEMENTS:
        least = -(-(in_use + _RESERVE) // 100_000_000) * 100
        raise UserError(
            f"--max-memory {max_memory // 1_000_000}MB is too little: the program itself takes "
            f"{in_use // 1_000_000} MB; give {least}MB or more"
        )
    return elements


def split_into_shards(layout: Sequence[TensorLayout], max_bytes: int) -> dict[str, list[TensorLayout]]:
    """The tensors of each file by its name: as many as fit, in their order; a larger one has a file of its own."""
    shards: list[list[TensorLayout]] = [[]]
    size = 0
    for tensor in layout:
        if shards[-1] and size + tensor.num_bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard for number, shard in enumerate(shards, 1)}


def write_weights(
    folder: Path, export: ExportPlan, reader: CheckpointReader, max_shard_bytes: int, elements: int
) -> dict[str, list[TensorLayout]]:
    """Write the files and, where there are several, their index; holds `elements` elements at a time.

    Args:
        reader: a fresh one; the checksums of what it has read are compared with the manifest.

    Returns:
        the tensors of each file.

    Raises:
        UserError: the checkpoint is damaged, or a tensor holds a number that is not finite in the files' dtype.
        OSError: the folder cannot be written.
    """
    shards = split_into_shards(export.layout, max_shard_bytes)
    for file, tensors in shards.items():
        with TensorFileWriter(folder / file, tensors, {"format": "pt"}) as writer:
            for tensor in tensors:
                for start, stop in _pieces(prod(tensor.shape), elements):
                    values = reader.read(export.keys[tensor.name], start, stop).to(tensor.dtype)
                    _check_finite(reader.folder, tensor, values)
                    writer.write(tensor.name, values)
                    # Before the next piece is read, or three would be held.
                    del values
    for key in export.keys.values():
        if reader.checksum_of_read(key)[2] != reader.manifest.tensors[key].crc32:
            raise UserError(f"{reader.folder}: {key} is not as it was written (its checksum differs); use another one")
    if len(shards) > 1:
        table = {
            "metadata": {"total_parameters": export.num_elements, "total_size": export.num_bytes},
            "weight_map": {tensor.name: file for file, tensors in shards.items() for tensor in tensors},
        }
        (folder / INDEX).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        flush_to_disk(folder / INDEX)
    return shards


def check_weights(
    folder: Path, shards: Mapping[str, Sequence[TensorLayout]], export: ExportPlan, reader: CheckpointReader
) -> None:
    """Open the written files as any program would: every tensor is there in its shape and dtype, and rows from the
    beginning, the middle and the end are the checkpoint's.

    Raises:
        UserError: naming the first tensor that differs.
    """
    for file, tensors in shards.items():
        try:
            with safe_open(folder / file, framework="pt") as opened:
                _same_names(file, set(opened.keys()), {tensor.name for tensor in tensors})
                for tensor in tensors:
                    _check_tensor(file, opened.get_slice(tensor.name), tensor, export, reader)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{file} cannot be read back ({reason(error)}); export again") from None
    if len(shards) > 1:
        listed = json.loads((folder / INDEX).read_bytes())["weight_map"]
        _same_names(INDEX, set(listed), {tensor.name for tensor in export.layout})


def _pieces(num_elements: int, elements: int) -> Iterator[tuple[int, int]]:
    for start in range(0, num_elements, elements):
        yield start, min(start + elements, num_elements)


def _check_finite(checkpoint: Path, tensor: TensorLayout, values: torch.Tensor) -> None:
    if torch.isfinite(torch.stack(torch.aminmax(values))).all():
        return
    dtype = str(tensor.dtype).removeprefix("torch.")
    mend = "use another checkpoint" if tensor.dtype == torch.float32 else "try --dtype float32, or another checkpoint"
    raise UserError(f"{checkpoint}: {tensor.name} holds a number that is not finite in {dtype}; {mend}")


def _check_tensor(file: str, slices: Any, tensor: TensorLayout, export: ExportPlan, reader: CheckpointReader) -> None:
    shape = tuple(slices.get_shape())
    if shape != tensor.shape or not prod(shape):
        raise UserError(f"{file}: {tensor.name} has shape {list(shape)}, not {list(tensor.shape)}; export again")
    num_rows, width = shape[0], prod(shape[1:])
    rows = max(1, _SAMPLE_ELEMENTS // width)
    for first in sorted({0, num_rows // 2, max(0, num_rows - rows)}):
        last = min(first + rows, num_rows)
        sample = slices[first:last].reshape(-1)
        if sample.dtype != tensor.dtype:
            raise UserError(f"{file}: {tensor.name} is {sample.dtype}, not {tensor.dtype}; export again")
        expected = reader.read(export.keys[tensor.name], first * width, last * width).to(tensor.dtype)
        if not torch.equal(sample, expected):
            raise UserError(f"{file}: {tensor.name} differs from the checkpoint near row {first}; export again")


def _same_names(file: str, found: set[str], expected: set[str]) -> None:
    for name in sorted(found ^ expected):
        state = "is missing" if name in expected else "is not of the model"
        raise UserError(f"{file}: {name} {state}; export again")

"""Safetensors files, written and read piece by piece: no more than a piece is ever held."""

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from xlt_scale.checkpoint.checksum import PIECE, combine_all, tensor_bytes
from xlt_scale.modeling.stored_tensors import read_into

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True)
class TensorLayout:
    """A tensor that a file will hold."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class TensorFileWriter:
    """Writes a safetensors file whose tensors are known beforehand by name and shape.

    Each tensor may come in pieces, one behind the other; different tensors in any order. A context manager: leaving it
    without an error checks that everything was written, and flushes the file to the disk.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, layout: Sequence[TensorLayout], metadata: Mapping[str, str] | None = None) -> None:
        table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        position = 0
        for tensor in layout:
            end = position + tensor.num_bytes
            table[tensor.name] = {
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [position, end],
            }
            position = end
        header = json.dumps(table, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        self._head = len(header).to_bytes(8, "little") + header
        self._layout = {tensor.name: tensor for tensor in layout}
        starts = [len(self._head)]
        for tensor in layout:
            starts.append(starts[-1] + tensor.num_bytes)
        self.num_bytes = starts[-1]
        self.offsets = dict(zip(self._layout, starts, strict=False))
        self._written = dict.fromkeys(self._layout, 0)
        self._checksums = dict.fromkeys(self._layout, 0)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def __enter__(self) -> "TensorFileWriter":
        try:
            _write(self._file, memoryview(self._head), 0)
        except OSError:
            os.close(self._file)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for name, tensor in self._layout.items():
                    assert self._written[name] == tensor.num_bytes, f"{name} was not written whole"
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def write(self, name: str, values: Tensor) -> None:
        """The next elements of a tensor, in its dtype; on any device."""
        tensor = self._layout[name]
        values = values.detach().reshape(-1)
        assert values.dtype == tensor.dtype
        # Before anything is written: what is too much would land in the next tensor.
        assert self._written[name] + values.nbytes <= tensor.num_bytes, f"{name} has more elements than its layout"
        for low in range(0, values.numel(), PIECE):
            piece = tensor_bytes(values[low : low + PIECE])
            self._checksums[name] = zlib.crc32(piece, self._checksums[name])
            _write(self._file, piece, self.offsets[name] + self._written[name])
            self._written[name] += len(piece)

    def checksum_of(self, name: str) -> int:
        """CRC-32 of a tensor that is written whole."""
        return self._checksums[name]

    def checksum(self) -> int:
        """CRC-32 of the whole file."""
        parts = [(self._checksums[name], tensor.num_bytes) for name, tensor in self._layout.items()]
        return combine_all([(zlib.crc32(self._head), len(self._head)), *parts])


def _write(file: int, data: memoryview, position: int) -> None:
    while data:
        count = os.pwrite(file, data, position)
        data, position = data[count:], position + count


def read_elements(file: int, offset: int, count: int) -> Tensor:
    """`count` fp32 elements of an open file from byte `offset` on, a fresh tensor.

    Raises:
        OSError, EOFError: the file cannot be read, or ends before.
    """
    values = torch.empty(count, dtype=torch.float32)
    read_into(values, file, offset)
    return values


def file_checksum(path: Path, advance: Callable[[int], object] | None = None) -> tuple[int, int]:
    """CRC-32 and number of bytes of a file.

    Args:
        advance: called with the number of bytes after each piece that was read.
    """
    checksum, num_bytes = 0, 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 24):
            checksum, num_bytes = zlib.crc32(piece, checksum), num_bytes + len(piece)
            if advance is not None:
                advance(len(piece))
    return checksum, num_bytes


def flush_to_disk(path: Path) -> None:
    """Make the kernel write a file's content or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

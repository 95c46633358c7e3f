"""Tensors in weight files: where they lie, and ranges of them read straight to where they are wanted.

Nothing is mapped: pages of a mapped file count as memory of the process, so that a rank would seem to hold the whole
file, and a limit on its memory would end it.
"""

import ctypes
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from xlt_scale.errors import UserError, reason

_NAMES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PIECE = 1 << 18
"""Elements that are converted at a time: what is read is still in the processor's cache when it is converted."""
_PIECE_FOR_GPU = 1 << 22


class StoredTensor(Protocol):
    """A tensor whose values are read when they are wanted.

    Attributes:
        dtype: what the file holds; None where that is not a kind of floating-point numbers.
    """

    @property
    def dtype(self) -> torch.dtype | None: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read_into(self, destination: Tensor, start: int) -> None:
        """Fill a contiguous 1-D tensor, of any floating dtype and on any device, with the flattened tensor's elements
        from `start` on.

        Raises:
            OSError, EOFError: the file cannot be read, or ends before.
        """
        ...


@dataclass(frozen=True)
class TensorInFile:
    """Elements that lie one behind the other in a file, little-endian, from byte `offset` on."""

    path: Path
    offset: int
    dtype: torch.dtype | None
    shape: tuple[int, ...]

    def read_into(self, destination: Tensor, start: int) -> None:
        assert self.dtype is not None and start + destination.numel() <= prod(self.shape)
        file = os.open(self.path, os.O_RDONLY)
        try:
            read_into(destination, file, self.offset + start * self.dtype.itemsize, self.dtype)
        finally:
            os.close(file)


@dataclass(frozen=True)
class TensorInMemory:
    """A tensor of a file that its library could only map or read as a whole."""

    values: Tensor

    @property
    def dtype(self) -> torch.dtype | None:
        return self.values.dtype if self.values.is_floating_point() else None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def read_into(self, destination: Tensor, start: int) -> None:
        width = prod(self.shape[1:])

        def read_piece(piece: Tensor, low: int) -> None:
            first, last = start + low, start + low + piece.numel()
            rows = self.values[first // width : -(-last // width)].reshape(-1)
            piece.copy_(rows[first % width : first % width + piece.numel()])

        fill_in_pieces(destination, self.values.dtype, read_piece)


def find_tensors(path: Path) -> Mapping[str, StoredTensor]:
    """The tensors of a safetensors file, or of PyTorch's (`.bin`) read without unpickling code, by name.

    Raises:
        UserError: the file is absent or torn, or holds more than tensors.
    """
    try:
        return _find_in_safetensors(path) if path.suffix == ".safetensors" else _find_in_pytorch_file(path)
    except Exception as error:  # absent, torn, or a pickle of more than tensors: each library has its own kinds
        raise UserError(f"{path} cannot be read ({reason(error)}); fetch it again, or give it as safetensors") from None


def _find_in_safetensors(path: Path) -> Mapping[str, StoredTensor]:
    # The library checks that header and length agree; it tells no offsets.
    with safe_open(path, framework="pt"), open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(length))
    return {
        name: TensorInFile(path, 8 + length + entry["data_offsets"][0], _NAMES.get(entry["dtype"]), (*entry["shape"],))
        for name, entry in table.items()
        if name != "__metadata__"
    }


def _find_in_pytorch_file(path: Path) -> Mapping[str, StoredTensor]:
    if not zipfile.is_zipfile(path):  # as PyTorch wrote them before 1.6
        return _in_memory(torch.load(path, map_location="cpu", weights_only=True))
    described = torch.load(path, map_location="meta", weights_only=True)
    mapped: Mapping[str, StoredTensor] = {}
    found: dict[str, StoredTensor] = {}
    for name, values in described.items():
        if not isinstance(values, Tensor):
            continue
        begin = values.untyped_storage()._checkpoint_offset
        if begin is not None and values.is_contiguous():
            offset = begin + int(values.storage_offset()) * values.itemsize
            dtype = values.dtype if values.dtype in _NAMES.values() else None
            found[name] = TensorInFile(path, offset, dtype, tuple(values.shape))
        else:
            mapped = mapped or _in_memory(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
            found[name] = mapped[name]
    return found


def _in_memory(tensors: Mapping[str, object]) -> Mapping[str, StoredTensor]:
    return {name: TensorInMemory(values) for name, values in tensors.items() if isinstance(values, Tensor)}


def read_into(destination: Tensor, file: int, offset: int, stored: torch.dtype | None = None) -> None:
    """Fill a contiguous 1-D tensor with the elements of an open file from byte `offset` on.

    Args:
        stored: the dtype of the elements in the file; None means the destination's.

    Raises:
        OSError, EOFError: the file cannot be read, or ends before.
    """
    dtype = stored or destination.dtype
    if destination.device.type == "cpu" and destination.dtype == dtype:
        _read_bytes(destination, file, offset)
        return
    fill_in_pieces(destination, dtype, lambda piece, low: _read_bytes(piece, file, offset + low * dtype.itemsize))


def fill_in_pieces(destination: Tensor, dtype: torch.dtype, read: Callable[[Tensor, int], None]) -> None:
    """Fill a 1-D tensor of any dtype and on any device through a small buffer on the CPU.

    On GPUs there are two buffers that the system cannot move: one is filled while the other is copied, and the GPU
    converts.

    Args:
        dtype: of the buffer.
        read: fills a piece, given with the place of its first element in the destination.
    """
    is_on_gpu = destination.device.type == "cuda"
    size = max(1, min(destination.numel(), _PIECE_FOR_GPU if is_on_gpu else _PIECE))
    buffers = [torch.empty(size, dtype=dtype, pin_memory=is_on_gpu) for _ in range(1 + is_on_gpu)]
    copies = [torch.cuda.Event() for _ in buffers] if is_on_gpu else []
    for number, low in enumerate(range(0, destination.numel(), size)):
        part = destination[low : low + size]
        turn = number % len(buffers)
        piece = buffers[turn][: part.numel()]
        if is_on_gpu:
            copies[turn].synchronize()
        read(piece, low)
        part.copy_(piece, non_blocking=is_on_gpu)
        if is_on_gpu:
            copies[turn].record(torch.cuda.current_stream(destination.device))


def _read_bytes(values: Tensor, file: int, offset: int) -> None:
    if not values.numel():
        return
    view, position = bytes_of(values), offset
    while view:
        num_read = os.preadv(file, [view], position)
        if not num_read:
            raise EOFError("it ends too early")
        view, position = view[num_read:], position + num_read


def bytes_of(values: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU that has elements, to read and to write.

    Not by way of `numpy()`: that marks memory for good as never to be resized, which is how an engine that is done
    with gives it back.
    """
    buffer: Any = (ctypes.c_ubyte * values.nbytes).from_address(values.data_ptr())
    buffer.owner = values  # the memory lives as long as somebody looks at it
    return memoryview(buffer).cast("B")

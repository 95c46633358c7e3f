"""The tensors and values in a folder of `torch.distributed.checkpoint`, read chunk by chunk."""

import io
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, ChunkStorageMetadata, TensorStorageMetadata

from xlt_scale.checkpoint.foreign.dcp_metadata import read_metadata
from xlt_scale.checkpoint.foreign.torch_files import load_torch_stream
from xlt_scale.errors import UserError

_Offsets = tuple[int, ...]


class DcpFolder:
    """A DCP folder by its keys, whatever number of ranks wrote it.

    Attributes:
        tensors: shape, dtype and chunks of every tensor by key.
        values: keys of what is no tensor.

    Raises:
        UserError: the metadata is missing or damaged, or not what DCP writes.
    """

    def __init__(self, folder: Path) -> None:
        metadata = read_metadata(folder)
        self.folder = folder
        entries = metadata.state_dict_metadata
        self.tensors = {key: found for key, found in entries.items() if isinstance(found, TensorStorageMetadata)}
        self.values = [key for key, found in entries.items() if isinstance(found, BytesStorageMetadata)]
        self._places: dict[tuple[str, _Offsets | None], Any] = {}
        for index, place in metadata.storage_data.items():
            offset = None if index.offset is None else tuple(index.offset)
            self._places[index.fqn, offset] = place

    @property
    def num_writers(self) -> int:
        """Ranks that wrote files, by the numbers in the files' names."""
        return len({str(place.relative_path).rpartition("_")[0] for place in self._places.values()})

    def value(self, key: str) -> Any:
        """What is stored under a key, whole: a plain value or a small tensor."""
        if key in self.tensors:
            chunks = list(self.read(key))
            return torch.cat(chunks).reshape(tuple(self.tensors[key].size))
        return self._load(key, None)

    def read(self, key: str) -> Iterator[Tensor]:
        """Consecutive pieces of a flattened tensor. Holds one stored chunk where the chunks are blocks of whole rows,
        as FSDP's are, else the whole tensor.

        Raises:
            UserError: chunks are missing or overlap, or a file is damaged.
        """
        found = self.tensors[key]
        shape = tuple(found.size)
        chunks = sorted((chunk for chunk in found.chunks if prod(chunk.sizes)), key=lambda chunk: tuple(chunk.offsets))
        if sum(prod(chunk.sizes) for chunk in chunks) != prod(shape):
            raise UserError(f"{self.folder}: the chunks of {key} do not tile its shape {list(shape)}; it is damaged")
        if all(tuple(chunk.sizes[1:]) == shape[1:] for chunk in chunks):
            position = 0
            for chunk in chunks:
                if shape and chunk.offsets[0] != position:
                    raise UserError(f"{self.folder}: rows of {key} near {position} are missing or twice; it is damaged")
                yield self._chunk(key, chunk).reshape(-1)
                position += chunk.sizes[0] if shape else 0
            return
        whole = torch.empty(shape, dtype=found.properties.dtype)
        covered = torch.zeros(shape, dtype=torch.bool)
        for chunk in chunks:
            block = tuple(slice(low, low + size) for low, size in zip(chunk.offsets, chunk.sizes, strict=True))
            whole[block] = self._chunk(key, chunk)
            covered[block] = True
        if not covered.all():
            raise UserError(f"{self.folder}: elements of {key} are missing; it is damaged")
        yield whole.reshape(-1)

    def _chunk(self, key: str, chunk: ChunkStorageMetadata) -> Tensor:
        tensor = self._load(key, tuple(chunk.offsets))
        if not isinstance(tensor, Tensor) or tensor.numel() != prod(chunk.sizes):
            raise UserError(f"{self.folder}: a chunk of {key} is not as its metadata say; it is damaged")
        return tensor.reshape(tuple(chunk.sizes))

    def _load(self, key: str, offset: _Offsets | None) -> Any:
        place = self._places.get((key, offset)) or self._places.get((key, None))
        if place is None:
            raise UserError(f"{self.folder}: a chunk of {key} is stored nowhere; it is damaged")
        path = self.folder / str(place.relative_path)
        if Path(place.relative_path).name != str(place.relative_path):
            raise UserError(f"{self.folder}: {key} is said to lie outside, in {place.relative_path}; it is not read")
        if getattr(place, "transform_descriptors", None):
            raise UserError(f"{path} is compressed ({place.transform_descriptors[0]}); save it again without")
        try:
            with open(path, "rb", buffering=0) as file:
                return load_torch_stream(io.BufferedReader(_Slice(file, place.offset, place.length)), path)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); use another checkpoint") from None


class _Slice(io.RawIOBase):
    """The bytes [start, start + length) of an open file, as a file of their own."""

    def __init__(self, file: io.FileIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._position = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._length - self._position)]
        count = os.preadv(self._file.fileno(), [view], self._start + self._position) if view else 0
        self._position += count
        return count

"""Read ranges of a checkpoint, whatever engine and world size wrote it."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from xlt_scale.checkpoint.checksum import combine_all, tensor_checksum
from xlt_scale.checkpoint.manifest import ADAPTERS_ONLY, BYTES_PER_ELEMENT, Manifest, StoredRange, read_manifest
from xlt_scale.errors import UserError
from xlt_scale.modeling.parameters import ParameterSpec
from xlt_scale.modeling.stored_tensors import fill_in_pieces, read_into
from xlt_scale.modeling.weights import WeightSource


class CheckpointReader:
    """The tensors of a checkpoint by key; of the files only the bytes asked for are read. Does not communicate.

    Args:
        manifest: of that folder, where the caller has it; else it is read.

    Raises:
        UserError: the checkpoint is missing, unfinished or broken.
    """

    def __init__(self, folder: Path, manifest: Manifest | None = None) -> None:
        self.folder = folder
        self.manifest = manifest or read_manifest(folder)
        self._open: dict[str, int] = {}
        self._read: dict[str, list[tuple[int, int, int]]] = {}
        self._is_noted: Callable[[str], bool] = lambda key: True

    def has(self, key: str) -> bool:
        return key in self.manifest.tensors

    def read(self, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a flattened tensor, fp32 on the CPU.

        Raises:
            UserError: a file is missing or ends early, or the tensor has fewer elements.
        """
        values = torch.empty(stop - start)
        self.read_into(values, key, start)
        return values

    def read_into(self, destination: Tensor, key: str, start: int) -> None:
        """Fill a contiguous 1-D tensor, of any floating dtype and on any device, with the elements of a flattened
        tensor from `start` on.

        Raises:
            UserError: a file is missing or ends early, or the tensor has fewer elements.
        """
        stored, stop = self.manifest.tensors[key], start + destination.numel()
        if stop > stored.numel:
            raise UserError(f"{self.folder}: {key} has {stored.numel} elements, the model wants {stop}")
        if destination.device.type != "cpu" or destination.dtype != torch.float32:
            # Checksums are of what is stored.
            fill_in_pieces(destination, torch.float32, lambda piece, low: self.read_into(piece, key, start + low))
            return
        for part in stored.ranges:
            low, high = max(start, part.start), min(stop, part.stop)
            if low < high:
                values = destination[low - start : high - start]
                self._read_part(values, part, low)
                if self._is_noted(key):
                    self._read.setdefault(key, []).append((low, high, tensor_checksum(values)))

    def note_checksums(self, of: Callable[[str], bool]) -> None:
        """Of which keys `checksum_of_read` will be asked: nobody pays for the others' checksums. At first of all."""
        self._is_noted = of

    def checksum_of_read(self, key: str) -> tuple[int, int, int]:
        """What has been read of a tensor from its lowest element on, as (start, number of bytes, checksum): for
        comparing with the manifest, joined over ranks. (0, 0, 0) when nothing was.
        """
        pieces = sorted(set(self._read.get(key, [])))
        checksum = combine_all((found, BYTES_PER_ELEMENT * (stop - start)) for start, stop, found in pieces)
        num_bytes = BYTES_PER_ELEMENT * sum(stop - start for start, stop, _ in pieces)
        return (pieces[0][0] if pieces else 0, num_bytes, checksum)

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _read_part(self, values: Tensor, part: StoredRange, start: int) -> None:
        try:
            if part.file not in self._open:
                self._open[part.file] = os.open(self.folder / part.file, os.O_RDONLY)
            read_into(values, self._open[part.file], part.offset + BYTES_PER_ELEMENT * (start - part.start))
        except (OSError, EOFError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{self.folder / part.file} cannot be read ({why}); use another checkpoint") from None


def refuse_adapters_alone(reader: CheckpointReader, wanted: Iterable[str]) -> None:
    """
    Raises:
        UserError: the checkpoint is of an unfinished phase with adapters, and some of the encoder's weights are wanted,
            which it has not.
    """
    beside = reader.manifest.facts.get(ADAPTERS_ONLY)
    missing = (name for name in wanted if name.startswith("encoder.") and not reader.has(f"param/{name}"))
    if beside is not None and next(missing, None) is not None:
        raise UserError(
            f"{reader.folder} holds adapters and heads alone, beside the encoder {beside}; let its phase end, and use "
            "the phase's folder: its result has them merged"
        )


class CheckpointWeights(WeightSource):
    """The parameters of a checkpoint as a `WeightSource`, checked against the model that wants them.

    Args:
        parameters: what the model wants; an encoder parameter that is stored in another shape, is not stored, or is
            stored and not wanted, is an error.

    Raises:
        UserError: the checkpoint is of another architecture.
    """

    def __init__(self, reader: CheckpointReader, parameters: Mapping[str, ParameterSpec]) -> None:
        self.reader = reader
        folder, tensors = reader.folder, reader.manifest.tensors
        refuse_adapters_alone(reader, parameters)
        mend = "the checkpoint is of another architecture: mend [model] or the parent"
        for name, spec in parameters.items():
            stored = tensors.get(f"param/{name}")
            if stored is None:
                if name.startswith("encoder."):
                    raise UserError(f"{folder}: {name} is missing; {mend}")
            elif stored.shape != spec.shape and name.startswith("encoder."):
                raise UserError(
                    f"{folder}: {name} has shape {list(stored.shape)}, the model wants {list(spec.shape)}; {mend}"
                )
        for key in tensors:
            if key.startswith("param/encoder.") and key.removeprefix("param/") not in parameters:
                raise UserError(f"{folder}: the model has no {key.removeprefix('param/')}; {mend}")

    def has(self, name: str) -> bool:
        return self.reader.has(f"param/{name}")

    def read_into(self, destination: Tensor, name: str, start: int) -> None:
        self.reader.read_into(destination, f"param/{name}", start)

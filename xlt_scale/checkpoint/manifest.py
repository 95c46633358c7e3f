"""The manifest of a checkpoint: which tensor lies where, in JSON that any program can read."""

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.checksum import combine_all
from xlt_scale.errors import UserError

FORMAT = "xlt_scale checkpoint"
FORMAT_VERSION = 2
ADAPTERS_ONLY = "adapters_beside"
"""The fact that marks a checkpoint of adapters and heads without the encoder: what encoder they stand beside."""
MANIFEST = "manifest.json"
COMPLETE = "COMPLETE"
BYTES_PER_ELEMENT = 4  # everything that is stored is fp32


@dataclass(frozen=True)
class StoredRange:
    """Elements [start, stop) of a flattened fp32 tensor.

    Attributes:
        offset: where its bytes begin in the file, little-endian fp32.
        crc32: checksum of those bytes.
    """

    start: int
    stop: int
    file: str
    offset: int
    crc32: int

    @property
    def num_bytes(self) -> int:
        return BYTES_PER_ELEMENT * (self.stop - self.start)


@dataclass(frozen=True)
class StoredFile:
    """A safetensors file as it was written."""

    num_bytes: int
    crc32: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor by its original shape and the ranges that tile it, in their order."""

    shape: tuple[int, ...]
    ranges: tuple[StoredRange, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def crc32(self) -> int:
        """The checksum of the whole tensor's content, whatever its ranges."""
        return combine_all((part.crc32, part.num_bytes) for part in self.ranges)


@dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint but its numbers.

    Attributes:
        tensors: by key: 'param/<name>' is the fp32 master of a parameter, 'exp_avg/<name>' and 'exp_avg_sq/<name>' are
            AdamW's moments, where the checkpoint holds a training state.
        files: by name inside the folder.
        facts: what made it: phase, step, model, optimiser, engine, world size, versions (docs/checkpoints.md).
    """

    tensors: dict[str, StoredTensor]
    files: dict[str, StoredFile]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def holds_training_state(self) -> bool:
        """Whether training can go on from it; else it has weights only."""
        return "optimizer" in self.facts

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files.values())

    def to_json(self) -> str:
        table = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "facts": self.facts,
            "files": {name: asdict(file) for name, file in self.files.items()},
            "tensors": {key: asdict(tensor) for key, tensor in self.tensors.items()},
        }
        return json.dumps(table, indent=1)

    def check_coverage(self, place: Path) -> None:
        """Every element of every tensor is stored exactly once, in a file that is listed, else a `UserError`."""
        for key, tensor in self.tensors.items():
            position = 0
            for part in tensor.ranges:
                if part.start != position:
                    kind = "missing" if part.start > position else "stored twice"
                    raise UserError(f"{place}: elements of {key} near {position} are {kind}; use another checkpoint")
                file = self.files.get(part.file)
                if file is None or part.offset < 0 or part.offset + part.num_bytes > file.num_bytes:
                    raise UserError(f"{place}: {key} lies outside of its file {part.file}; use another checkpoint")
                if part.stop <= part.start:
                    raise UserError(f"{place}: {key} has a range that ends before it begins; use another checkpoint")
                position = part.stop
            if position != tensor.numel:
                raise UserError(f"{place}: {key} ends at {position} of {tensor.numel}; use another checkpoint")


def complete_marker(manifest_json: str) -> str:
    """What the COMPLETE file says: the checksum of the manifest."""
    return f"{zlib.crc32(manifest_json.encode())}\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished checkpoint. Called on any rank, does not communicate.

    Raises:
        UserError: the folder holds no checkpoint, an unfinished or broken one, or one of another format version.
    """
    if not (folder / COMPLETE).is_file():
        state = "is unfinished" if (folder / MANIFEST).is_file() else "holds no checkpoint"
        raise UserError(f"{folder} {state}; give a finished phase, or a checkpoint folder with a {COMPLETE} file")
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        table = json.loads(text)
        if table["format"] != FORMAT or table["version"] != FORMAT_VERSION:
            raise UserError(
                f"{folder}: format version {table['version']} is not {FORMAT_VERSION}; use a matching release"
            )
        if (folder / COMPLETE).read_text() != complete_marker(text):
            raise ValueError(f"it is not the one that {COMPLETE} was written for")
        tensors = {
            key: StoredTensor(tuple(entry["shape"]), tuple(StoredRange(**part) for part in entry["ranges"]))
            for key, entry in table["tensors"].items()
        }
        files = {name: StoredFile(**entry) for name, entry in table["files"].items()}
        manifest = Manifest(tensors, files, dict(table["facts"]))
    except UserError:
        raise
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST} is broken ({error}); use another checkpoint") from None
    manifest.check_coverage(folder)
    return manifest


def join_ranges(
    shapes: Mapping[str, tuple[int, ...]], parts: Iterable[Mapping[str, StoredRange]]
) -> dict[str, StoredTensor]:
    """The tensors of a manifest from what each rank has stored. Empty ranges are left out."""
    ranges: dict[str, list[StoredRange]] = {key: [] for key in shapes}
    for stored in parts:
        for key, part in stored.items():
            if part.stop > part.start:
                ranges[key].append(part)
    return {
        key: StoredTensor(shapes[key], tuple(sorted(found, key=lambda part: part.start)))
        for key, found in ranges.items()
    }

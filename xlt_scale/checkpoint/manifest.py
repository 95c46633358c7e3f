"""The manifest of a checkpoint: which tensor lies where, in JSON that any program can read."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.digest import add_digests
from xlt_scale.errors import UserError

FORMAT = "xlt_scale checkpoint"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
COMPLETE = "COMPLETE"


@dataclass(frozen=True)
class StoredRange:
    """Elements [start, stop) of a flattened tensor, stored under the tensor's name in a safetensors file."""

    start: int
    stop: int
    file: str
    digest: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor by its original shape and the ranges that tile it."""

    shape: tuple[int, ...]
    ranges: tuple[StoredRange, ...]

    @property
    def numel(self) -> int:
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def digest(self) -> int:
        """The content hash of the whole tensor, whatever its ranges."""
        total = 0
        for part in self.ranges:
            total = add_digests(total, part.digest)
        return total


@dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint but its numbers.

    Attributes:
        tensors: by name; fp32 master parameters are 'param/<parameter name>'.
        facts: what made it: phase, step, model, engine, world size, versions.
    """

    tensors: dict[str, StoredTensor]
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        table = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "facts": self.facts,
            "tensors": {name: asdict(tensor) for name, tensor in self.tensors.items()},
        }
        return json.dumps(table, indent=1)

    def check_coverage(self, place: Path) -> None:
        """Every element of every tensor is stored exactly once, else a `UserError`."""
        for name, tensor in self.tensors.items():
            position = 0
            for part in sorted(tensor.ranges, key=lambda part: (part.start, part.stop)):
                if part.start != position:
                    kind = "missing" if part.start > position else "stored twice"
                    raise UserError(f"{place}: elements of {name} near {position} are {kind}; use another checkpoint")
                position = part.stop
            if position != tensor.numel:
                raise UserError(f"{place}: {name} ends at {position} of {tensor.numel}; use another checkpoint")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished checkpoint.

    Raises:
        UserError: the folder holds no checkpoint, an unfinished or broken one, or one of another format version.
    """
    if not (folder / COMPLETE).is_file():
        state = "is unfinished" if (folder / MANIFEST).is_file() else "holds no checkpoint"
        raise UserError(f"{folder} {state}; give a finished phase, or a checkpoint folder with a {COMPLETE} file")
    try:
        table = json.loads((folder / MANIFEST).read_bytes())
        if table["format"] != FORMAT or table["version"] != FORMAT_VERSION:
            raise UserError(
                f"{folder}: format version {table['version']} is not {FORMAT_VERSION}; use a matching release"
            )
        tensors = {
            name: StoredTensor(tuple(entry["shape"]), tuple(StoredRange(**part) for part in entry["ranges"]))
            for name, entry in table["tensors"].items()
        }
        manifest = Manifest(tensors, table["facts"])
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST} is broken ({error}); use another checkpoint") from None
    manifest.check_coverage(folder)
    return manifest


def join_ranges(shapes: dict[str, tuple[int, ...]], parts: Iterable[dict[str, StoredRange]]) -> dict[str, StoredTensor]:
    """The tensors of a manifest from what each rank has stored."""
    ranges: dict[str, list[StoredRange]] = {name: [] for name in shapes}
    for stored in parts:
        for name, part in stored.items():
            ranges[name].append(part)
    return {
        name: StoredTensor(shapes[name], tuple(sorted(found, key=lambda part: part.start)))
        for name, found in ranges.items()
    }

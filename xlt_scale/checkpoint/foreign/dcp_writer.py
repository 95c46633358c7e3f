"""A checkpoint of ours as a folder of `torch.distributed.checkpoint`, written a block of rows at a time.

Keys and values are those of `get_state_dict` with flattened optimiser state, saved as `{"model": ..., "optim": ...}`:
`model.<name>`, `optim.state.<name>.exp_avg`, `.exp_avg_sq` and `.step`, `optim.param_groups.<name>.lr` and so on with
all settings of PyTorch's AdamW. Tensors are fp32 in their original shape.
"""

import io
import shutil
import warnings
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, StorageMeta, TensorProperties
from torch.distributed.checkpoint.planner import (
    BytesIOWriteData,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from xlt_scale.checkpoint.checksum import PIECE
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.engines.interface import MOMENTS
from xlt_scale.errors import UserError, reason

STEP = "step"


def write_distributed_checkpoint(source: Path, destination: Path) -> None:
    """Write a checkpoint of ours as a DCP folder of one writer.

    Holds three copies of a block of rows, of at most 64 MiB, or of one row where a row is larger.

    Raises:
        UserError: the checkpoint is damaged, its optimiser groups cannot be told, or the folder cannot be written.
    """
    if destination.exists():
        raise UserError(f"{destination} exists already; name a new folder")
    reader = CheckpointReader(source)
    planner = _StreamingPlanner(reader, _tensors(reader), _values(reader))
    # Copying ahead would hold several blocks.
    writer = dcp.FileSystemWriter(destination, thread_count=1, per_thread_copy_ahead=0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*assuming the intent is to save in a single process", UserWarning)
            dcp.save({}, storage_writer=writer, planner=planner, no_dist=True)
    except (OSError, CheckpointException) as error:
        shutil.rmtree(destination, ignore_errors=True)
        if planner.unreadable:
            raise planner.unreadable[0] from None
        failures = list(error.failures.values()) if isinstance(error, CheckpointException) else []
        cause = reason(failures[0][0] if failures else error)
        raise UserError(f"{destination} cannot be written ({cause}); free space or choose another folder") from None
    finally:
        reader.close()


def _tensors(reader: CheckpointReader) -> dict[tuple[str, ...], str]:
    """Our key of each tensor by its path in nested dictionaries."""
    paths: dict[tuple[str, ...], str] = {}
    for key in reader.manifest.tensors:
        kind, _, name = key.partition("/")
        path = ("optim", f"state.{name}.{kind}") if kind in MOMENTS else ("model", name)
        paths[path] = key
    return paths


def _values(reader: CheckpointReader) -> dict[tuple[str, ...], Any]:
    """What is no tensor of ours, by its path in nested dictionaries."""
    facts = reader.manifest.facts
    values: dict[tuple[str, ...], Any] = {(STEP,): int(facts["step"])} if "step" in facts else {}
    if not reader.manifest.holds_training_state:
        return values
    optimizer = facts["optimizer"]
    # What PyTorch's AdamW has beside; a loader asks for all of them.
    others = torch.optim.AdamW([torch.zeros(1)]).defaults
    for name, group in group_of_parameters(reader).items():
        values["optim", f"state.{name}.step"] = torch.tensor(float(optimizer["num_steps"]))
        settings = others | optimizer["groups"][group] | {"name": group}
        settings["betas"] = tuple(settings["betas"])
        for setting, value in settings.items():
            values["optim", f"param_groups.{name}.{setting}"] = value
    return values


def group_of_parameters(reader: CheckpointReader) -> dict[str, str]:
    """The optimiser group of each parameter that has moments: as the checkpoint says, else by the rule of our engines.

    Raises:
        UserError: it does not say, and the groups are not our engines'.
    """
    manifest = reader.manifest
    optimizer: Mapping[str, Any] = manifest.facts["optimizer"]
    groups = optimizer["groups"]
    said = {name: group for group, names in (optimizer.get("members") or {}).items() for name in names}
    found = {}
    for key, tensor in manifest.tensors.items():
        kind, _, name = key.partition("/")
        if kind != MOMENTS[0]:
            continue
        by_rule = ("decay", "decay_in_8_bits") if len(tensor.shape) > 1 else ("no_decay",)
        candidates = [said[name]] if name in said else [group for group in by_rule if group in groups]
        if not candidates and len(groups) == 1:
            candidates = list(groups)
        if not candidates:
            raise UserError(f"{reader.folder}: nothing says which group {name} is in ({', '.join(groups)})")
        found[name] = candidates[0]
    return found


class _StreamingPlanner(DefaultSavePlanner):
    """Plans what is written from the manifest; reads each block when DCP asks for it.

    Attributes:
        unreadable: what could not be read; DCP wraps errors in its own.
    """

    def __init__(
        self, reader: CheckpointReader, tensors: Mapping[tuple[str, ...], str], values: Mapping[tuple[str, ...], Any]
    ) -> None:
        super().__init__()
        self._reader = reader
        self._paths = {".".join(path): path for path in (*tensors, *values)}
        self._tensors = {".".join(path): key for path, key in tensors.items()}
        self._values = {".".join(path): value for path, value in values.items()}
        self._last = torch.empty(0)
        self.unreadable: list[UserError] = []

    def set_up_planner(
        self, state_dict: Any, storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        self.is_coordinator = is_coordinator

    def create_local_plan(self) -> SavePlan:
        items = [item for name, key in self._tensors.items() for item in self._blocks(name, key)]
        for name, value in self._values.items():
            if isinstance(value, Tensor):
                items.append(_block(name, tuple(value.shape), (), tuple(value.shape), WriteItemType.TENSOR))
            else:
                items.append(WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO, BytesIOWriteData(0)))
        self.plan = SavePlan(items, planner_data=self._paths)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        name = write_item.index.fqn
        if name in self._values:
            value = self._values[name]
            return value if isinstance(value, Tensor) else _saved(value)
        assert write_item.tensor_data is not None
        chunk = write_item.tensor_data.chunk
        row = prod(chunk.sizes[1:])
        start = row * (chunk.offsets[0] if chunk.offsets else 0)
        # Each call comes after the block before was written. torch.save leaves it in a cycle of references, and so in
        # memory until Python collects: its memory is taken from under it. A copy, since what NumPy saw is not resized.
        self._last.untyped_storage().resize_(0)
        try:
            self._last = self._reader.read(self._tensors[name], start, start + prod(chunk.sizes)).clone()
        except UserError as error:
            self.unreadable.append(error)
            raise
        return self._last.view(tuple(chunk.sizes))

    def _blocks(self, name: str, key: str) -> list[WriteItem]:
        shape = self._reader.manifest.tensors[key].shape
        if not prod(shape) or not shape:
            return [_block(name, shape, (0,) * len(shape), shape, WriteItemType.TENSOR)]
        rows = max(1, PIECE // prod(shape[1:]))
        kind = WriteItemType.TENSOR if rows >= shape[0] else WriteItemType.SHARD
        return [
            _block(name, shape, (low, *(0,) * len(shape[1:])), (min(rows, shape[0] - low), *shape[1:]), kind)
            for low in range(0, shape[0], rows)
        ]


def _block(
    name: str, shape: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...], kind: WriteItemType
) -> WriteItem:
    chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
    data = TensorWriteData(chunk, TensorProperties(torch.float32), torch.Size(shape))
    return WriteItem(MetadataIndex(name, offsets), kind, tensor_data=data)


def _saved(value: Any) -> io.BytesIO:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream

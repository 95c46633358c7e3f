"""What DeepSpeed's checkpoint folders of either kind have in common."""

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from torch import Tensor

from xlt_scale.checkpoint.foreign.state import adamw_settings, group_names
from xlt_scale.checkpoint.foreign.torch_files import enumeration_member, load_torch_file
from xlt_scale.errors import UserError

_RANK_FILE = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_(model|optim)_states\.pt")


class _LossScaler:
    """Stands for DeepSpeed's loss scaler, of which nothing is used: our precisions need none."""


class _ZeroStage(IntEnum):
    """Stands for DeepSpeed's enumeration of that name."""

    disabled = 0
    optimizer_states = 1
    gradients = 2
    weights = 3
    max_stage = 3


REPLACEMENTS: dict[str, Any] = {
    "builtins.getattr": enumeration_member,
    "deepspeed.runtime.zero.config.ZeroStageEnum": _ZeroStage,
    "deepspeed.runtime.fp16.loss_scaler.LossScaler": _LossScaler,
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler": _LossScaler,
}


def load_deepspeed_file(path: Path) -> Any:
    """A file of DeepSpeed's; tensors are memory-mapped.

    Raises:
        UserError: it is missing or damaged, or holds more than DeepSpeed itself puts there.
    """
    return load_torch_file(path, REPLACEMENTS)


def step_folder(folder: Path, pointer: str) -> Path:
    """The folder of one step: `folder` itself, or the one that its file `pointer` names.

    Raises:
        UserError: the file names a folder that is not there.
    """
    if not (folder / pointer).is_file():
        return folder
    name = (folder / pointer).read_text(encoding="utf-8", errors="replace").strip()
    if not name or Path(name).name != name or not (folder / name).is_dir():
        raise UserError(f"{folder / pointer} names {name!r}, which is not there; give the folder of a step")
    return folder / name


def rank_files(folder: Path, kind: str) -> list[Path]:
    """The 'model' or 'optim' files of all ranks, in rank order.

    Raises:
        UserError: one is missing, or tensors are split over several model-parallel ranks.
    """
    found: dict[int, Path] = {}
    for path in folder.glob(f"*zero_pp_rank_*_{kind}_states.pt"):
        match = _RANK_FILE.fullmatch(path.name)
        if match is None:
            continue
        if int(match[2]):
            raise UserError(f"{path}: tensor-parallel checkpoints are not read; convert with ds_to_universal first")
        found[int(match[1])] = path
    for rank in range(max(found, default=-1) + 1):
        if rank not in found:
            raise UserError(f"{folder}: the {kind}_states file of rank {rank} is missing; copy it there")
    return [found[rank] for rank in sorted(found)]


def rank_elements(numel: int, world_size: int, rank: int) -> int:
    """Elements of a parameter of `numel` on a rank of ZeRO-3: a `world_size`-th rounded up, what is left on the last
    ranks.
    """
    size = partition_size(numel, world_size)
    return max(0, min(size, numel - rank * size))


def partition_size(numel: int, world_size: int) -> int:
    """Elements that a parameter takes on every rank, padding included."""
    return -(-numel // world_size)


def frozen_shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that are not trained, by name."""
    return {name: tuple(shape) for name, shape in (model.get("frozen_param_shapes") or {}).items()}


def read_frozen(models: Sequence[Mapping[str, Any]], name: str, numel: int, place: Path) -> Iterator[Tensor]:
    """A parameter that is not trained, rank by rank; each rank's model file holds its part.

    Raises:
        UserError: a rank's file lacks it.
    """
    for rank, model in enumerate(models):
        fragment = (model.get("frozen_param_fragments") or {}).get(name)
        if fragment is None:
            raise UserError(f"{place}: frozen parameter {name} is missing on rank {rank}; save without excluding it")
        yield fragment.reshape(-1)[: rank_elements(numel, len(models), rank)]


def read_groups(
    groups: Sequence[Mapping[str, Any]], sub_groups: Sequence[Mapping[str, Any]], place: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Hyper-parameters and members of each optimiser group by its name.

    Args:
        sub_groups: shapes by parameter name of each flat tensor, in the numbering that the groups' 'params' use.
    """
    settings, members = {}, {}
    for name, group in zip(group_names(groups), groups, strict=True):
        settings[name] = adamw_settings(group, place)
        numbers = [number for number in group.get("params", []) if number < len(sub_groups)]
        members[name] = [parameter for number in numbers for parameter in sub_groups[number]]
    return settings, members

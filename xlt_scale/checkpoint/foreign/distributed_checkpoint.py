"""Training states in folders of `torch.distributed.checkpoint`, by the names that PyTorch and torchtitan give them.

Keys are those of `torch.distributed.checkpoint.state_dict.get_state_dict`, saved as `{"model": ..., "optim": ...}` (or
`"optimizer"`), with parameter groups by number or, as torchtitan has them, flattened to each parameter. torchtitan
keeps the model's names at the top, without `model.`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from xlt_scale.checkpoint.foreign.dcp_tensors import DcpFolder
from xlt_scale.checkpoint.foreign.state import (
    ForeignState,
    OptimizerState,
    adamw_settings,
    common_step,
    group_names,
    moment_keys,
)
from xlt_scale.engines.interface import MOMENTS
from xlt_scale.errors import UserError

_OPTIMIZER = re.compile(r"((?:.*?\.)?(?:optim|optimizer)\.)(?:state|param_groups)\.")
_NO_MODEL = re.compile(r"(optim|optimizer|lr_scheduler|scheduler|dataloader|train_state|rng_state)(\.|$)")
_STEPS = ("step", "train_state.step")


@dataclass
class _Group:
    """An optimiser group as it is put together from single values."""

    settings: dict[str, Any] = field(default_factory=dict)
    parameters: list[str] = field(default_factory=list)


def read_distributed_checkpoint(folder: Path, with_optimizer: bool = True) -> ForeignState:
    """The training state, or the weights, in a DCP folder of whatever world size.

    Raises:
        UserError: it is incomplete, damaged, or its optimiser is not AdamW by parameter names.
    """
    stored = DcpFolder(folder)
    keys = [*stored.tensors, *stored.values]
    optimizer_prefix = next((match[1] for match in map(_OPTIMIZER.match, keys) if match), "")
    moments_of = _moments_by_name(stored, optimizer_prefix) if optimizer_prefix else {}
    weights, skipped = _weights(stored, optimizer_prefix, moments_of)
    if not weights:
        raise UserError(f"{folder} holds no model under 'model.' or at the top; save it as {{'model': state_dict}}")
    places = {f"param/{name}": key for name, key in weights.items()}
    optimizer = None
    if with_optimizer and moments_of:
        for name in moments_of:
            if name not in weights:
                raise UserError(f"{folder}: the optimiser has states of {name}, the model has no such parameter")
            places |= dict(zip(moment_keys(name), (moments_of[name][kind] for kind in MOMENTS), strict=True))
        optimizer = _read_optimizer(stored, optimizer_prefix, moments_of)
    step = next((int(stored.value(key)) for key in _STEPS if key in keys), optimizer.num_steps if optimizer else None)

    def read(key: str) -> Iterator[Tensor]:
        return stored.read(places[key])

    return ForeignState(
        format="torch.distributed.checkpoint",
        folder=folder,
        world_size=stored.num_writers,
        step=step,
        shapes={key: tuple(stored.tensors[place].size) for key, place in places.items()},
        read=read,
        optimizer=optimizer,
        notes=(f"{len(skipped)} tensors are no floating-point numbers and were left out",) if skipped else (),
    )


def _moments_by_name(stored: DcpFolder, prefix: str) -> dict[str, dict[str, str]]:
    """Keys of the moments of each parameter that has them."""
    found: dict[str, dict[str, str]] = {}
    for key in stored.tensors:
        if key.startswith(f"{prefix}state."):
            name, _, kind = key.removeprefix(f"{prefix}state.").rpartition(".")
            found.setdefault(name, {})[kind] = key
    if found and all(name.isdigit() for name in found):
        raise UserError(
            f"{stored.folder}: the optimiser's states go by number; save those of "
            "torch.distributed.checkpoint.state_dict.get_state_dict, which go by name"
        )
    for name, kinds in found.items():
        if not set(MOMENTS) <= kinds.keys():
            raise UserError(
                f"{stored.folder}: states {', '.join(sorted(kinds))} of {name} are not AdamW's; "
                "convert with --weights-only"
            )
    return found


def _weights(
    stored: DcpFolder, optimizer_prefix: str, moments_of: dict[str, dict[str, str]]
) -> tuple[dict[str, str], list[str]]:
    """Keys of the model's tensors by name, and those that are left out."""
    above = re.sub(r"(optim|optimizer)\.$", "", optimizer_prefix)
    for prefix in (f"{above}model.", above, "model.", ""):
        keys = [
            key
            for key in stored.tensors
            if key.startswith(prefix)
            and not (optimizer_prefix and key.startswith(optimizer_prefix))
            and not _NO_MODEL.match(key)
        ]
        names = {key.removeprefix(prefix): key for key in keys}
        if names and (not moments_of or not moments_of.keys().isdisjoint(names)):
            dtypes = {name: stored.tensors[key].properties.dtype for name, key in names.items()}
            weights = {name: key for name, key in names.items() if dtypes[name].is_floating_point}
            return weights, sorted(names.keys() - weights.keys())
    return {}, []


def _read_optimizer(stored: DcpFolder, prefix: str, moments_of: dict[str, dict[str, str]]) -> OptimizerState:
    groups = _groups(stored, f"{prefix}param_groups.")
    names = group_names([group.settings for group in groups])
    steps = [stored.value(kinds["step"]) for kinds in moments_of.values() if "step" in kinds]
    steps += [stored.value(key) for key in stored.values if key.startswith(f"{prefix}state.") and key.endswith(".step")]
    return OptimizerState(
        num_steps=common_step(steps, stored.folder),
        groups={name: adamw_settings(group.settings, stored.folder) for name, group in zip(names, groups, strict=True)},
        members={name: group.parameters for name, group in zip(names, groups, strict=True)},
    )


def _groups(stored: DcpFolder, prefix: str) -> list[_Group]:
    """Optimiser groups from values under '<number>.<setting>', or '<parameter>.<setting>' where they are flattened."""
    owners: dict[str, _Group] = {}
    for key in [*stored.values, *stored.tensors]:
        if key.startswith(prefix):
            owner, _, setting = key.removeprefix(prefix).rpartition(".")
            owners.setdefault(owner, _Group()).settings[setting] = stored.value(key)
    if not owners:
        raise UserError(f"{stored.folder} says nothing of the optimiser's groups; convert with --weights-only")
    if all(owner.isdigit() for owner in owners):
        groups = [owners[owner] for owner in sorted(owners, key=int)]
        for group in groups:
            group.parameters = [str(name) for name in group.settings.pop("params", [])]
        return groups
    groups = []
    for owner, found in owners.items():
        if found.settings not in [group.settings for group in groups]:
            groups.append(_Group(found.settings))
        next(group for group in groups if group.settings == found.settings).parameters.append(owner)
    return groups

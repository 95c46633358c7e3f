"""A checkpoint of another program as our format sees it, and how it becomes one of ours."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlt_scale.checkpoint.checksum import PIECE
from xlt_scale.checkpoint.manifest import Manifest
from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.engines.interface import MOMENTS
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError, nearest

WEIGHTS_ONLY_MEND = "convert with --weights-only"


@dataclass(frozen=True)
class OptimizerState:
    """AdamW's state beside its tensors.

    Attributes:
        num_steps: steps that the moments have seen.
        groups: lr, weight_decay, betas and eps of each group by its name.
        members: the parameters of each group, where the checkpoint says them.
    """

    num_steps: int
    groups: dict[str, dict[str, Any]]
    members: dict[str, list[str]]


@dataclass(frozen=True)
class ForeignState:
    """What another program has saved.

    Attributes:
        format: of the folder, in words.
        world_size: ranks that wrote it; 0 where it does not say.
        step: optimiser steps of the run; None where it does not say.
        shapes: of every tensor by key: 'param/<name>', 'exp_avg/<name>', 'exp_avg_sq/<name>'.
        read: consecutive pieces of a flattened tensor, floating point on the CPU. Nothing is read before.
        optimizer: None where the folder holds weights only.
        notes: what the user should know, one line each.
    """

    format: str
    folder: Path
    world_size: int
    step: int | None
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Iterator[Tensor]]
    optimizer: OptimizerState | None
    notes: tuple[str, ...] = field(default=())

    @property
    def parameters(self) -> list[str]:
        return [key.removeprefix("param/") for key in self.shapes if key.startswith("param/")]


def write_ours(
    state: ForeignState, destination: Path, facts: Mapping[str, Any], groups: Sequence[tuple[str, str]] = ()
) -> Manifest:
    """Write a foreign state in our format, piece by piece: no tensor is held whole.

    Args:
        facts: joined to what is known of the state.
        groups: (their name, our name) of optimiser groups; one of theirs may become several of ours.

    Raises:
        UserError: the folder exists or cannot be written, a group is unknown, or a tensor is not complete.
    """
    if destination.exists():
        raise UserError(f"{destination} exists already; name a new folder")
    source = {"format": state.format, "folder": state.folder.name, "world_size": state.world_size}
    known: dict[str, Any] = {**facts, "source": source}
    if state.step is not None:
        known["step"] = state.step
    if state.optimizer is not None:
        optimizer = _rename_groups(state.optimizer, groups, state.folder)
        known["optimizer"] = {
            "name": "adamw",
            "num_steps": optimizer.num_steps,
            "groups": optimizer.groups,
            "members": optimizer.members,
        }
    ranges = {key: (0, prod(shape)) for key, shape in state.shapes.items()}
    alone = World(0, 1, 0, torch.device("cpu"))
    unreadable: list[UserError] = []
    try:
        return write_checkpoint(alone, destination, state.shapes, ranges, _pieces(state, unreadable), known)
    except UserError as error:
        # The writer takes every failure for one of its own disk.
        raise (unreadable or [error])[0] from None


def weights_only(state: ForeignState) -> ForeignState:
    """The state without its optimiser's."""
    shapes = {key: shape for key, shape in state.shapes.items() if key.startswith("param/")}
    return replace(state, shapes=shapes, optimizer=None)


def rename_parameters(state: ForeignState, prefixes: Sequence[tuple[str, str]]) -> ForeignState:
    """The state with the beginnings of names replaced: of each name by the first prefix that fits.

    Raises:
        UserError: a prefix fits no name, or two parameters would get one name.
    """
    new_names: dict[str, str] = {}
    used = set()
    for name in state.parameters:
        fitting = next(((old, new) for old, new in prefixes if name.startswith(old)), ("", ""))
        new_names[name] = fitting[1] + name.removeprefix(fitting[0])
        used.add(fitting[0])
    for old, new in prefixes:
        if old not in used:
            raise UserError(f"--prefix {old}={new}: no parameter begins with {old!r}; {_beginnings(state)}")
    if len(set(new_names.values())) < len(new_names):
        raise UserError(f"{state.folder}: --prefix gives two parameters one name; choose another prefix")
    old_keys = {_renamed(key, new_names): key for key in state.shapes}
    optimizer = state.optimizer
    if optimizer is not None:
        # A group may name tied parameters twice, of which one is stored.
        members = {
            group: [new_names[name] for name in names if name in new_names]
            for group, names in optimizer.members.items()
        }
        optimizer = replace(optimizer, members=members)
    return replace(
        state,
        shapes={key: state.shapes[old] for key, old in old_keys.items()},
        read=lambda key: state.read(old_keys[key]),
        optimizer=optimizer,
    )


def _beginnings(state: ForeignState) -> str:
    found = sorted({name.split(".")[0] + "." for name in state.parameters})
    return f"they begin with {', '.join(found[:10])}"


def _renamed(key: str, new_names: Mapping[str, str]) -> str:
    kind, _, name = key.partition("/")
    return f"{kind}/{new_names[name]}"


def _rename_groups(optimizer: OptimizerState, groups: Sequence[tuple[str, str]], folder: Path) -> OptimizerState:
    if not groups:
        return optimizer
    settings: dict[str, dict[str, Any]] = {}
    members: dict[str, list[str]] = {}
    for old, new in groups:
        if old not in optimizer.groups:
            raise UserError(f"{folder} has no optimiser group {old!r}; {nearest(old, optimizer.groups)}")
        settings[new] = optimizer.groups[old]
        members[new] = optimizer.members.get(old, [])
    forgotten = set(optimizer.groups) - {old for old, _ in groups}
    if forgotten:
        first = min(forgotten)
        raise UserError(f"--group says nothing of the optimiser group {first!r}; add --group {first}={first}")
    return OptimizerState(optimizer.num_steps, settings, members)


def _pieces(state: ForeignState, unreadable: list[UserError]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in pieces; an error that stops it is added to `unreadable`."""
    try:
        for key, shape in state.shapes.items():
            yield from _pieces_of(state, key, shape)
    except UserError as error:
        unreadable.append(error)
        raise


def _pieces_of(state: ForeignState, key: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    count = 0
    for values in state.read(key):
        values = values.detach().reshape(-1)
        for low in range(0, values.numel(), PIECE):
            yield key, values[low : low + PIECE].to(torch.float32)
        count += values.numel()
    if count != prod(shape):
        raise UserError(
            f"{state.folder}: {key} has {count} elements, its shape {list(shape)} wants {prod(shape)}; "
            "use another checkpoint"
        )


def adamw_settings(group: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """Learning rate, weight decay, betas and epsilon of an optimiser's group, as JSON can hold them.

    Raises:
        UserError: the optimiser is not an AdamW as PyTorch defines it.
    """
    missing = [name for name in ("lr", "weight_decay", "betas", "eps") if name not in group]
    if missing:
        raise UserError(f"{place}: the optimiser is no AdamW, its groups lack {missing[0]}; {WEIGHTS_ONLY_MEND}")
    if group.get("amsgrad"):
        raise UserError(f"{place}: the optimiser is the AMSGrad variant, which has no place here; {WEIGHTS_ONLY_MEND}")
    decay = float(group["weight_decay"])
    if decay and group.get("decoupled_weight_decay") is False:
        raise UserError(f"{place}: the optimiser is Adam with L2 decay, not AdamW; {WEIGHTS_ONLY_MEND}")
    return {
        "lr": float(group["lr"]),
        "weight_decay": decay,
        "betas": [float(beta) for beta in group["betas"]],
        "eps": float(group["eps"]),
    }


def group_names(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The groups' own names where all have one and no two the same, else their numbers."""
    names = [str(group.get("name", "")) for group in groups]
    if all(names) and len(set(names)) == len(names):
        return names
    return [f"group_{number}" for number in range(len(groups))]


def regrouped(manifest: Manifest) -> list[str]:
    """Parameters that our engines put into another group, with other settings, than the one they were saved in.

    Known only where the groups go by our names. Ours is the usual rule: matrices decay, biases and norms do not.
    """
    optimizer = manifest.facts.get("optimizer") or {}
    settings, members = optimizer.get("groups", {}), optimizer.get("members", {})
    if settings.keys() != {"decay", "no_decay"}:
        return []
    found = []
    for group, names in members.items():
        for name in names:
            ours = "decay" if len(manifest.tensors[f"param/{name}"].shape) > 1 else "no_decay"
            if settings[ours] != settings[group]:
                found.append(name)
    return found


def common_step(steps: Iterable[Any], place: Path) -> int:
    """The one step count that all of the optimiser's states have; 0 when there is none.

    Raises:
        UserError: they differ.
    """
    found = {int(step) for step in steps}
    if len(found) > 1:
        raise UserError(
            f"{place}: parameters have seen different numbers of steps ({min(found)} to {max(found)}); "
            f"{WEIGHTS_ONLY_MEND}"
        )
    return found.pop() if found else 0


def moment_keys(name: str) -> list[str]:
    """The keys of a parameter's moments."""
    return [f"{kind}/{name}" for kind in MOMENTS]

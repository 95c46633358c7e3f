"""DeepSpeed's own ZeRO-3 checkpoints: a file of flat tensors per rank, whatever the number of ranks that saved it.

Every sub-group of parameters is one flat fp32 tensor on each rank: the rank's part of each parameter, one behind the
other, each as long as the longest of any rank. What is past the parameter's end there is padding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from xlt_scale.checkpoint.foreign.deepspeed_files import (
    frozen_shapes,
    load_deepspeed_file,
    partition_size,
    rank_elements,
    rank_files,
    read_frozen,
    read_groups,
    step_folder,
)
from xlt_scale.checkpoint.foreign.state import (
    WEIGHTS_ONLY_MEND,
    ForeignState,
    OptimizerState,
    common_step,
    moment_keys,
)
from xlt_scale.engines.interface import MOMENTS
from xlt_scale.errors import UserError

LATEST = "latest"


@dataclass(frozen=True)
class _Place:
    """Where a parameter lies in the flat tensors, on every rank alike."""

    sub_group: int
    offset: int
    numel: int


def read_zero3(folder: Path, with_optimizer: bool = True) -> ForeignState:
    """The training state in a folder that `DeepSpeedEngine.save_checkpoint` wrote under ZeRO-3.

    Args:
        folder: with the file `latest`, or of one step.

    Raises:
        UserError: it is incomplete, damaged, or not what ZeRO-3 and AdamW save.
    """
    folder = step_folder(folder, LATEST)
    model_files, optimizer_files = rank_files(folder, "model"), rank_files(folder, "optim")
    if not optimizer_files or len(model_files) != len(optimizer_files):
        raise UserError(
            f"{folder}: {len(model_files)} model_states and {len(optimizer_files)} optim_states files; "
            "a ZeRO-3 checkpoint has one of each per rank: copy the rest there"
        )
    models = [load_deepspeed_file(path) for path in model_files]
    optimizers = [_zero_state(path, len(optimizer_files)) for path in optimizer_files]
    sub_groups = models[0].get("param_shapes") or []
    places = _place_parameters(sub_groups, optimizers, optimizer_files)
    shapes = {name: tuple(shape) for group in sub_groups for name, shape in group.items()}
    frozen = frozen_shapes(models[0])
    keys: dict[str, tuple[int, ...]] = {f"param/{name}": shape for name, shape in (shapes | frozen).items()}

    optimizer = None
    if with_optimizer:
        optimizer, has_moments = _read_optimizer(optimizers, sub_groups, optimizer_files)
        for name, place in places.items():
            if has_moments[place.sub_group]:
                keys |= dict.fromkeys(moment_keys(name), shapes[name])

    def read(key: str) -> Iterator[Tensor]:
        kind, _, name = key.partition("/")
        if name in frozen:
            yield from read_frozen(models, name, prod(frozen[name]), folder)
            return
        place = places[name]
        for rank, state in enumerate(optimizers):
            flat = _flat(state, kind, place.sub_group)
            yield flat[place.offset : place.offset + rank_elements(place.numel, len(optimizers), rank)]

    return ForeignState(
        format="DeepSpeed ZeRO-3",
        folder=folder,
        world_size=len(optimizers),
        step=models[0].get("global_steps"),
        shapes=keys,
        read=read,
        optimizer=optimizer,
    )


def _zero_state(path: Path, world_size: int) -> dict[str, Any]:
    state = load_deepspeed_file(path).get("optimizer_state_dict") or {}
    if state.get("zero_stage") != 3 or "fp32_flat_groups" not in state:
        raise UserError(f"{path} is of ZeRO stage {state.get('zero_stage', 0)}; convert with ds_to_universal first")
    if state.get("partition_count") != world_size or state.get("ds_zero_partition_groups"):
        raise UserError(
            f"{path}: parameters are cut into {state.get('partition_count')} parts by {world_size} ranks; "
            "only plain ZeRO-3 is read: convert with ds_to_universal first"
        )
    return state


def _place_parameters(
    sub_groups: list[Mapping[str, Any]], optimizers: list[dict[str, Any]], files: list[Path]
) -> dict[str, _Place]:
    """Where each parameter lies, checked against the length of every rank's flat tensors."""
    places: dict[str, _Place] = {}
    for number, shapes in enumerate(sub_groups):
        offset = 0
        for name, shape in shapes.items():
            places[name] = _Place(number, offset, prod(shape))
            offset += partition_size(prod(shape), len(optimizers))
        for state, path in zip(optimizers, files, strict=True):
            flats = state["fp32_flat_groups"]
            found = flats[number].numel() if number < len(flats) else 0
            if found != offset:
                raise UserError(
                    f"{path}: sub-group {number} has {found} elements, its parameters {offset}; "
                    "the state was on NVMe or the file is damaged: save it from memory"
                )
    return places


def _read_optimizer(
    optimizers: list[dict[str, Any]], sub_groups: list[Mapping[str, Any]], files: list[Path]
) -> tuple[OptimizerState, list[bool]]:
    """The optimiser's state beside its tensors, and of which sub-groups there are moments."""
    path, first = files[0], optimizers[0]["optimizer_state_dict"]
    has_moments = []
    for number, flat in enumerate(optimizers[0]["fp32_flat_groups"]):
        state = first["state"].get(number, {})
        if state and not set(MOMENTS) <= state.keys():
            raise UserError(f"{path}: states {', '.join(state)} are not AdamW's in 32 bits; {WEIGHTS_ONLY_MEND}")
        if any(state[kind].numel() != flat.numel() for kind in MOMENTS if state):
            raise UserError(f"{path}: moments and masters of sub-group {number} differ in length; it is damaged")
        has_moments.append(bool(state))
    groups = first["param_groups"]
    settings, members = read_groups(groups, sub_groups, path)
    steps = [step for state in optimizers for step in saved_steps(state["optimizer_state_dict"])]
    return OptimizerState(common_step(steps, path), settings, members), has_moments


def saved_steps(optimizer: Mapping[str, Any]) -> list[Any]:
    """The step of every flat tensor that has been stepped. DeepSpeed's FusedAdam once kept it in the group."""
    of_groups = {number: group.get("step") for group in optimizer["param_groups"] for number in group.get("params", [])}
    found = [state.get("step", of_groups.get(number)) for number, state in optimizer["state"].items() if state]
    return [step for step in found if step is not None]


def _flat(state: Mapping[str, Any], kind: str, sub_group: int) -> Tensor:
    if kind == "param":
        return state["fp32_flat_groups"][sub_group].detach()
    return state["optimizer_state_dict"]["state"][sub_group][kind].detach()

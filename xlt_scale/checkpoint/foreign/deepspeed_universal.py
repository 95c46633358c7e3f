"""DeepSpeed's universal checkpoints: a folder per parameter, written by `deepspeed.checkpoint.ds_to_universal`.

DeepSpeed loads them with the first group's hyper-parameters in every group, and with one step counter for all
sub-groups. The files hold both right; they are read right here.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from xlt_scale.checkpoint.foreign.deepspeed_files import (
    frozen_shapes,
    load_deepspeed_file,
    rank_files,
    read_frozen,
    read_groups,
    step_folder,
)
from xlt_scale.checkpoint.foreign.deepspeed_zero3 import saved_steps
from xlt_scale.checkpoint.foreign.state import ForeignState, OptimizerState, common_step, moment_keys
from xlt_scale.engines.interface import MOMENTS
from xlt_scale.errors import UserError

LATEST = "latest_universal"
PARAMETERS = "zero"
OPTIMIZER = "optimizer_state.pt"
_FILES = {"param": "fp32.pt"} | {kind: f"{kind}.pt" for kind in MOMENTS}


def read_universal(folder: Path, with_optimizer: bool = True) -> ForeignState:
    """The training state in a universal checkpoint.

    Args:
        folder: with the file `latest_universal`, or of one step.

    Raises:
        UserError: it is incomplete or damaged, or its optimiser is not AdamW.
    """
    folder = step_folder(folder, LATEST)
    models = [load_deepspeed_file(path) for path in _model_files(folder)]
    sub_groups = _sub_groups(models[0])
    # Universal files of ZeRO-3 are flat; shapes are only in the model files.
    shapes = {name: tuple(shape) for group in sub_groups for name, shape in group.items()}
    frozen = {name: shape for name, shape in frozen_shapes(models[0]).items() if name not in shapes}
    for name in sorted(path.parent.name for path in (folder / PARAMETERS).glob(f"*/{_FILES['param']}")):
        shapes.setdefault(name, tuple(_load(folder, f"param/{name}").shape))
    keys: dict[str, tuple[int, ...]] = {f"param/{name}": shape for name, shape in (shapes | frozen).items()}

    optimizer = None
    if with_optimizer:
        optimizer = _read_optimizer(folder, sub_groups)
        for name in shapes:
            if all(_path(folder, key).is_file() for key in moment_keys(name)):
                keys |= dict.fromkeys(moment_keys(name), shapes[name])

    def read(key: str) -> Iterator[Tensor]:
        name = key.partition("/")[2]
        if name in frozen and not _path(folder, key).is_file():
            yield from read_frozen(models, name, prod(frozen[name]), folder)
        else:
            yield _load(folder, key)

    return ForeignState(
        format="DeepSpeed universal",
        folder=folder,
        world_size=int(models[0].get("dp_world_size") or len(models)),
        step=models[0].get("global_steps"),
        shapes=keys,
        read=read,
        optimizer=optimizer,
    )


def _model_files(folder: Path) -> list[Path]:
    files = rank_files(folder, "model") or sorted(folder.glob("mp_rank_*_model_states.pt"))
    if not files:
        raise UserError(f"{folder}: no *_model_states.pt, which hold the shapes; copy them from the checkpoint before")
    return files


def _sub_groups(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Shapes by name of each flat tensor; ZeRO below stage 3 has one dictionary for all."""
    found = model.get("param_shapes") or []
    return [found] if isinstance(found, dict) else list(found)


def _read_optimizer(folder: Path, sub_groups: list[dict[str, Any]]) -> OptimizerState:
    path = folder / PARAMETERS / OPTIMIZER
    saved = load_deepspeed_file(path)
    of_stage_3 = saved.get("optimizer_state_dict")
    groups = of_stage_3["param_groups"] if of_stage_3 else saved.get("param_groups")
    if not groups:
        raise UserError(f"{path} says nothing of the optimiser's groups; convert with ds_to_universal again")
    settings, members = read_groups(groups, sub_groups if of_stage_3 else [], path)
    steps = saved_steps(of_stage_3) if of_stage_3 else []
    for file in (folder / PARAMETERS).glob("*/step.pt"):
        steps.append(load_deepspeed_file(file))
    return OptimizerState(common_step(steps, path), settings, members)


def _path(folder: Path, key: str) -> Path:
    kind, _, name = key.partition("/")
    return folder / PARAMETERS / name / _FILES[kind]


def _load(folder: Path, key: str) -> Tensor:
    """A whole tensor, memory-mapped; ZeRO below stage 3 wraps it."""
    found = load_deepspeed_file(_path(folder, key))
    tensor = found.get("param") if isinstance(found, dict) else found
    if not isinstance(tensor, Tensor):
        raise UserError(f"{_path(folder, key)} holds no tensor; convert with ds_to_universal again")
    return tensor

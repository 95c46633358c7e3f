"""Ranks that write what other programs would: DeepSpeed's formats and torch.distributed.checkpoint's. Started by
test_foreign_formats.py.
"""

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from checkpoint_formats import Run

from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.training_state import StagedState, load_training_state
from xlt_scale.cli_convert import convert
from xlt_scale.engines.world import World, join_world

NUM_STEPS = 3
OTHERS = {"betas": (0.8, 0.95), "eps": 1e-6}
"""What the second optimiser group has besides another rate and weight decay."""


def work(world: World, folder: Path) -> dict[str, Any]:
    run = Run(world, "zero3", folder, {}, foreign=False)
    run.engine._optimizer.param_groups[1].update(OTHERS)
    _train_and_save(run, folder / "plain", folder / "ours")
    losses = _losses(run)
    if world.size == 1:
        return {"losses": losses, "converted": _resume_converted(world, folder)}
    frozen = Run(world, "zero3", folder, {}, foreign=False, freeze_embeddings=True)
    _train_and_save(frozen, folder / "frozen", folder / "frozen_ours")
    frozen.engine.destroy()
    if world.is_main:
        _make_universal(folder / "plain", folder / "universal")
        _make_universal(folder / "frozen", folder / "frozen_universal")
    _save_sharded(folder)
    return {"losses": losses}


def _train_and_save(run: Run, deepspeeds: Path, ours: Path) -> None:
    run.train(0, NUM_STEPS)
    run.engine._engine.save_checkpoint(str(deepspeeds))
    StagedState(run.engine, run.parameters, copy=False).write(run.world, ours, {})


def _losses(run: Run) -> list[float]:
    """Of the next steps; the engine is then gone."""
    losses = []
    for step in range(NUM_STEPS, NUM_STEPS + 3):
        run.train(step, step + 1)
        losses.append(run.loss_after(step + 1))
    run.engine.destroy()
    return losses


def _resume_converted(world: World, folder: Path) -> list[float]:
    """Losses after DeepSpeed's checkpoint has been converted and loaded into FSDP2."""
    convert(folder / "plain", folder / "converted")
    run = Run(world, "fsdp2", folder, {}, foreign=True)
    load_training_state(run.engine, CheckpointReader(folder / "converted"), run.parameters)
    return _losses(run)


def _make_universal(source: Path, destination: Path) -> None:
    from deepspeed.checkpoint.ds_to_universal import main

    step = (source / "latest").read_text()
    options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    options |= {"input_folder": str(source / step), "inject_missing_state": True}
    main(Namespace(output_folder=str(destination / f"{step}_universal"), **options))


def _save_sharded(folder: Path) -> None:
    """A module under PyTorch's FSDP2, and a tensor cut into columns."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    fully_shard(module, mesh=mesh)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    module(torch.ones(2, 7)).sum().backward()
    optimizer.step()
    model, optim = get_state_dict(module, optimizer)
    dcp.save({"model": model, "optim": optim}, checkpoint_id=folder / "sharded")
    full = {name: value.full_tensor() for name, value in model.items()}
    moments = {
        f"{name}.{kind}": optim["state"][name][kind].full_tensor()
        for name in model
        for kind in ("exp_avg", "exp_avg_sq")
    }
    columns = distribute_tensor(torch.arange(35.0).reshape(5, 7), mesh, [Shard(1)])
    dcp.save({"model": {"columns": columns}}, checkpoint_id=folder / "columns")
    if dist.get_rank() == 0:
        torch.save({"model": full, "moments": moments}, folder / "full.pt")


if __name__ == "__main__":
    job, answer = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    answer.write_text(json.dumps(work(join_world("cpu"), Path(job["folder"]))))
    # As programs of ours end: PyTorch's threads may abort a process that ends while others still use its group.
    os._exit(0)

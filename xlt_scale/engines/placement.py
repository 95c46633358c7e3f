"""Where a model goes that is only scored: a copy on each process, one spread over its devices, or sharded."""

import os
from collections.abc import Mapping
from typing import Any

import accelerate
import psutil
import torch
from accelerate.utils import compute_module_sizes
from torch import nn

from xlt_scale.engines.interface import EngineRequest
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError

# What parameters may take of the memory that is free: the rest is for the tokens of a forward pass.
_SHARE_OF_MEMORY = 0.7


def placement_of(request: EngineRequest) -> str:
    """Where a model that is only scored goes: 'replicated', 'spread' or 'sharded'; the same on every rank, collective.

    A copy on every device is fastest, as no parameter travels; a model that is too large for one is sharded by the
    training engine when there are several processes, and spread over the devices of a single one by `accelerate`.

    Raises:
        UserError: several processes are to spread one model.
    """
    world, wanted = request.world, request.options.scoring
    if wanted == "spread" and world.size > 1:
        raise UserError(
            f"engine.scoring = 'spread' is for a single process, {world.size} are running; "
            "start one without a launcher, or set engine.scoring to sharded"
        )
    if wanted != "auto":
        return wanted
    fits = _num_bytes(request) <= _SHARE_OF_MEMORY * _free_bytes(world)
    if all(world.gather(fits)):
        return "replicated"
    if world.size > 1:
        return "sharded"
    # Nothing takes less of a machine without GPUs than the one copy.
    return "spread" if world.device.type == "cuda" else "replicated"


def device_map(encoder: nn.Module, dtype: torch.dtype, max_memory: Mapping[Any, int]) -> dict[str, Any]:
    """The device of each part of an encoder by its name: in the order of the forward pass, layers whole, tied weights
    together.

    Args:
        max_memory: bytes of each device that parameters may take, the first device to fill first.

    Raises:
        UserError: the devices together are too small.
    """
    places = accelerate.infer_auto_device_map(
        encoder, dict(max_memory), no_split_module_classes=_classes_of_layers(encoder), dtype=dtype
    )
    if "disk" in places.values():
        needed = compute_module_sizes(encoder, dtype=dtype)[""]
        raise UserError(
            f"the model takes {needed / 1e9:.1f} GB, its layers do not fit into the "
            f"{sum(max_memory.values()) / 1e9:.1f} GB that the devices of one process can give; "
            "start more processes, and it is sharded"
        )
    return dict(places)


def _classes_of_layers(encoder: nn.Module) -> list[str]:
    """Modules that stay on one device, by the names of their classes: a layer's residual connections do not travel.

    Some families name none themselves (XLNet).
    """
    named = set(getattr(encoder, "_no_split_modules", None) or ())
    stacked = {type(item).__name__ for stack in encoder.modules() if isinstance(stack, nn.ModuleList) for item in stack}
    return sorted(named | stacked)


def _num_bytes(request: EngineRequest) -> int:
    return sum(spec.numel for spec in request.parameters.values()) * request.forward_dtype.itemsize


def _free_bytes(world: World) -> int:
    """Memory that this process can have: of its GPU, or its share of the host's."""
    if world.device.type == "cuda":
        return torch.cuda.mem_get_info(world.device)[0]
    return psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", world.size))


def memory_of_devices(world: World, reserved: int) -> dict[Any, int]:
    """Bytes for parameters of every device that this process sees, GPUs first.

    Args:
        reserved: bytes of the first that are spoken for.
    """
    free: dict[Any, int] = {}
    if world.device.type == "cuda":
        free = {number: torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())}
    free["cpu"] = psutil.virtual_memory().available
    memory = {place: int(_SHARE_OF_MEMORY * number) for place, number in free.items()}
    first = next(iter(memory))
    memory[first] = max(0, memory[first] - reserved)
    return memory

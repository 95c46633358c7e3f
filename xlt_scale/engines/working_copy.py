"""bf16 weights beside fp32 masters, for a process that has nobody to share them with.

`fully_shard` would cast every master twice in a step, once for each pass, and carry every gradient through the buffers
of a reduction. Here the weights are cast once, after the update; values and their bits are the same.
"""

import os

import psutil
import torch
from torch import nn

from xlt_scale.engines.interface import EngineRequest


class WorkingCopy:
    """Turns a model's fp32 parameters into bf16 ones and keeps the fp32 values beside them.

    Attributes:
        masters: the fp32 parameter of each name.
    """

    def __init__(self, model: nn.Module) -> None:
        weights = dict(model.named_parameters())
        # What is in bf16 already, an encoder beside adapters, is its own master.
        self._weights = {name: weight for name, weight in weights.items() if weight.dtype != torch.bfloat16}
        self.masters: dict[str, nn.Parameter] = {}
        for name, weight in weights.items():
            self.masters[name] = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
            weight.data = weight.detach().to(torch.bfloat16)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what the masters have become."""
        if self._weights:
            torch._foreach_copy_(list(self._weights.values()), [self.masters[name] for name in self._weights])


def keeps_gathered(request: EngineRequest) -> bool:
    """Whether weights in the forward precision stay from the forward to the backward pass; the same on every rank.

    Of the device's whole memory, not of what is free: a run that is started again has to decide alike.
    """
    wanted = request.options.keep_gathered
    if isinstance(wanted, bool):
        return wanted
    num_bytes = sum(spec.numel for spec in request.parameters.values()) * request.forward_dtype.itemsize
    return num_bytes <= _SHARE_OF_MEMORY * _memory_bytes(request)


def _memory_bytes(request: EngineRequest) -> int:
    world = request.world
    mine = torch.cuda.get_device_properties(world.device).total_memory if world.device.type == "cuda" else _host_bytes()
    return min(number for number in world.gather(mine) if isinstance(number, int))


def _host_bytes() -> int:
    """A process's share of its node's memory."""
    return psutil.virtual_memory().total // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


_SHARE_OF_MEMORY = 0.1

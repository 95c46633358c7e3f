"""bf16 weights beside fp32 masters, for a process that has nobody to share them with.

`fully_shard` would cast every master twice in a step, once for each pass, and carry every gradient through the buffers
of a reduction. Here the weights are cast once, after the update, and gradients are added up where the optimiser reads
them; values and their bits are the same.
"""

import os
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from xlt_scale.engines.interface import EngineRequest


class WorkingCopy:
    """Turns a model's fp32 parameters into bf16 ones and keeps the fp32 values beside them.

    Attributes:
        masters: the fp32 parameter of each name; those that are trained get gradients, summed in fp32 over the
            micro-batches of a step.
    """

    def __init__(self, model: nn.Module) -> None:
        weights = dict(model.named_parameters())
        # What is in bf16 already, an encoder beside adapters, is its own master.
        self._weights = {name: weight for name, weight in weights.items() if weight.dtype != torch.bfloat16}
        self.masters: dict[str, nn.Parameter] = {}
        self._vectors: list[tuple[nn.Parameter, nn.Parameter]] = []
        for name, weight in weights.items():
            self.masters[name] = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
            weight.data = weight.detach().to(torch.bfloat16)
            if weight.requires_grad and weight.dim() > 1:
                weight.register_post_accumulate_grad_hook(_hand_over(self.masters[name]))
            elif weight.requires_grad:
                self._vectors.append((weight, self.masters[name]))

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Add what a backward pass has left to the masters' gradients; to be called after each.

        Matrices are handed over as soon as they are there, so that their bf16 gradients never lie side by side; biases
        and norms all at once, since each would cost a kernel's launch for a few bytes.
        """
        left = [(weight.grad, master) for weight, master in self._vectors if weight.grad is not None]
        copies = [torch.empty_like(master) for _, master in left]
        if copies:
            torch._foreach_copy_(copies, [gradient for gradient, _ in left])
        sums, summands = [], []
        for copy, (_, master) in zip(copies, left, strict=True):
            if master.grad is None:
                master.grad = copy
            else:
                sums.append(master.grad)
                summands.append(copy)
        if sums:
            torch._foreach_add_(sums, summands)
        for weight, _ in self._vectors:
            weight.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what the masters have become."""
        torch._foreach_copy_(list(self._weights.values()), [self.masters[name] for name in self._weights])


def _hand_over(master: nn.Parameter) -> Callable[[Tensor], None]:
    def take(weight: Tensor) -> None:
        gradient: Any = weight.grad
        if master.grad is None:
            master.grad = gradient.float()
        else:
            master.grad.add_(gradient)
        weight.grad = None

    return take


def keeps_gathered(request: EngineRequest) -> bool:
    """Whether weights in the forward precision stay from the forward to the backward pass; the same on every rank.

    Of the device's whole memory, not of what is free: a run that is started again has to decide alike.
    """
    wanted = request.options.keep_gathered
    if isinstance(wanted, bool):
        return wanted
    num_bytes = sum(spec.numel for spec in request.parameters.values()) * (2 if request.precision == "bf16" else 4)
    return num_bytes <= _SHARE_OF_MEMORY * _memory_bytes(request)


def _memory_bytes(request: EngineRequest) -> int:
    world = request.world
    mine = torch.cuda.get_device_properties(world.device).total_memory if world.device.type == "cuda" else _host_bytes()
    return min(number for number in world.gather(mine) if isinstance(number, int))


def _host_bytes() -> int:
    """A process's share of its node's memory."""
    return psutil.virtual_memory().total // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


_SHARE_OF_MEMORY = 0.1

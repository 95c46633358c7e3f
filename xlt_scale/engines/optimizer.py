"""AdamW over named groups."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from xlt_scale.engines.interface import EngineRequest, GroupSettings
from xlt_scale.engines.portions import PortionedOptimizer
from xlt_scale.errors import UserError

_SETTINGS = ("lr", "weight_decay", "betas", "eps")
_SMALLEST_IN_8_BITS = 4096


def named_groups(request: EngineRequest, parameters: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Optimiser groups by name: weight decay on matrices, none on biases and norms. Frozen parameters are in none.

    With 8-bit states matrices are a group of their own; embeddings, biases and norms keep 32 bits (Dettmers et al.
    2022, 8-bit Optimizers via Block-wise Quantization, section 2.3).
    """
    members: dict[str, list[nn.Parameter]] = {"decay": [], "decay_in_8_bits": [], "no_decay": []}
    for name, parameter in parameters.items():
        if request.is_trained(name):
            kind = "decay" if request.parameters[name].decays else "no_decay"
            members["decay_in_8_bits" if request.has_small_moments(name) else kind].append(parameter)
    return [
        {
            "name": name,
            "params": found,
            "weight_decay": 0.0 if name == "no_decay" else request.phase.weight_decay,
            "bits": 8 if name == "decay_in_8_bits" else 32,
        }
        for name, found in members.items()
        if found
    ]


def build_optimizer(
    request: EngineRequest, groups: list[dict[str, Any]], in_portions: bool = False
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) as the phase wants it.

    The fused kernel on CPUs rounds the last elements of a tensor in another way than the others, so its result depends
    on how parameters are cut: where that matters, the plain one is taken.

    Args:
        in_portions: gradients or weights come in bf16 (`PortionedOptimizer`).
    """
    if in_portions:
        return PortionedOptimizer(groups, partial(build_optimizer, request), request.seed)
    phase = request.phase
    if phase.optimizer == "adamw_8bit":
        is_paged = request.options.offload == "paged"
        if is_paged and request.world.device.type != "cuda":
            raise UserError(
                "engine.offload = 'paged' needs a GPU, whose driver moves the pages; use 'none' or 'optimizer'"
            )
        settings = {"lr": phase.learning_rate, "betas": phase.betas, "eps": phase.epsilon}
        return adamw_8bit()(groups, is_paged=is_paged, **settings)
    if request.options.offload == "paged":
        raise UserError(
            f"engine.offload = 'paged' is for 8-bit states, but phase {phase.name!r} has optimizer = 'adamw'; "
            "use optimizer = 'adamw_8bit', or offload = 'optimizer'"
        )
    is_fused = not request.options.repeatable
    return torch.optim.AdamW(groups, lr=phase.learning_rate, betas=phase.betas, eps=phase.epsilon, fused=is_fused)


def prepare_step(optimizer: torch.optim.Optimizer, learning_rate: float, num_steps: int) -> None:
    """Set what changes from step to step.

    Args:
        num_steps: steps before this one.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    if isinstance(optimizer, PortionedOptimizer):
        optimizer.num_steps = num_steps


def adamw_8bit() -> Any:
    """The class of AdamW with 8-bit states; imports bitsandbytes."""
    # It says at its import which of its kernels for inference are not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes

    class AdamWWithBitsByGroup(bitsandbytes.optim.AdamW):
        """bitsandbytes' AdamW; each group says how many bits its states have, and a step waits for nothing."""

        initialized: bool

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            # Its own waits after every tensor: hundreds of times for a large model.
            assert closure is None
            if not self.initialized:
                self.check_overrides()
                self.to_gpu()
                self.initialized = True
            for group_number, group in enumerate(self.param_groups):
                for number, tensor in enumerate(group["params"]):
                    if tensor.grad is None:
                        continue
                    if not self.state[tensor]:
                        self.init_state(group, tensor, group_number, number)
                    self.prefetch_state(tensor)
                    self.update_step(group, tensor, group_number, number)
            if self.is_paged:
                # What the driver moves has to be in place before the host goes on.
                torch.cuda.synchronize()

        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            # Its own looks a parameter up by its place in the group, where ZeRO-3 keeps none between steps.
            return {
                **{key: group[key] for key in _SETTINGS},
                "alpha": 0.0,
                "t_alpha": None,
                "t_beta3": None,
                "max_unorm": 0.0,
                "skip_zeros": False,
                "optim_bits": group["bits"],
                "min_8bit_size": _SMALLEST_IN_8_BITS,
            }

    return AdamWWithBitsByGroup


def read_settings(optimizer: torch.optim.Optimizer) -> GroupSettings:
    """The hyper-parameters of each group by its name, as JSON can hold them."""
    settings = {group["name"]: {key: group[key] for key in _SETTINGS} for group in optimizer.param_groups}
    return {name: found | {"betas": list(found["betas"])} for name, found in settings.items()}


def write_settings(optimizer: torch.optim.Optimizer, settings: GroupSettings) -> None:
    """Set the hyper-parameters of the groups of these names."""
    for group in optimizer.param_groups:
        found = settings[group["name"]]
        group.update({key: found[key] for key in _SETTINGS} | {"betas": tuple(found["betas"])})

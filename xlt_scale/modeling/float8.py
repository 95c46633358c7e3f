"""Matrix products of the encoder's layers in float8, by torchao (docs/float8.md).

Weights, their gradients and the optimiser stay what they are. In each product the operands are scaled by their largest
element and rounded to 8 bits: e4m3 for inputs and weights, e5m2 for gradients (Micikevicius et al. 2022, FP8 Formats
for Deep Learning, section 3).
"""

import dataclasses
import importlib.util
import logging

import torch
from torch import nn

from xlt_scale.errors import UserError

logger = logging.getLogger(__name__)

SCALING = "tensorwise"
"""What has a scale of its own; torchao's name for its fastest recipe."""

_MULTIPLE = 16
"""The products of GPUs take operands whose sides are multiples of this."""


def check_float8(precision: str, device: torch.device, has_adapter: bool = False) -> None:
    """Whether a run can train in float8; called on every rank, does not communicate.

    Raises:
        UserError: torchao is missing, the device has no float8 products, the precision is not bf16, or adapters are
            trained.
    """
    problem = ""
    if precision == "fp32":
        problem = f"the run computes in {precision}; set engine.precision = 'bf16'"
    elif has_adapter:
        problem = "a phase trains an adapter, whose encoder is not trained; use one of them"
    elif device.type == "cuda" and not _multiplies_float8(device):
        problem = f"{torch.cuda.get_device_name(device)} has no float8 products, as H100, L40S, MI300 and later have"
    elif importlib.util.find_spec("torchao") is None:
        problem = "torchao is not installed; pip install 'xlt_scale[float8]'"
    if problem:
        raise UserError(f"engine.float8 = true, but {problem} (or set engine.float8 = false)")


def use_float8(encoder: nn.Module, precision: str, device: torch.device) -> None:
    """Have the linear layers of an encoder's stack multiply in float8 while they train. Names and weights stay.

    Embeddings, what lies before and behind the stack, and heads stay in bf16, and so do layers whose sides are not
    multiples of 16. On CPUs, which have no such products, the same rounding is emulated in fp32. Called on every rank
    before an engine wraps the encoder.

    Raises:
        UserError: as `check_float8` says, or no layer can do it.
    """
    check_float8(precision, device)
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    from xlt_scale.modeling.float8_linear import TrainingFloat8Linear

    linear = _linear_layers(encoder)
    chosen = {name for name, module in linear.items() if _is_aligned(module)}
    if not chosen:
        raise UserError(
            "engine.float8 = true, but no linear layer of the encoder's stack has sides that are multiples of "
            f"{_MULTIPLE}; set engine.float8 = false"
        )
    is_emulated = device.type == "cpu"
    # The number of tokens is a side of the products that give weights their gradients: whatever it is, it is padded.
    config = Float8LinearConfig.from_recipe_name(SCALING)
    config = dataclasses.replace(config, emulate=is_emulated, pad_inner_dim=not is_emulated)
    convert_to_float8_training(encoder, config=config, module_filter_fn=lambda module, name: name in chosen)
    for name in chosen:
        encoder.get_submodule(name).__class__ = TrainingFloat8Linear
    left = len(linear) - len(chosen)
    also = f"; {left} stay in bf16, since their sides are not multiples of {_MULTIPLE}" if left else ""
    logger.info("%d linear layers of the encoder train in float8%s", len(chosen), also)
    if is_emulated:
        logger.info("float8 products are emulated on CPUs: slower than bf16, for trials of what the rounding does")


def _linear_layers(encoder: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers in an encoder's lists of layers, by name."""
    lists = [name for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)]
    return {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and any(name.startswith(f"{parent}.") for parent in lists)
    }


def _is_aligned(module: nn.Linear) -> bool:
    # Not by the weight's shape: partitioned by ZeRO-3 it has none.
    return not module.in_features % _MULTIPLE and not module.out_features % _MULTIPLE


def _multiplies_float8(device: torch.device) -> bool:
    if torch.version.hip:
        architecture = torch.cuda.get_device_properties(device).gcnArchName
        return architecture.startswith(("gfx94", "gfx95"))
    return torch.cuda.get_device_capability(device) >= (8, 9)

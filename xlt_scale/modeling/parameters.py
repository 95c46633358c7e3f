"""What parameters are called, how large they are and how fresh ones are drawn: known before any is allocated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import accelerate
import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.initialization import no_init_weights

from xlt_scale.config import AdapterOptions
from xlt_scale.errors import UserError
from xlt_scale.modeling.adapters import is_adapter
from xlt_scale.modeling.encoder import EncoderPlan
from xlt_scale.modeling.family import encoder_class, encoder_dimensions, shrunken
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec

Fill = Literal["normal", "zeros", "ones"]


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter: its shape and how it is drawn when it is new.

    Attributes:
        fill: 'normal' with `deviation`, or the constant 'zeros' or 'ones'.
        zero_row: the row of a table that is zero (its padding index), or None.
        is_embedding: a word, position or token-type table.
    """

    shape: tuple[int, ...]
    fill: Fill
    deviation: float = 0.0
    zero_row: int | None = None
    is_embedding: bool = False

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def decays(self) -> bool:
        """Weight decay acts on matrices, not on biases and norms."""
        return len(self.shape) > 1


def describe_parameters(
    plan: EncoderPlan, heads: Sequence[HeadSpec], adapter: AdapterOptions | None = None
) -> dict[str, ParameterSpec]:
    """Every parameter of the model by name, shared ones once, in the model's order. Allocates none of them.

    Fresh weights follow BERT's rule (Devlin et al. 2019, appendix A.2): matrices and tables normal with the
    configuration's `initializer_range`, norms one, biases zero, padding rows zero. Of an adapter A is normal with the
    deviation 1 / sqrt(3 inputs), that of peft's uniform draw, and B zero (Hu et al. 2021, section 4.1): at first it
    adds nothing.

    Raises:
        UserError: a parameter belongs to a module that the rule does not know, or the adapter to layers that are not
            there.
    """
    with accelerate.init_empty_weights(), no_init_weights():
        model = HeadedEncoder(plan, heads, adapter)
    model.tie()
    deviation = getattr(encoder_dimensions(plan.config), "initializer_range", 0.02)
    norms = _fills_of_norms(plan.config, model)
    owners: dict[int, nn.Module] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), module)
    specs: dict[str, ParameterSpec] = {}
    for name, parameter in model.named_parameters():
        leaf = name.rpartition(".")[2]
        specs[name] = _spec(name, leaf, tuple(parameter.shape), owners[id(parameter)], deviation, norms)
    return specs


def _fills_of_norms(config: PretrainedConfig, model: nn.Module) -> dict[str, Fill]:
    """What the family's own normalisations begin with, by class: ones, or zeros where one is added later (Gemma).

    PyTorch's begin with ones; others are asked of a small model.
    """
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    if all(isinstance(module, nn.LayerNorm) for module in norms):
        return {}
    small_config = shrunken(config)
    with torch.random.fork_rng(devices=[]):
        small = encoder_class(small_config)._from_config(small_config, dtype=torch.float32)
    fills: dict[str, Fill] = {}
    for module in small.modules():
        weight = getattr(module, "weight", None)
        if "norm" in type(module).__name__.lower() and isinstance(weight, nn.Parameter):
            fills[type(module).__name__] = "ones" if bool(weight.detach().mean() > 0.5) else "zeros"
    return fills


def _spec(
    name: str, leaf: str, shape: tuple[int, ...], owner: nn.Module, deviation: float, norms: Mapping[str, Fill]
) -> ParameterSpec:
    if is_adapter(name):
        if name.endswith(".lora_B.weight"):
            return ParameterSpec(shape, "zeros")
        return ParameterSpec(shape, "normal", (3 * shape[1]) ** -0.5)
    if isinstance(owner, nn.Embedding):
        return ParameterSpec(shape, "normal", deviation, owner.padding_idx, is_embedding=True)
    if "norm" in type(owner).__name__.lower():
        return ParameterSpec(shape, norms.get(type(owner).__name__, "ones") if leaf == "weight" else "zeros")
    if leaf == "logit_scale":
        return ParameterSpec(shape, "ones")
    if leaf == "bias" or leaf.endswith("_bias"):
        return ParameterSpec(shape, "zeros")
    if len(shape) > 1:
        return ParameterSpec(shape, "normal", deviation)
    raise UserError(
        f"no rule says how to draw parameter {name} of a {type(owner).__name__}; "
        "start from pre-trained weights (model.name)"
    )

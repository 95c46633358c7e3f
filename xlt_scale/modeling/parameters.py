"""What parameters are called, how large they are and how fresh ones are drawn: known before any is allocated."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import accelerate
from torch import nn
from transformers.initialization import no_init_weights

from xlt_scale.errors import UserError
from xlt_scale.modeling.encoder import EncoderPlan
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter: its shape and how it is drawn when it is new.

    Attributes:
        fill: 'normal' with `deviation`, or the constant 'zeros' or 'ones'.
        zero_row: the row of a table that is zero (its padding index), or None.
        is_embedding: a word, position or token-type table.
    """

    shape: tuple[int, ...]
    fill: Literal["normal", "zeros", "ones"]
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


def describe_parameters(plan: EncoderPlan, heads: Sequence[HeadSpec]) -> dict[str, ParameterSpec]:
    """Every parameter of the model by name, shared ones once, in the model's order. Allocates none of them.

    Fresh weights follow BERT's rule (Devlin et al. 2019, appendix A.2): matrices and tables normal with the
    configuration's `initializer_range`, norms one, biases zero, padding rows zero.

    Raises:
        UserError: a parameter belongs to a module that the rule does not know.
    """
    with accelerate.init_empty_weights(), no_init_weights():
        model = HeadedEncoder(plan, heads)
    model.tie()
    deviation = getattr(plan.config, "initializer_range", 0.02)
    owners = dict(model.named_modules())
    specs: dict[str, ParameterSpec] = {}
    for name, parameter in model.named_parameters():
        owner_name, _, leaf = name.rpartition(".")
        specs[name] = _spec(name, leaf, tuple(parameter.shape), owners[owner_name], deviation)
    return specs


def _spec(name: str, leaf: str, shape: tuple[int, ...], owner: nn.Module, deviation: float) -> ParameterSpec:
    if isinstance(owner, nn.Embedding):
        return ParameterSpec(shape, "normal", deviation, owner.padding_idx, is_embedding=True)
    if "norm" in type(owner).__name__.lower():
        return ParameterSpec(shape, "ones" if leaf == "weight" else "zeros")
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

"""Sums gradients module by module, in the order that ZeRO-3 sums them.

A tensor that several modules read gets the sum of their gradients, and in bf16 a sum depends on its order: a layer's
input goes to the attention's three projections and past them to the residual. DeepSpeed puts an identity before and
behind every module, so it sums what belongs to the attention first. With the same identities FSDP2 gives the same bits.
"""

from typing import Any

from torch import Tensor, nn


def sum_gradients_by_module(model: nn.Module) -> None:
    """Put an identity before and behind every module of a model."""
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, inputs: _pass(inputs))
        module.register_forward_hook(lambda module, inputs, output: _pass(output))


def _pass(value: Any) -> Any:
    """The same value with a node of its own in the graph at each tensor."""
    if isinstance(value, Tensor):
        return value.view_as(value) if value.requires_grad else value
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_pass(item) for item in value)
    if isinstance(value, dict):
        for key in value:
            value[key] = _pass(value[key])
    return value

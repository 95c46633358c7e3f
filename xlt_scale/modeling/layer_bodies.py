"""How the layers of an encoder's stack are run: compiled, or with activations that are computed again.

Both replace a layer's `forward` and nothing else. So names and weights stay what they are, and what an engine hooks to
the layer itself (gathering its parameters) stays outside, where neither the compiler nor the second forward pass meets
it.
"""

import logging
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from xlt_scale.config import EngineOptions
from xlt_scale.errors import UserError
from xlt_scale.modeling.headed_encoder import HeadedEncoder

logger = logging.getLogger(__name__)


def encoder_layers(model: HeadedEncoder) -> nn.ModuleList:
    """The encoder's stack of layers, found by its length; empty where layers share their parameters (ALBERT)."""
    for module in model.encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.plan.num_layers:
            return module
    return nn.ModuleList()


def prepare_layers(model: HeadedEncoder, options: EngineOptions) -> None:
    """Give the layers the bodies that a run's options name. Before an engine wraps them.

    Raises:
        UserError: the encoder cannot be run so.
    """
    kept = options.activation_checkpointing
    if kept == "selective":
        # Inside what is compiled: the compiler sees what is to be kept, and no operator is seen from outside.
        recompute_activations(model, "products", options.checkpoint_every)
        if options.compile and model.plan.unpadded and not torch.cuda.is_available():
            logger.info("layers with selective recomputation are not compiled: on CPUs attention goes by sequence")
    if options.compile:
        compile_layers(model)
    if kept is True:
        recompute_activations(model, "inputs", options.checkpoint_every)


def recompute_activations(model: HeadedEncoder, kept: Literal["inputs", "products"], every: int = 1) -> None:
    """Keep less of a layer's forward pass for its backward pass, and compute the rest again there.

    Args:
        kept: the layer's inputs alone (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost), or also what
            matrix products and attention gave (selective recomputation, Korthikanti et al. 2022, section 5): then only
            norms, activations and dropout are computed again.
        every: in every so many-th layer, counted from the first.

    Raises:
        UserError: the encoder has no stack of layers.
    """
    layers = _layers_for(model, "engine.activation_checkpointing is set", "computed again")
    options: dict[str, Any] = {"use_reentrant": False}
    if kept == "products":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _products())
    for layer in layers[::every]:
        _replace_forward(layer, lambda forward: _recomputed(forward, options))


def compile_layers(model: HeadedEncoder) -> None:
    """Compile the body of each layer; one compilation serves all layers and numbers of tokens.

    Compile before `recompute_activations` that keeps inputs: what is computed again is then compiled too.

    Raises:
        UserError: the encoder has no stack of layers.
    """
    for layer in _layers_for(model, "engine.compile = true", "compiled"):
        _replace_forward(layer, partial(torch.compile, dynamic=True))


def _layers_for(model: HeadedEncoder, setting: str, what: str) -> nn.ModuleList:
    layers = encoder_layers(model)
    if not layers:
        raise UserError(
            f"{setting}, but {model.plan.config.model_type} has no stack of layers that could be {what} one by one; "
            "set it to false"
        )
    return layers


def _replace_forward(layer: nn.Module, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    # Under its own name it would be looked up as a submodule.
    object.__setattr__(layer, "forward", change(layer.forward))


def _recomputed(forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    @wraps(forward)
    def with_recomputation(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, **options, **named)

    return with_recomputation


def _products() -> list[Any]:
    """Operators whose results are dear: matrix products and attention."""
    aten = torch.ops.aten
    found: list[Any] = [
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.linear.default,
        aten._scaled_mm.default,
        aten._flash_attention_forward.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    ]
    return found

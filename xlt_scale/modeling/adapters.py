"""Adapters: small trained matrices beside the encoder's frozen ones.

The layers are peft's (LoRA, Hu et al. 2021). What is decided here: which layers get one, and what their parameters are
called (merged_weights.py makes ordinary weights of them).
"""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from xlt_scale.config import AdapterOptions
from xlt_scale.errors import UserError, nearest
from xlt_scale.modeling.four_bit import BLOCK, FourBitLinear

_NAME = "default"
"""peft's name for the one adapter of a model."""
_WRAPPED = re.compile(r"\.base_layer\.(weight|bias)$")
_FACTOR = re.compile(rf"\.lora_([AB])\.{_NAME}\.weight$")
_IS_FACTOR = re.compile(r"\.lora_[AB]\.weight$")


def plain_name(name: str) -> str:
    """A parameter's name in everything but peft's modules: the encoder's keep theirs, an adapter's matrices are
    '<layer>.lora_A.weight' [rank, inputs] and '<layer>.lora_B.weight' [outputs, rank].
    """
    return _FACTOR.sub(r".lora_\1.weight", _WRAPPED.sub(r".\1", name))


def is_adapter(name: str) -> bool:
    """Whether a parameter, by its plain name, is of an adapter."""
    return _IS_FACTOR.search(name) is not None


def adapted_layers(encoder: PreTrainedModel, targets: str | list[str]) -> dict[str, nn.Linear]:
    """The linear layers of an encoder that get an adapter, by name.

    Raises:
        UserError: a target is no ending of the name of one.
    """
    linear = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}
    if isinstance(targets, str):
        return linear
    chosen: dict[str, nn.Linear] = {}
    for target in targets:
        found = {name: module for name, module in linear.items() if f".{name}".endswith(f".{target}")}
        if not found:
            endings = sorted({".".join(name.split(".")[-length:]) for name in linear for length in (1, 2, 3)})
            endings = [ending for ending in endings if not ending[:1].isdigit()]
            raise UserError(
                f"adapter.targets has {target!r}, which is no ending of a linear layer's name in "
                f"{encoder.config.model_type}; {nearest(target, endings)}"
            )
        chosen |= found
    if not chosen:
        raise UserError("adapter.targets is empty; name endings of layers, or 'all'")
    return {name: module for name, module in linear.items() if name in chosen}


def add_adapters(encoder: PreTrainedModel, options: AdapterOptions, dtype: torch.dtype | None = None) -> None:
    """Put peft's layers in the place of the encoder's linear ones, which live on inside them.

    Args:
        dtype: the precision of the forward pass: then, with base = 'nf4', the layers inside have 4-bit weights.
            None: they keep ordinary ones, for describing the parameters.

    Raises:
        UserError: a target is unknown, or a layer's shape does not fit 4-bit blocks.
    """
    layers = adapted_layers(encoder, options.targets)
    if options.base == "nf4":
        _check_blocks(layers)
    peft = _peft()
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(layers),
        # Engines fill parameters; where these are made they have no values yet.
        init_lora_weights=False,
    )
    peft.inject_adapter_in_model(config, encoder, adapter_name=_NAME)
    if options.base == "nf4" and dtype is not None:
        for name, layer in layers.items():
            encoder.set_submodule(f"{name}.base_layer", FourBitLinear(layer, dtype))


def _check_blocks(layers: Mapping[str, nn.Linear]) -> None:
    for name, layer in layers.items():
        if layer.in_features % BLOCK:
            # bitsandbytes' kernel for CPUs scales the elements of a block that goes over the end of a row wrongly.
            raise UserError(
                f"adapter.base = 'nf4' is for layers with a multiple of {BLOCK} inputs, {name} has "
                f"{layer.in_features}; set adapter.base to full, or leave that layer out of adapter.targets"
            )


def _peft() -> Any:
    # These say at their import which of their kernels are not for this machine.
    for name in ("bitsandbytes", "torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import peft

    return peft


def four_bit_layers(model: nn.Module) -> Iterator[tuple[str, FourBitLinear]]:
    """The 4-bit layers of a model by the plain name of their weight."""
    for name, module in model.named_modules():
        if isinstance(module, FourBitLinear):
            yield plain_name(f"{name}.weight"), module

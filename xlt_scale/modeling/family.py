"""What an encoder is made of, by its Hugging Face configuration: its class, its dimensions, a small one of its kind."""

import copy
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForTextEncoding,
    PretrainedConfig,
    PreTrainedModel,
)

SMALL_VOCABULARY = 64
SMALL_WINDOW = 8


def encoder_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The family's bare encoder or decoder; of a family that has both (T5), the encoder alone."""
    encoders = AutoModelForTextEncoding._model_mapping
    found = (encoders if type(config) in encoders else AutoModel._model_mapping)[type(config)]
    return found[0] if isinstance(found, tuple) else found


def text_configuration(config: PretrainedConfig) -> PretrainedConfig:
    """What describes the part that reads text: of models that also see (Gemma 3), or that also decode (T5Gemma)."""
    if isinstance(getattr(config, "text_config", None), PretrainedConfig):
        return config.text_config
    if isinstance(getattr(config, "encoder", None), PretrainedConfig):
        config.is_encoder_decoder = False
    return config


def encoder_dimensions(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration that holds the encoder's width, layers and positions: it, or the encoder's part in it."""
    inner = getattr(config, "encoder", None)
    return inner if isinstance(inner, PretrainedConfig) else config


def is_encoder_half(config: PretrainedConfig) -> bool:
    """Whether the family's models decode too, so that the encoder is half of one."""
    return type(config) in AutoModelForSeq2SeqLM._model_mapping


def shrunken(config: PretrainedConfig) -> PretrainedConfig:
    """The same class with few and narrow layers, a small vocabulary, a short local window, and a low cap on scores
    where there is one: mistakes show.
    """
    small = copy.deepcopy(config)
    for part in {id(part): part for part in (small, encoder_dimensions(small))}.values():
        _shrink(part)
    if small.pad_token_id is None:
        small.pad_token_id = 0
    small._attn_implementation = padded_implementation(small)
    return small


def padded_implementation(config: PretrainedConfig) -> str:
    """The name of the attention that a model runs padded batches with."""
    # PyTorch's own has no cap on scores, and up to version 5.17 the library left it out there without a word.
    is_capped = getattr(encoder_dimensions(config), "attn_logit_softcapping", None) is not None
    return "sdpa" if getattr(encoder_class(config), "_supports_sdpa", False) and not is_capped else "eager"


def _shrink(config: PretrainedConfig) -> None:
    num_heads = getattr(config, "num_attention_heads", 1)
    heads = 2 if getattr(config, "num_key_value_heads", None) in (None, num_heads) else 4
    sizes: dict[str, Any] = {
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "hidden_size": heads * 16,
        "head_dim": 16,
        "intermediate_size": 48,
        "vocab_size": SMALL_VOCABULARY,
        "local_attention": 2 * SMALL_WINDOW,
        "sliding_window": SMALL_WINDOW,
        "attention_window": SMALL_WINDOW,
        "embedding_size": heads * 16,
        "d_model": heads * 16,
        "d_ff": 48,
        "attn_logit_softcapping": 1.0,
    }
    for name, value in sizes.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, value)
    if getattr(config, "num_hidden_layers", None) is not None:
        layers = min(config.num_hidden_layers, 4)
        config.num_hidden_layers = layers
        kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or []))
        if kinds:
            config.layer_types = [kinds[number % len(kinds)] for number in range(layers)]
    for name, value in vars(config).items():
        if name.endswith("_token_id") and isinstance(value, int) and value >= SMALL_VOCABULARY:
            setattr(config, name, 1 if name == "pad_token_id" else 2)

"""The encoder of a run: its Hugging Face configuration, built without weights, and how it is fed."""

import inspect
import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from xlt_scale.config import ModelOptions
from xlt_scale.errors import UserError, reason
from xlt_scale.hub import hub_cache, not_to_be_had
from xlt_scale.modeling import attention
from xlt_scale.modeling.family import encoder_class
from xlt_scale.modeling.self_check import check_unpadded
from xlt_scale.sizes import find_size

logger = logging.getLogger(__name__)

_ATTENTION_DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout")
_UNLIMITED = 1 << 20


@dataclass(frozen=True)
class EncoderPlan:
    """Everything that is decided about the encoder before it is built; the same on every rank.

    Attributes:
        unpadded: run on real tokens only; else on padded batches.
        first_position: position number of a sequence's first token (unpadded runs).
        num_positions: tokens that a sequence may have.
    """

    config: PretrainedConfig
    unpadded: bool
    first_position: int
    num_positions: int
    why_padded: str = ""

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def num_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def prefix(self) -> str:
        """The family's name for its encoder inside models with a head ('roberta')."""
        return encoder_class(self.config).base_model_prefix

    @property
    def has_token_types(self) -> bool:
        """Whether the second sentence of a pair has another token type (BERT; XLM-R has one type only)."""
        # XLNet tells apart whether two tokens are of one type, so that it needs no number of types.
        return (getattr(self.config, "type_vocab_size", 0) or 0) > 1 or self.config.model_type == "xlnet"

    @property
    def classification_token(self) -> str:
        """Where in a sequence the token stands that a classifier reads: 'first', or 'last' (XLNet)."""
        return "last" if getattr(self.config, "summary_type", "first") == "last" else "first"


def plan_encoder(options: ModelOptions) -> EncoderPlan:
    """Read or make the configuration, set dropout, and choose the attention path.

    Raises:
        UserError: the model cannot be found, has no such size, or `max_length` exceeds its positions.
    """
    config = _load_config(options)
    if options.dropout is not None:
        for name in _dropout_rates(config):
            setattr(config, name, options.dropout)
    unpadded, first_position, why_padded = False, 0, "model.attention = 'padded'"
    if options.attention != "padded":
        check = check_unpadded(config)
        unpadded, first_position, why_padded = check.passed, check.first_position, check.reason
        if not unpadded and options.attention == "unpadded":
            raise UserError(
                f"model.attention = 'unpadded', but {config.model_type} cannot run so ({why_padded}); use 'auto'"
            )
    num_positions = _num_position_slots(config) - (first_position if unpadded else _padding_offset(config))
    if options.max_length > num_positions:
        raise UserError(
            f"model.max_length = {options.max_length}, but {config.model_type} has {num_positions} positions; "
            f"set model.max_length to {num_positions} or less"
        )
    if unpadded:
        for name in _ATTENTION_DROPOUT_FIELDS:
            if getattr(config, name, None):
                logger.info("unpadded attention has no dropout on its weights: %s = 0", name)
                setattr(config, name, 0.0)
    else:
        logger.info("%s runs padded: %s", config.model_type, why_padded)
    return EncoderPlan(config, unpadded, first_position, num_positions, "" if unpadded else why_padded)


def build_encoder(plan: EncoderPlan) -> PreTrainedModel:
    """The encoder without pooling layer. Call it in a context that decides where its parameters lie (engines do)."""
    attention.register()
    arguments: dict[str, Any] = {}
    found = encoder_class(plan.config)
    if "add_pooling_layer" in inspect.signature(found.__init__).parameters:
        arguments["add_pooling_layer"] = False
    implementation = attention.UNPADDED if plan.unpadded else _padded_implementation(found)
    # A configuration remembers the precision that its weights were published in; ours is the engine's matter.
    return found._from_config(plan.config, attn_implementation=implementation, dtype=torch.float32, **arguments)


def _padded_implementation(found: type) -> str:
    return "sdpa" if getattr(found, "_supports_sdpa", False) else "eager"


def _dropout_rates(config: PretrainedConfig) -> list[str]:
    """The configuration's fields that are dropout rates, whatever the family calls them."""
    return [
        name
        for name, value in vars(config).items()
        if ("dropout" in name or name.endswith("pdrop")) and type(value) in (int, float)
    ]


def _num_position_slots(config: PretrainedConfig) -> int:
    """Rows of the position table; families with relative positions have none, and say so by no number or by -1."""
    slots = getattr(config, "max_position_embeddings", None) or _UNLIMITED
    return slots if slots > 0 else _UNLIMITED


def _padding_offset(config: PretrainedConfig) -> int:
    """The RoBERTa family counts positions from padding_idx + 1, so that many of its slots are never used."""
    relatives = ("camembert", "data2vec-text", "ibert", "longformer", "mpnet", "xmod")
    return config.pad_token_id + 1 if "roberta" in config.model_type or config.model_type in relatives else 0


def _load_config(options: ModelOptions) -> PretrainedConfig:
    if options.name:
        try:
            return AutoConfig.from_pretrained(options.name, revision=options.revision or None)
        except Exception as error:  # the library raises many kinds for "not there" and "no network"
            otherwise = "give a folder with config.json"
            raise not_to_be_had(f"model.name = {options.name!r}", error, hub_cache(), otherwise) from None
    fields = find_size(options.size).architecture() if options.size else {}
    fields |= options.architecture
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise UserError(
            "model.architecture needs model_type, the name of a Hugging Face configuration (xlm-roberta, ...)"
        )
    try:
        return AutoConfig.for_model(model_type, **fields)
    except Exception as error:
        raise UserError(f"model.architecture does not make a {model_type} model: {reason(error)}") from None

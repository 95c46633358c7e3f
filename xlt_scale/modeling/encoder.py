"""The encoder of a run: its Hugging Face configuration, built without weights, and how it is fed."""

import inspect
import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from xlt_scale.config import ModelOptions
from xlt_scale.errors import UserError, reason
from xlt_scale.hub import hub_cache, not_to_be_had
from xlt_scale.modeling import attention
from xlt_scale.modeling.direction import direction_of, early_tokens_see_later_ones, is_decoder, set_direction
from xlt_scale.modeling.family import (
    encoder_class,
    encoder_dimensions,
    is_encoder_half,
    padded_implementation,
    shrunken,
    text_configuration,
)
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
        implementation: the name of its attention function when it runs unpadded.
    """

    config: PretrainedConfig
    unpadded: bool
    first_position: int
    num_positions: int
    why_padded: str = ""
    implementation: str = ""

    @property
    def hidden_size(self) -> int:
        return encoder_dimensions(self.config).hidden_size

    @property
    def attention_width(self) -> int:
        """Of all query heads together, which in some families (Qwen3, Gemma 3) is not the hidden size."""
        dimensions = encoder_dimensions(self.config)
        heads = getattr(dimensions, "num_attention_heads", 1)
        return heads * (getattr(dimensions, "head_dim", None) or dimensions.hidden_size // heads)

    @property
    def num_layers(self) -> int:
        return encoder_dimensions(self.config).num_hidden_layers

    @property
    def vocab_size(self) -> int:
        return encoder_dimensions(self.config).vocab_size

    @property
    def prefix(self) -> str:
        """The family's name for its encoder inside models with a head ('roberta')."""
        return encoder_class(self.config).base_model_prefix

    @property
    def is_decoder(self) -> bool:
        """Whether its family is pre-trained to predict the next token, however it is read here."""
        return direction_of(self.config) != "encoder"

    @property
    def is_causal(self) -> bool:
        """Whether a token sees those before it only: a decoder that keeps its direction."""
        return direction_of(self.config) == "causal"

    @property
    def has_token_types(self) -> bool:
        """Whether the second sentence of a pair has another token type (BERT; XLM-R has one type only)."""
        # XLNet tells apart whether two tokens are of one type, so that it needs no number of types.
        return (getattr(self.config, "type_vocab_size", 0) or 0) > 1 or self.config.model_type == "xlnet"

    @property
    def pooling(self) -> Literal["first", "last", "mean"]:
        """What stands for a sequence where a phase does not say: the token that the family's own classifiers read.

        Of decoders that keep their direction the last one, which alone has seen all; of those read in both directions
        the mean, as LLM2Vec has it (BehnamGhader et al. 2024), and of encoder halves too, as Sentence-T5 (Ni et al.
        2022): neither has learned a token for it.
        """
        if getattr(self.config, "summary_type", "first") == "last" or self.is_causal:  # XLNet's is its last one
            return "last"
        means = getattr(self.config, "classifier_pooling", "") in ("mean", "late")
        return "mean" if means or self.is_decoder or is_encoder_half(self.config) else "first"


def plan_encoder(options: ModelOptions) -> EncoderPlan:
    """Read or make the configuration, set dropout, and choose the attention path.

    Raises:
        UserError: the model cannot be found, has no such size, cannot be read in the direction that is asked for, or
            `max_length` exceeds its positions.
    """
    config = _load_config(options)
    if options.dropout is not None:
        for part in _parts(config):
            for name in _dropout_rates(part):
                setattr(part, name, options.dropout)
    _choose_direction(config, options.bidirectional)
    unpadded, first_position, why_padded, implementation = False, 0, "model.attention = 'padded'", ""
    if options.attention != "padded":
        check = check_unpadded(config)
        unpadded, first_position, why_padded = check.passed, check.first_position, check.reason
        implementation = check.implementation
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
        for part in _parts(config):
            for name in _ATTENTION_DROPOUT_FIELDS:
                if getattr(part, name, None):
                    logger.info("unpadded attention has no dropout on its weights: %s = 0", name)
                    setattr(part, name, 0.0)
    else:
        logger.info("%s runs padded: %s", config.model_type, why_padded)
    why_padded = "" if unpadded else why_padded
    return EncoderPlan(config, unpadded, first_position, num_positions, why_padded, implementation)


def build_encoder(plan: EncoderPlan) -> PreTrainedModel:
    """The encoder without pooling layer. Call it in a context that decides where its parameters lie (engines do)."""
    attention.register()
    arguments: dict[str, Any] = {}
    found = encoder_class(plan.config)
    if "add_pooling_layer" in inspect.signature(found.__init__).parameters:
        arguments["add_pooling_layer"] = False
    implementation = plan.implementation if plan.unpadded else padded_implementation(plan.config)
    # A configuration remembers the precision that its weights were published in; ours is the engine's matter.
    return found._from_config(plan.config, attn_implementation=implementation, dtype=torch.float32, **arguments)


def _choose_direction(config: PretrainedConfig, bidirectional: bool | None) -> None:
    """Write the direction into a decoder's configuration; an encoder has none to choose.

    A folder that was exported from here names its direction, which holds unless the run file names another.
    """
    named = direction_of(config)
    if not is_decoder(config):
        set_direction(config, "encoder")
        if bidirectional is False:
            raise UserError(
                f"model.bidirectional = false, but {config.model_type} is an encoder: it always reads in both "
                "directions; remove it"
            )
        return
    # It would keep the keys and values of every pass, and of layers that are computed again twice.
    config.use_cache = False
    is_causal = named == "causal" if bidirectional is None else not bidirectional
    set_direction(config, "causal" if is_causal else "both")
    if is_causal:
        logger.info("%s keeps its direction: a token sees those before it", config.model_type)
    elif early_tokens_see_later_ones(shrunken(config)):
        logger.info("%s is a decoder, read in both directions here (model.bidirectional)", config.model_type)
    else:
        raise UserError(
            f"{config.model_type} cannot be read in both directions: it makes masks of its own; "
            "set model.bidirectional to false"
        )


def _parts(config: PretrainedConfig) -> list[PretrainedConfig]:
    """The configuration and, where the encoder has one of its own inside, that too."""
    inner = encoder_dimensions(config)
    return [config] if inner is config else [config, inner]


def _dropout_rates(config: PretrainedConfig) -> list[str]:
    """The configuration's fields that are dropout rates, whatever the family calls them."""
    return [
        name
        for name, value in vars(config).items()
        if ("dropout" in name or name.endswith("pdrop")) and type(value) in (int, float)
    ]


def _num_position_slots(config: PretrainedConfig) -> int:
    """Rows of the position table; families with relative positions have none, and say so by no number or by -1."""
    slots = getattr(encoder_dimensions(config), "max_position_embeddings", None) or _UNLIMITED
    return slots if slots > 0 else _UNLIMITED


def _padding_offset(config: PretrainedConfig) -> int:
    """The RoBERTa family counts positions from padding_idx + 1, so that many of its slots are never used."""
    relatives = ("camembert", "data2vec-text", "ibert", "longformer", "mpnet", "xmod")
    return config.pad_token_id + 1 if "roberta" in config.model_type or config.model_type in relatives else 0


def _load_config(options: ModelOptions) -> PretrainedConfig:
    if options.name:
        try:
            return text_configuration(AutoConfig.from_pretrained(options.name, revision=options.revision or None))
        except Exception as error:  # the library raises many kinds for "not there" and "no network"
            otherwise = "give a folder with config.json"
            raise not_to_be_had(f"model.name = {options.name!r}", error, hub_cache(), otherwise) from None
    fields = find_size(options.size).architecture() if options.size else {}
    for name, value in options.architecture.items():
        # Of a model in two parts (T5Gemma), single fields of a part can be set too.
        fields[name] = fields[name] | value if isinstance(value, dict) and isinstance(fields.get(name), dict) else value
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise UserError(
            "model.architecture needs model_type, the name of a Hugging Face configuration (xlm-roberta, ...)"
        )
    try:
        return text_configuration(AutoConfig.for_model(model_type, **fields))
    except Exception as error:
        raise UserError(f"model.architecture does not make a {model_type} model: {reason(error)}") from None

"""What a Hugging Face model type is built of, as far as its parameters can be counted from it. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Structure:
    """The parts of an encoder that its configuration's numbers do not tell.

    The defaults are those of BERT and RoBERTa: normalised after each block, with biases and a table of positions.

    Attributes:
        family: its ladder, as people call it; '' = none of ours.
        is_decoder: published with causal attention.
        is_gated: a feed-forward block of three matrices.
        has_biases: of the matrices; a configuration's attention_bias and mlp_bias go before it.
        has_grouped_heads: its configuration states the number of key-value heads and their width.
        has_head_norms: queries and keys are normalised head by head.
        has_first_norm: the first layer's attention has a normalisation of its own (not so in ModernBERT, where that
            of the embeddings stands in for it).
        relative_tables: learned tables of relative positions: one number per bucket and head, held by the first layer
            ('first') or by each ('each'), or one vector per bucket for all layers ('shared', DeBERTa).
        part: the nested part of the configuration that describes the encoder, where it has parts.
        defaults: what the configuration's class takes for fields that published files leave out.
    """

    family: str = ""
    is_decoder: bool = False
    is_pre_norm: bool = False
    is_gated: bool = False
    has_biases: bool = True
    has_norm_biases: bool = True
    norms_per_layer: int = 2
    has_embedding_norm: bool = True
    has_final_norm: bool = False
    has_first_norm: bool = True
    has_grouped_heads: bool = False
    has_head_norms: bool = False
    has_position_table: bool = True
    num_token_types: int = 1
    relative_tables: Literal["", "first", "each", "shared"] = ""
    part: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)


def structure_of(model_type: str, fields: Mapping[str, Any] | None = None) -> Structure:
    """The structure of a model type. One that is not known is taken for BERT-like, or, where its configuration's
    `fields` name an RMS norm, for Llama-like.
    """
    if model_type in _STRUCTURES:
        return _STRUCTURES[model_type]
    return _LLAMA_LIKE if fields and "rms_norm_eps" in fields else _BERT_LIKE


def family_of(model_type: str) -> str:
    """The architecture family of a Hugging Face model type: the ladder that it belongs to ('XLM-R' for both types of
    it), or the type itself where there is none.
    """
    return structure_of(model_type).family or model_type


_BERT_LIKE = Structure()

_LLAMA: dict[str, Any] = {
    "is_pre_norm": True,
    "is_gated": True,
    "has_biases": False,
    "has_norm_biases": False,
    "has_embedding_norm": False,
    "has_final_norm": True,
    "has_grouped_heads": True,
    "has_position_table": False,
    "num_token_types": 0,
}
_LLAMA_LIKE = Structure(is_decoder=True, **_LLAMA)

_T5: dict[str, Any] = {**_LLAMA, "has_grouped_heads": False}

# The number of heads and their width are missing in the files of some multimodal Gemma 3 models, whose class has these.
_GEMMA_3 = Structure(
    family="Gemma 3",
    is_decoder=True,
    norms_per_layer=4,
    has_head_norms=True,
    part="text_config",
    defaults={
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    },
    **_LLAMA,
)
_T5_GEMMA = Structure(family="T5Gemma", norms_per_layer=4, part="encoder", **_LLAMA)

_STRUCTURES = {
    "xlm-roberta": Structure(family="XLM-R"),
    "xlm-roberta-xl": Structure(family="XLM-R", is_pre_norm=True, has_embedding_norm=False, has_final_norm=True),
    "eurobert": Structure(family="EuroBERT", **_LLAMA),
    "modernbert": Structure(
        family="mmBERT",
        has_first_norm=False,
        **{**_LLAMA, "has_embedding_norm": True, "has_grouped_heads": False},
    ),
    "deberta-v2": Structure(family="mDeBERTa", num_token_types=0, relative_tables="shared"),
    "rembert": Structure(family="RemBERT", num_token_types=2),
    "t5": Structure(relative_tables="first", **{**_T5, "is_gated": False}),
    "mt5": Structure(family="mT5", relative_tables="first", **_T5),
    "umt5": Structure(family="umT5", relative_tables="each", **_T5),
    "t5gemma": _T5_GEMMA,
    "t5_gemma_module": _T5_GEMMA,
    "qwen3": Structure(family="Qwen3", is_decoder=True, has_head_norms=True, **_LLAMA),
    "gemma3": _GEMMA_3,
    "gemma3_text": _GEMMA_3,
}

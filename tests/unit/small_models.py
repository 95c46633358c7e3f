"""Small encoders of several families, with weights and micro-batches, for the tests of modelling."""

from collections.abc import Sequence
from typing import Any

import torch

from xlt_scale.config import ModelOptions
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.modeling.encoder import EncoderPlan, plan_encoder
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import FreshWeights

VOCABULARY = 90
WINDOW = 16  # tokens that a ModernBERT layer with local attention sees around one, half to each side

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
    "pad_token_id": 1,
}
# Heads that are wider than the hidden size, one layer of two with a local window, scores under a cap where the class
# has one, a scale of attention that is not that of the heads.
GEMMA = SHAPE | {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "query_pre_attn_scalar": 9,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "xlm-roberta": SHAPE | {"type_vocab_size": 1},
    "xlm-roberta-xl": SHAPE | {"type_vocab_size": 1},
    "modernbert": SHAPE
    | {"local_attention": WINDOW, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2},
    "bert": SHAPE | {"type_vocab_size": 2},
    "xlnet": {"vocab_size": VOCABULARY, "d_model": 48, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "t5": {"vocab_size": VOCABULARY, "d_model": 48, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 12},
    "mt5": {"vocab_size": VOCABULARY, "d_model": 48, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 12},
    "umt5": {"vocab_size": VOCABULARY, "d_model": 48, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 12},
    "eurobert": SHAPE | {"num_key_value_heads": 2},
    "rembert": SHAPE | {"input_embedding_size": 16, "output_embedding_size": 80},
    "deberta-v2": SHAPE
    | {
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "t5gemma": {"encoder": dict(GEMMA), "decoder": dict(GEMMA), "vocab_size": VOCABULARY},
    "qwen3": SHAPE | {"num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": GEMMA,
}
ENCODERS_WITHOUT_PADDING = ("xlm-roberta", "xlm-roberta-xl", "modernbert", "bert", "eurobert", "t5gemma")
DECODERS = ("qwen3", "gemma3_text")
WITH_PADDING = ("t5", "mt5", "umt5", "rembert", "deberta-v2", "xlnet")

MLM = HeadSpec("mlm", "masked_language_modeling")
PAIRS = HeadSpec("pairs", "classification", num_labels=3)


def plan_for(
    family: str,
    attention: str = "auto",
    bidirectional: bool | None = None,
    initializer_range: float = 0.02,
    **fields: Any,
) -> EncoderPlan:
    """With ten times the usual `initializer_range`, attention is far from uniform, and mistakes in it are visible."""
    architecture = {"model_type": family} | FAMILIES[family] | fields
    for part in [architecture] if family != "t5gemma" else [architecture["encoder"], architecture["decoder"]]:
        part["initializer_range"] = initializer_range
    options = ModelOptions(
        architecture=architecture,
        tokenizer="micro",
        max_length=128,
        dropout=0.0,
        attention=attention,  # type: ignore[arg-type]
        bidirectional=bidirectional,
    )
    return plan_encoder(options)


def build(plan: EncoderPlan, heads: Sequence[HeadSpec], seed: int = 1) -> HeadedEncoder:
    """A model with fresh weights."""
    model = HeadedEncoder(plan, heads)
    source = FreshWeights(describe_parameters(plan, heads), seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.view(-1).copy_(source.read(name, 0, parameter.numel()))
    return model


def batch_of(lengths: Sequence[int], head: HeadSpec, token_types: bool = False, **fields: Any) -> MicroBatch:
    """Random sequences of those lengths."""
    random = torch.Generator().manual_seed(sum(lengths))
    num_tokens = sum(lengths)
    positions = torch.cat([torch.arange(length) for length in lengths])
    halves = torch.cat([torch.arange(length) >= length // 2 for length in lengths])
    return MicroBatch(
        head=head.name,
        kind=head.kind,
        input_ids=torch.randint(5, VOCABULARY, (num_tokens,), generator=random),
        positions=positions,
        lengths=list(lengths),
        token_type_ids=halves.long() if token_types else None,
        **fields,
    )


def classification_batch(lengths: Sequence[int], token_types: bool = False) -> MicroBatch:
    return batch_of(lengths, PAIRS, token_types, labels=torch.arange(len(lengths)) % 3)


def masked_batch(lengths: Sequence[int], token_types: bool = False) -> MicroBatch:
    """Every seventh token is to be predicted."""
    places = torch.arange(0, sum(lengths), 7)
    return batch_of(lengths, MLM, token_types, labels=places % VOCABULARY, label_positions=places)

"""A model's shape: its dimensions, its parameters to the last one, and its Hugging Face configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from xlt_scale.sizes.structure import Structure, family_of, structure_of

# What the dimensions are called in configurations: as most do, and as T5's do.
_NAMES = {
    "num_layers": ("num_hidden_layers", "num_layers"),
    "hidden_size": ("hidden_size", "d_model"),
    "num_heads": ("num_attention_heads", "num_heads"),
    "intermediate_size": ("intermediate_size", "d_ff"),
    "vocab_size": ("vocab_size", "vocab_size"),
    "num_position_slots": ("max_position_embeddings", ""),
    "num_key_value_heads": ("num_key_value_heads", ""),
    "head_size": ("head_dim", "d_kv"),
    "sliding_window": ("sliding_window", ""),
}
_TEN_BILLION = 10_000_000_000
_T5_TYPES = ("t5", "mt5", "umt5")
# What all of them have, where the classes of the library have other defaults.
_XLM_R_FIELDS = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}


@dataclass(frozen=True)
class ModelSize:
    """The shape of an encoder, or of a decoder that is read as one.

    Parameter counts are those of the Hugging Face class without pooler and without an output matrix over the
    vocabulary, of encoder-decoder models the encoder alone with its word table. They are exact for the families of the
    ladders; other model types are counted as if they were BERT's or Llama's.

    Attributes:
        num_position_slots: rows of the position table, or the tokens that rotary positions were trained for; 0 = no
            limit is stated (T5).
        further_fields: what else the configuration states.
        family: the ladder that it belongs to (`family_of` the model type where none is given).
        num_key_value_heads: key and value heads, each shared by several query heads where there are fewer (where not
            given: as many as query heads).
        head_size: width of a head; heads times this need not be the hidden size (where not given, it is).
        sliding_window: of the layers with local attention, as the configuration states it: of ModernBERT the whole
            window, of others how far a token sees to one side, itself included; 0 = no such layers.
    """

    name: str
    model_type: str
    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    num_position_slots: int
    hub_name: str = ""
    further_fields: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""
    num_key_value_heads: int = 0
    head_size: int = 0
    sliding_window: int = 0

    def __post_init__(self) -> None:
        derived = {
            "family": family_of(self.model_type),
            "num_key_value_heads": self.num_heads,
            "head_size": self.hidden_size // max(self.num_heads, 1),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, getattr(self, name) or value)

    @property
    def structure(self) -> Structure:
        """What the model type is built of."""
        return structure_of(self.model_type, self.further_fields)

    @property
    def attention_width(self) -> int:
        """Of all query heads together: what attention over squared lengths costs goes with it."""
        return self.num_heads * self.head_size

    @property
    def is_pre_norm(self) -> bool:
        """Whether it normalises before each block (and once at the end) rather than after each block."""
        return self.structure.is_pre_norm

    @property
    def is_decoder(self) -> bool:
        """Whether it was published with causal attention."""
        return self.structure.is_decoder

    @property
    def is_gated(self) -> bool:
        """Whether a feed-forward block has three matrices, one of them a gate."""
        activation = self.further_fields.get("feed_forward_proj")  # T5's configurations say it here
        return str(activation).startswith("gated") if activation else self.structure.is_gated

    @property
    def has_biases(self) -> bool:
        """Whether the matrices of attention or feed-forward have biases."""
        return self._has_attention_biases or self._has_feed_forward_biases

    @property
    def _has_attention_biases(self) -> bool:
        return bool(self.further_fields.get("attention_bias", self.structure.has_biases))

    @property
    def _has_feed_forward_biases(self) -> bool:
        return bool(self.further_fields.get("mlp_bias", self.structure.has_biases))

    @property
    def _norm(self) -> int:
        """Numbers of a normalisation per dimension: a weight, and a bias where the family has them."""
        return 1 + bool(self.further_fields.get("norm_bias", self.structure.has_norm_biases))

    @property
    def _embedding_width(self) -> int:
        """RemBERT's tables are narrower than its layers."""
        return int(self.further_fields.get("input_embedding_size") or self.hidden_size)

    @property
    def num_embedding_parameters(self) -> int:
        """All tables that are looked up (words, positions, token types, relative positions), and the normalisation of
        what they give where there is one.
        """
        rows = self.vocab_size + int(self.further_fields.get("type_vocab_size", self.structure.num_token_types))
        if self.structure.has_position_table and self.further_fields.get("position_biased_input", True):
            rows += self.num_position_slots
        norm = self._norm if self.structure.has_embedding_norm else 0
        return (rows + norm) * self._embedding_width + self._num_relative_parameters

    @property
    def _num_relative_parameters(self) -> int:
        kind, fields = self.structure.relative_tables, self.further_fields
        if kind == "shared":
            if not fields.get("relative_attention"):
                return 0
            buckets = fields.get("position_buckets", -1)
            reach = fields.get("max_relative_positions", -1)
            span = next((number for number in (buckets, reach) if number > 0), self.num_position_slots)
            return 2 * int(span) * self.hidden_size
        buckets = int(fields.get("relative_attention_num_buckets", 32))
        return {"": 0, "first": 1, "each": self.num_layers}[kind] * buckets * self.num_heads

    @property
    def num_parameters(self) -> int:
        """Of the encoder without pooler, of a decoder without its output matrix."""
        return self.num_embedding_parameters + self.num_non_embedding_parameters

    @property
    def num_non_embedding_parameters(self) -> int:
        """All but the embeddings, as scaling studies count."""
        structure, hidden = self.structure, self.hidden_size
        norm = self._norm * hidden
        projection = (self._embedding_width + 1) * hidden if self._embedding_width != hidden else 0
        final_norm = norm if structure.has_final_norm else 0
        missing_norm = 0 if structure.has_first_norm else norm
        # DeBERTa normalises its vectors of relative positions (norm_rel_ebd).
        relative_norm = norm if "layer_norm" in str(self.further_fields.get("norm_rel_ebd", "")) else 0
        layers = self.num_layers * (self._num_layer_parameters + structure.norms_per_layer * norm)
        return layers + projection + final_norm - missing_norm + relative_norm

    @property
    def _num_layer_parameters(self) -> int:
        """Of one layer, without what normalises the width of the model."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_size, self.num_key_value_heads * self.head_size
        attention = 2 * hidden * (queries + keys)
        if self._has_attention_biases:
            attention += queries + 2 * keys + hidden
        if self.structure.has_head_norms:
            attention += 2 * self.head_size
        ups = 2 if self.is_gated else 1
        feed_forward = (ups + 1) * hidden * inner
        if self._has_feed_forward_biases:
            feed_forward += ups * inner + hidden
        return attention + feed_forward

    @property
    def above_ten_billion(self) -> Literal["both", "total", ""]:
        """By which counts it has more than 10 billion parameters: with and without embeddings, or only with them."""
        if self.num_non_embedding_parameters > _TEN_BILLION:
            return "both"
        return "total" if self.num_parameters > _TEN_BILLION else ""

    def architecture(self) -> dict[str, Any]:
        """Fields of the Hugging Face configuration of this shape, `model_type` among them."""
        is_t5 = self.model_type in _T5_TYPES
        left_out = set() if self.structure.has_grouped_heads or is_t5 else {"num_key_value_heads", "head_size"}
        if self.model_type == "modernbert" or not self.sliding_window:
            left_out.add("sliding_window")
        fields = {
            names[is_t5]: getattr(self, attribute)
            for attribute, names in _NAMES.items()
            if names[is_t5] and attribute not in left_out
        }
        if self.model_type == "modernbert" and self.sliding_window:
            fields["local_attention"] = self.sliding_window
        if self.structure.family == "XLM-R":
            fields |= _XLM_R_FIELDS
        fields |= self.further_fields
        if self.model_type != "t5gemma":
            return {"model_type": self.model_type, **fields}
        # The decoder is never built; its class wants a configuration, and the published ones have two equal parts.
        return {
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "encoder": dict(fields),
            "decoder": dict(fields),
        }


def size_of_fields(fields: Mapping[str, Any], name: str = "") -> ModelSize | None:
    """The shape that a Hugging Face configuration describes, by its fields; None where they do not say enough.

    Of a configuration with parts (T5Gemma, multimodal Gemma 3) the part that reads text counts.
    """
    model_type = str(fields.get("model_type", ""))
    part = fields.get(structure_of(model_type).part or "-")
    fields = {**structure_of(model_type).defaults, **(part if isinstance(part, dict) else fields)}
    found: dict[str, Any] = {}
    for attribute, names in _NAMES.items():
        key = next((key for key in names if key in fields), "")
        try:
            found[attribute] = int(fields.pop(key, None) or 0)
        except (TypeError, ValueError):
            return None
    if fields.get("use_sliding_window") is False:
        found["sliding_window"] = 0
    elif fields.get("local_attention"):
        found["sliding_window"] = int(fields["local_attention"])
    if not all(found[key] > 0 for key in ("num_layers", "hidden_size", "num_heads", "vocab_size")) or not model_type:
        return None
    found["intermediate_size"] = found["intermediate_size"] or 4 * found["hidden_size"]
    further = {key: value for key, value in fields.items() if key != "model_type"}
    return ModelSize(name, model_type, further_fields=further, **found)

"""The size ladder: architectures, exact parameter counts, and the floating-point operations of a training step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xlt_scale.errors import UserError, nearest


@dataclass(frozen=True)
class ModelSize:
    """A published or planned encoder shape.

    Parameter counts are those of the Hugging Face class without pooler and with one token type.
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

    @property
    def is_pre_norm(self) -> bool:
        """XLM-R XL and XXL normalise before each block and once at the end; Base and Large after each block."""
        return self.model_type == "xlm-roberta-xl"

    @property
    def num_embedding_parameters(self) -> int:
        """Word, position and token-type tables, with their layer normalisation where there is one."""
        rows = self.vocab_size + self.num_position_slots + 1
        return rows * self.hidden_size + (0 if self.is_pre_norm else 2 * self.hidden_size)

    @property
    def num_parameters(self) -> int:
        """The encoder without pooler."""
        hidden, inner = self.hidden_size, self.intermediate_size
        attention = 4 * (hidden * hidden + hidden)
        feed_forward = 2 * hidden * inner + hidden + inner
        norms = 4 * hidden
        final_norm = 2 * hidden if self.is_pre_norm else 0
        return self.num_embedding_parameters + self.num_layers * (attention + feed_forward + norms) + final_norm

    @property
    def num_non_embedding_parameters(self) -> int:
        """All but the embeddings, as scaling studies count."""
        return self.num_parameters - self.num_embedding_parameters

    def architecture(self) -> dict[str, Any]:
        """Fields of the Hugging Face configuration of this shape."""
        return {
            "model_type": self.model_type,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_heads,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.num_position_slots,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            **self.further_fields,
        }


def _size(name: str, model_type: str, layers: int, hidden: int, heads: int, vocab: int, hub: str = "") -> ModelSize:
    return ModelSize(name, model_type, layers, hidden, heads, 4 * hidden, vocab, 514, hub)


def _micro(name: str, hidden: int, heads: int) -> ModelSize:
    # Narrow tables need larger initial values and an output matrix of their own to learn in a minute
    # (docs/micro_benchmark.md).
    fields = {"initializer_range": 0.05, "tie_word_embeddings": False}
    return ModelSize(name, "xlm-roberta", 2, hidden, heads, 2 * hidden, 640, 514, further_fields=fields)


# Shapes of the published checkpoints (Conneau et al. 2020; Goyal et al. 2021, arXiv 2105.00572); the last two are ours,
# in the proportions of XL and XXL, for planning and for initialisation tests.
SIZES: dict[str, ModelSize] = {
    size.name: size
    for size in (
        _micro("micro-tiny", 32, 2),
        _micro("micro-small", 64, 2),
        _micro("micro-medium", 96, 3),
        _micro("micro-large", 128, 4),
        _size("xlmr-base", "xlm-roberta", 12, 768, 12, 250_002, "FacebookAI/xlm-roberta-base"),
        _size("xlmr-large", "xlm-roberta", 24, 1024, 16, 250_002, "FacebookAI/xlm-roberta-large"),
        _size("xlmr-xl", "xlm-roberta-xl", 36, 2560, 32, 250_880, "facebook/xlm-roberta-xl"),
        _size("xlmr-xxl", "xlm-roberta-xl", 48, 4096, 32, 250_880, "facebook/xlm-roberta-xxl"),
        _size("planned-20b", "xlm-roberta-xl", 60, 5120, 40, 250_880),
        _size("planned-40b", "xlm-roberta-xl", 76, 6656, 52, 250_880),
    )
}


def find_size(name: str) -> ModelSize:
    """The size of that name; an unknown name is a `UserError` with the nearest one."""
    if name not in SIZES:
        raise UserError(f"model.size = {name!r} is unknown; {nearest(name, SIZES)}")
    return SIZES[name]


def training_flops(
    num_non_embedding_parameters: int, num_layers: int, hidden_size: int, num_tokens: int, sum_squared_lengths: int
) -> int:
    """Floating-point operations of forward and backward over real tokens: 6 N sum(n) + 12 L d sum(n^2).

    N without embeddings and the attention term bidirectional (no causal half), after Kaplan et al. 2020, section 2.1,
    and Chowdhery et al. 2022, appendix B. Recomputation does not count, so this gives MFU rather than hardware
    utilisation.
    """
    return 6 * num_non_embedding_parameters * num_tokens + 12 * num_layers * hidden_size * sum_squared_lengths

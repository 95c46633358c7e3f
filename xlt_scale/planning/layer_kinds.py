"""What a layer of each family keeps for its backward pass and moves beside its matrix products, as multiples of its
dimensions.

Read off the operators of the real classes (`transformers` 5), one by one, as autograd saves them:

- A fused layer normalisation keeps its input and its result. An RMS norm written in Python works in fp32: it keeps the
  input as fp32 numbers, what it has divided, and the product with its weight. Gemma's multiplies in fp32 too, so that
  two fp32 tensors stay, and normalises what each block gives as well: four norms of a layer. T5's keeps its input
  twice, as it is and in fp32.
- Norms of queries and keys (Qwen3, Gemma 3) keep the same of the heads.
- Unpadded attention keeps queries, keys and values as the kernel reads them, with keys and values repeated for all the
  query heads that share them, and its output.
- Soft-capped attention (T5Gemma) and attention written in products (RemBERT, DeBERTa) keep matrices of scores; T5's
  keeps the biases of its scores in each layer, as they meet the mask there.
- T5's activation function is written in Python and keeps six tensors of the inner size.

`tests/unit/test_planning_layer_kinds.py` proves the counts against traces of these classes.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from xlt_scale.planning.workload import Shape


class Widths(NamedTuple):
    """Numbers of values of a token: multiples of the hidden size, of the width of all query heads, of that of the
    key-value heads, and of the inner size.
    """

    hidden: float = 0.0
    query: float = 0.0
    key: float = 0.0
    inner: float = 0.0

    def of(self, shape: Shape) -> float:
        """The numbers for a shape, added up."""
        values = self.hidden * shape.hidden_size + self.query * shape.query_size
        return values + self.key * shape.key_value_size + self.inner * shape.intermediate_size


_NONE = Widths()


@dataclass(frozen=True)
class Scores:
    """Attention whose scores lie in memory: matrices [sequences, heads, n, n].

    Attributes:
        kept: values of a score that stay; `kept_fp32` of them in fp32.
        kept_with_dropout: further values with dropout on the weights, beside a mask of bytes.
        of_products: values of a score that stay where only the results of products do.
        forward, backward: reads and writes of a score outside products, in values.
        positions: vectors that stand for relative positions, each compared with every token (DeBERTa); 0 = none.
        goes_by_sequence: sequences of different lengths go one after another.
    """

    kept: float = 0.0
    kept_fp32: float = 0.0
    kept_with_dropout: float = 0.0
    of_products: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    positions: int = 0
    goes_by_sequence: bool = False


@dataclass(frozen=True)
class LayerKind:
    """A family's layer.

    Attributes:
        kept: values that stay in the forward precision, nothing being computed again.
        kept_fp32: in fp32 whatever the precision.
        kept_casts: in fp32 where the forward precision is another: beside what they are copies of.
        statistics: fp32 numbers per token; `head_statistics` and `key_head_statistics` per head.
        masks: bytes of dropout masks, where there is dropout.
        forward, backward: reads and writes of each pass outside products and attention, in values, eager.
        num_norms: of the hidden size.
        rotates: queries and keys are turned by their positions.
        kernels: that the host starts, forward and backward, eager.
        compiled_kernels: the same where layers are compiled.
        dropout: of the published configuration.
        local_share: layers with a sliding window, of all.
    """

    kept: Widths
    forward: Widths
    backward: Widths
    kernels: tuple[int, int]
    kept_fp32: Widths = _NONE
    kept_casts: Widths = _NONE
    statistics: int = 4
    head_statistics: int = 1
    key_head_statistics: int = 0
    masks: Widths = _NONE
    num_norms: int = 2
    rotates: bool = False
    compiled_kernels: tuple[int, int] = (16, 30)
    dropout: float = 0.0
    local_share: float = 0.0
    scores: Scores = field(default_factory=Scores)


def kind_of(shape: Shape) -> LayerKind:
    """The family's layer, or the nearest one's (`is_known`)."""
    found = _KINDS.get(shape.model_type)
    if found is not None:
        return found
    if shape.is_rms_normed:
        return _EUROBERT
    return _bert_like(shape)


def is_known(model_type: str) -> bool:
    """Whether the layers of the model type have been counted."""
    return model_type in _KINDS or model_type in _BERT_LIKE


_BERT_LIKE = ("xlm-roberta", "xlm-roberta-xl", "roberta", "bert", "camembert")

# Forward: two norms (2 each), two residual sums (3 each), the activation function (2 of the inner size). Backward:
# norms (5 each, their weights' gradients too), sums of gradients where paths meet (12), biases' gradients (a read of
# each product's output gradient), the activation function (3).
_BIASES = Widths(hidden=5.0, inner=1.0)


def _bert_like(shape: Shape) -> LayerKind:
    """XLM-R's layers, and decoders that are counted as a variant of them (published figures that the model of time is
    compared with): with a gate, or without biases.
    """
    gates = 2.5 if shape.gated else 1.0
    backward = Widths(hidden=22.0, inner=3.0 * gates)
    if not shape.causal:
        backward = Widths(*(a + b for a, b in zip(backward, _BIASES, strict=True)))
    return LayerKind(
        # Input, normalised input, the sum after attention, and that sum normalised: in layers that normalise after each
        # block one of these is the sum before a normalisation. Then query and attention output, key and value.
        kept=Widths(hidden=4, query=2, key=2, inner=4 if shape.gated else 2),
        forward=Widths(hidden=10.0, inner=2.0 * gates),
        backward=backward,
        # Counted in the code of Hugging Face's XLM-R layer and of autograd for it.
        kernels=(22, 45),
        compiled_kernels=(9, 20),
        # XLM-R XL has no dropout behind its feed-forward block.
        masks=Widths(hidden=1 if shape.pre_norm else 2),
        dropout=0.1,
    )


_EUROBERT = LayerKind(
    kept=Widths(hidden=4, query=4, inner=4),
    kept_fp32=Widths(hidden=2),
    forward=Widths(hidden=42, query=16, key=12, inner=5),
    backward=Widths(hidden=107, query=31, key=20, inner=9),
    kernels=(60, 115),
    statistics=2,
    rotates=True,
)
_MODERNBERT = LayerKind(
    # Values are a part of one product's result with queries and keys, which stays as a whole.
    kept=Widths(hidden=4, query=6, inner=4),
    forward=Widths(hidden=10, query=58, inner=5),
    backward=Widths(hidden=24, query=68, inner=13),
    kernels=(40, 62),
    masks=Widths(inner=1),
    rotates=True,
    local_share=2 / 3,
)
_QWEN3 = LayerKind(
    kept=Widths(hidden=4, query=5, key=1, inner=4),
    kept_fp32=Widths(hidden=2, query=1, key=1),
    forward=Widths(hidden=42, query=30, key=34, inner=5),
    backward=Widths(hidden=107, query=71, key=67, inner=9),
    kernels=(87, 166),
    statistics=2,
    head_statistics=2,
    key_head_statistics=1,
    rotates=True,
)
_GEMMA3 = LayerKind(
    kept=Widths(hidden=2, query=4, inner=4),
    kept_fp32=Widths(hidden=8, query=2, key=2),
    forward=Widths(hidden=86, query=32, key=36, inner=5),
    backward=Widths(hidden=223, query=77, key=73, inner=9),
    kernels=(133, 224),
    head_statistics=2,
    key_head_statistics=1,
    num_norms=4,
    rotates=True,
    local_share=5 / 6,
)
_T5_GEMMA = LayerKind(
    kept=Widths(hidden=2, query=4, inner=4),
    kept_fp32=Widths(hidden=8),
    forward=Widths(hidden=86, query=22, key=12, inner=5),
    backward=Widths(hidden=223, query=32, key=20, inner=9),
    kernels=(100, 160),
    head_statistics=0,
    masks=Widths(hidden=2, inner=1),
    num_norms=4,
    rotates=True,
    local_share=1 / 2,
    # In fp32 the weights are the softmax's own result; in bf16 they lie beside it. Either way eight bytes of a score.
    scores=Scores(kept_fp32=2, of_products=1, forward=18, backward=21, goes_by_sequence=True),
)
_REMBERT = LayerKind(
    kept=Widths(hidden=4, query=4, inner=2),
    forward=Widths(hidden=18, inner=2),
    backward=Widths(hidden=31, inner=4),
    kernels=(30, 52),
    head_statistics=0,
    masks=Widths(hidden=2),
    scores=Scores(kept=1, kept_with_dropout=1, of_products=1, forward=6, backward=5),
)
_DEBERTA = LayerKind(
    # Keys stay twice: as they are, and divided by the scale.
    kept=Widths(hidden=4, query=5, inner=2),
    forward=Widths(hidden=20, inner=2),
    backward=Widths(hidden=44, inner=4),
    kernels=(63, 96),
    head_statistics=0,
    masks=Widths(hidden=2),
    dropout=0.1,
    scores=Scores(kept=1, kept_with_dropout=1, of_products=1, forward=17, backward=13, positions=512),
)
_MT5 = LayerKind(
    kept=Widths(hidden=6, query=4, inner=7),
    kept_casts=Widths(hidden=2),
    forward=Widths(hidden=40, inner=21),
    backward=Widths(hidden=105, inner=34),
    kernels=(57, 107),
    statistics=2,
    masks=Widths(hidden=2, inner=1),
    dropout=0.1,
    scores=Scores(kept=1, forward=4, backward=6),
)

_KINDS = {
    "eurobert": _EUROBERT,
    "modernbert": _MODERNBERT,
    "qwen3": _QWEN3,
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3,
    "t5gemma": _T5_GEMMA,
    "t5_gemma_module": _T5_GEMMA,
    "rembert": _REMBERT,
    "deberta-v2": _DEBERTA,
    "mt5": _MT5,
    "umt5": replace(_MT5, kernels=(90, 107)),
}

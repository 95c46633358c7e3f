"""Bytes of activations that autograd keeps for the backward pass, per token.

Counted from what each operator of a layer saves: a matrix product its input, a normalisation its input and two fp32
statistics, dropout a byte-wide mask, the activation function its input, flash attention query, key, value, its output
and an fp32 number per head (Dao et al. 2022, section 3.1). A tensor that several operators save counts once. After
Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer Models), section 4.1, without its
quadratic term, which flash attention does not have; families whose attention has it are counted with it. How many
tensors of which width a family's layer saves: `layer_kinds.py`. `tests/unit/test_planning_activations.py` and
`test_planning_layer_kinds.py` prove the counts against traces of the real layers.
"""

from math import ceil

from xlt_scale.planning.layer_kinds import LayerKind, kind_of
from xlt_scale.planning.workload import Layout, Shape, Workload

_FP32 = 4
_INDICES_PER_TOKEN = 24  # word, position and token-type numbers, int64


def value_bytes(workload: Workload) -> int:
    """Bytes of one value in the forward precision."""
    return 4 if workload.precision == "fp32" else 2


def layer_bytes_per_token(workload: Workload, compiled: bool = False) -> float:
    """What one layer keeps of each token, nothing being computed again.

    Compiled, dropout masks are drawn again from their seed; what else the compiler's partitioner saves is not counted
    on.
    """
    shape, kind, width = workload.shape, kind_of(workload.shape), value_bytes(workload)
    in_fp32 = kind.kept_fp32.of(shape) + (kind.kept_casts.of(shape) if width < _FP32 else 0.0)
    statistics = kind.statistics + kind.head_statistics * shape.num_heads
    statistics += kind.key_head_statistics * (shape.num_key_value_heads or shape.num_heads)
    masks = 0.0 if compiled or not workload.dropout else kind.masks.of(shape)
    return width * kind.kept.of(shape) + _FP32 * (in_fp32 + statistics) + masks + _score_bytes(workload, kind)


def selective_bytes_per_token(workload: Workload, compiled: bool = False) -> float:
    """What a layer keeps whose matrix products and attention are kept and whose other operators run again."""
    shape, kind, width = workload.shape, kind_of(workload.shape), value_bytes(workload)
    inner = (2 if shape.gated else 1) * shape.intermediate_size
    # Input, and what the last product of either block gave; query and attention output; key and value.
    values = (2 if compiled else 3) * shape.hidden_size + 2 * shape.query_size + 2 * shape.key_value_size + inner
    scores = kind.scores.of_products * workload.lengths.longest + 2 * kind.scores.positions
    statistics = shape.num_heads if kind.head_statistics else 0
    return width * (values + scores * shape.num_heads) + _FP32 * statistics


def kept_bytes(workload: Workload, layout: Layout, num_tokens: float) -> float:
    """All that is kept when the backward pass begins.

    Args:
        num_tokens: of the micro-batch, padded where batches are.
    """
    shape, width = workload.shape, value_bytes(workload)
    whole = layer_bytes_per_token(workload, layout.compile)
    if layout.float8 and layout.compile:
        whole = selective_bytes_per_token(workload, layout.compile)
    recomputed = num_recomputed(shape, layout)
    kept_of_recomputed = (
        selective_bytes_per_token(workload, layout.compile)
        if layout.activation_checkpointing == "selective"
        else float(width * shape.hidden_size)
    )
    layers = (shape.num_layers - recomputed) * whole + recomputed * kept_of_recomputed
    return num_tokens * (layers + _ends_bytes_per_token(workload))


def num_recomputed(shape: Shape, layout: Layout) -> int:
    """Layers whose forward pass runs again, wholly or in part."""
    if not layout.activation_checkpointing:
        return 0
    return ceil(shape.num_layers / layout.checkpoint_every)


def recomputed_bytes(workload: Workload, layout: Layout, num_tokens: float) -> float:
    """What exists for a while of the one layer that is being computed again."""
    if not num_recomputed(workload.shape, layout):
        return 0.0
    return num_tokens * layer_bytes_per_token(workload, layout.compile)


def temporary_bytes(workload: Workload, num_tokens: float) -> float:
    """Gradients of activations that exist at once in a layer's backward pass: of both sides of the activation function,
    of the layer's output and of the sum before.
    """
    shape, kind = workload.shape, kind_of(workload.shape)
    values = (3 if shape.gated else 2) * shape.intermediate_size + 2 * shape.hidden_size
    has_scores = kind.scores.kept or kind.scores.kept_fp32
    scores = 2 * shape.num_heads * workload.lengths.longest if has_scores else 0
    in_fp32 = 2 * shape.hidden_size if kind.kept_fp32.hidden or kind.kept_casts.hidden else 0
    return num_tokens * (value_bytes(workload) * (values + scores) + _FP32 * in_fp32)


def _ends_bytes_per_token(workload: Workload) -> float:
    """What embeddings and the end of the stack keep: a normalisation's input and statistics, a mask, indices; of an RMS
    norm what one in a layer keeps.
    """
    hidden, kind = workload.shape.hidden_size, kind_of(workload.shape)
    mask = hidden if workload.dropout and kind.masks.hidden else 0
    in_fp32 = (kind.kept_fp32.hidden + kind.kept_casts.hidden) / kind.num_norms * hidden
    return value_bytes(workload) * hidden + _FP32 * in_fp32 + mask + 2 * _FP32 + _INDICES_PER_TOKEN


def _score_bytes(workload: Workload, kind: LayerKind) -> float:
    """Of matrices of scores, per token: rows as long as the longest example, as micro-batches are cut longest first."""
    scores, width = kind.scores, value_bytes(workload)
    of_one = width * scores.kept + _FP32 * scores.kept_fp32
    if workload.dropout and scores.kept_with_dropout:
        of_one += width * scores.kept_with_dropout + 1
    return of_one * workload.shape.num_heads * workload.lengths.longest + _position_bytes(workload, kind)


def _position_bytes(workload: Workload, kind: LayerKind) -> float:
    """Of relative positions, per token: keys and queries of all of them, which DeBERTa copies for each sequence, and
    their products with the token's own.
    """
    lengths, shape = workload.lengths, workload.shape
    of_sequence = shape.hidden_size / (lengths.mean * lengths.padding)
    return value_bytes(workload) * 2 * kind.scores.positions * (shape.num_heads + of_sequence)


def head_bytes(workload: Workload, num_tokens: float) -> float:
    """The largest tensors of a masked-language-modelling head: a slice of the scores in fp32, twice, once in the
    forward precision, and the gradient of the output matrix.
    """
    targets = workload.masked_share * num_tokens
    if not targets:
        return 0.0
    shape, width = workload.shape, value_bytes(workload)
    scores = targets * shape.vocab_size
    if workload.sliced_loss:
        scores = min(scores, CHUNK_ELEMENTS)
    return scores * (8 + width) + width * shape.vocab_size * shape.hidden_size + 3 * targets * shape.hidden_size * width


CHUNK_ELEMENTS = 1 << 24
"""Scores that exist at once (`modeling/vocabulary_loss.py`)."""

"""Bytes of activations that autograd keeps for the backward pass, per token.

Counted from what each operator of a layer saves: a matrix product its input, a normalisation its input and two fp32
statistics, dropout a byte-wide mask, the activation function its input, flash attention query, key, value, its output
and an fp32 number per head (Dao et al. 2022, section 3.1). A tensor that several operators save counts once. After
Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer Models), section 4.1, without its
quadratic term, which flash attention does not have. `tests/unit/test_planning_activations.py` proves the count against
traces of the real layers.
"""

from math import ceil

from xlt_scale.planning.workload import Layout, Shape, Workload

_STATISTICS = 4
_INDICES_PER_TOKEN = 24  # word, position and token-type numbers, int64


def value_bytes(workload: Workload) -> int:
    """Bytes of one value in the forward precision."""
    return 2 if workload.precision == "bf16" else 4


def layer_bytes_per_token(workload: Workload, compiled: bool = False) -> float:
    """What one layer keeps of each token, nothing being computed again.

    Compiled, dropout masks are drawn again from their seed; what else the compiler's partitioner saves is not counted
    on.
    """
    shape = workload.shape
    inner = (4 if shape.gated else 2) * shape.intermediate_size
    # Input, normalised input, query, attention output, the sum after attention, and that sum normalised: in layers that
    # normalise after each block one of these is the sum before a normalisation.
    values = 6 * shape.hidden_size + 2 * shape.key_value_size + inner
    statistics = _STATISTICS * (2 * 2 + shape.num_heads)
    return value_bytes(workload) * values + statistics + (0 if compiled else _mask_bytes(workload))


def selective_bytes_per_token(workload: Workload) -> float:
    """What a layer keeps whose matrix products and attention are kept and whose other operators run again."""
    shape = workload.shape
    inner = (2 if shape.gated else 1) * shape.intermediate_size
    # Input, query, attention output, and what the last product of either block gave.
    values = 5 * shape.hidden_size + 2 * shape.key_value_size + inner
    return value_bytes(workload) * values + _STATISTICS * shape.num_heads


def kept_bytes(workload: Workload, layout: Layout, num_tokens: float) -> float:
    """All that is kept when the backward pass begins.

    Args:
        num_tokens: of the micro-batch, padded where batches are.
    """
    shape, width = workload.shape, value_bytes(workload)
    whole = layer_bytes_per_token(workload, layout.compile)
    recomputed = num_recomputed(shape, layout)
    kept_of_recomputed = (
        selective_bytes_per_token(workload)
        if layout.activation_checkpointing == "selective"
        else float(width * shape.hidden_size)
    )
    layers = (shape.num_layers - recomputed) * whole + recomputed * kept_of_recomputed
    return num_tokens * (layers + _ends_bytes_per_token(workload))


def num_recomputed(shape: Shape, layout: Layout) -> int:
    """Layers whose forward pass runs again. Compiled layers choose by themselves what to compute again: 'selective'
    adds nothing to them (`modeling/layer_bodies.py`).
    """
    if not layout.activation_checkpointing or (layout.compile and layout.activation_checkpointing == "selective"):
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
    shape = workload.shape
    return num_tokens * value_bytes(workload) * (2 * shape.intermediate_size + 2 * shape.hidden_size)


def _ends_bytes_per_token(workload: Workload) -> float:
    """What embeddings and the end of the stack keep: a normalisation's input and statistics, a mask, indices."""
    hidden = workload.shape.hidden_size
    mask = hidden if workload.dropout else 0
    return value_bytes(workload) * hidden + mask + 2 * _STATISTICS + _INDICES_PER_TOKEN


def _mask_bytes(workload: Workload) -> int:
    if not workload.dropout:
        return 0
    # XLM-R XL has no dropout behind its feed-forward block.
    return workload.shape.hidden_size * (1 if workload.shape.pre_norm else 2)


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

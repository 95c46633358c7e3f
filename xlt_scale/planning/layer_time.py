"""Seconds of one encoder layer: on the device by a roofline, and on the host that starts its kernels.

The roofline (Williams et al. 2009): a matrix product takes its operations over what the device reaches at that size, or
its bytes over the bandwidth of the memory, whichever is longer; norms, dropout, residual sums and activation functions
take their bytes. One constant is fitted (`PRODUCTS_IN_A_STEP`).
"""

from dataclasses import dataclass
from math import ceil

from xlt_scale.planning.activations import num_recomputed, value_bytes
from xlt_scale.planning.hardware import Device
from xlt_scale.planning.layer_kinds import LayerKind, Widths, kind_of
from xlt_scale.planning.residence import is_alone
from xlt_scale.planning.workload import Layout, Shape, Workload

PRODUCTS_IN_A_STEP = 0.85
"""What products reach inside a training step of what large ones reach alone (`Device.matmul_flops`): power and clocks
under steady load, cold caches, transposed operands. Fitted to one figure: a hand-written XL encoder's forward and
backward pass on an H200, 33,572 tokens/s."""

ATTENTION_RATE = 0.45
"""Flash attention against large products: Dao 2023 (FlashAttention-2), figures 4 to 7, heads of 64 to 128."""

ATTENTION_TILE = 128
"""Rows of a tile of flash attention: shorter sequences cost as much."""

# Tiles of cuBLAS (rows, columns) and what they reach of the best one: a small tile reads more for each product.
_TILES = ((128, 256, 1.0), (128, 128, 0.9), (64, 128, 0.7), (64, 64, 0.5))
_FILLING = 256  # of the inner dimension, as long as filling and draining a tile's pipeline takes
_LARGE = 8192  # edges of the product that `Device.matmul_flops` is of

_KERNELS_OF_A_SEQUENCE = (10, 20)
"""Of attention that goes sequence by sequence, for each different length."""

_MOST_LENGTHS = 64
"""Different lengths in a micro-batch, at most. An assumption."""

FSDP2_HOOK_SECONDS = 0.3e-3
"""Host time of FSDP2's hooks at a layer, and pass. An assumption."""

ZERO3_LAYER_HOOK_SECONDS = 0.5e-3
"""Host time of DeepSpeed's hooks where a layer is gathered at once, per layer and pass. An assumption."""

ZERO3_MODULE_HOOKS_SECONDS = 2.4e-3
"""Host time of DeepSpeed's hooks at all modules of a layer, and pass, as stock programs have them. Fitted to one
figure: XL under stock ZeRO-3 with batches so small that the host decides (9,302 tokens/s, grouped by length)."""

ZERO3_FETCH_SECONDS = 0.1e-3
"""What the device waits at each place where a single ZeRO-3 process fetches weights: DeepSpeed waits for the stream
there (`NoGatherHandle.wait`). Fitted to one figure: XL unpadded under ZeRO-3, 23,373 tokens/s."""

_WEIGHTS_PER_LAYER = 6


@dataclass(frozen=True)
class LayerTime:
    """Of one layer and one micro-batch, in seconds.

    Attributes:
        forward, backward: on the device, without recomputation.
        recomputed: of the part that is computed again in the backward pass, for a layer that is.
        host_forward, host_backward: until the host has started all of it.
        stalls: of the device, at places where the host waits for it.
    """

    forward: float
    backward: float
    recomputed: float
    host_forward: float
    host_backward: float
    stalls: float = 0.0


def layer_time(workload: Workload, layout: Layout, device: Device, num_tokens: float) -> LayerTime:
    """One layer's time for a micro-batch of so many tokens, padded where batches are."""
    products = [_products_seconds(workload, layout, device, num_tokens, which) for which in (0, 1)]
    attention = [_attention_seconds(workload, device, num_tokens, passes) for passes in (1.0, 2.5)]
    passes = [_elementwise_seconds(workload, layout, device, num_tokens, which) for which in (0, 1)]
    forward = products[0] + attention[0] + passes[0]
    recomputed = 0.0
    if num_recomputed(workload.shape, layout):
        recomputed = passes[0] if layout.activation_checkpointing == "selective" else forward
    hooks, stalls = 0.0, 0.0
    if layout.engine == "zero3":
        hooks = ZERO3_MODULE_HOOKS_SECONDS if layout.stock else ZERO3_LAYER_HOOK_SECONDS
        fetches = 2 * (_WEIGHTS_PER_LAYER if layout.stock else 1)
        stalls = fetches * ZERO3_FETCH_SECONDS if layout.num_devices == 1 else 0.0
    elif not is_alone(workload, layout, device):
        hooks = FSDP2_HOOK_SECONDS
    return LayerTime(
        forward,
        products[1] + attention[1] + passes[1],
        recomputed,
        _num_kernels(workload, layout, num_tokens, 0) * device.launch_seconds + hooks,
        _num_kernels(workload, layout, num_tokens, 1) * device.launch_seconds + hooks,
        stalls,
    )


def _num_kernels(workload: Workload, layout: Layout, num_tokens: float, which: int) -> float:
    kind = kind_of(workload.shape)
    kernels = float((kind.compiled_kernels if layout.compile else kind.kernels)[which])
    if kind.scores.goes_by_sequence:
        num_sequences = num_tokens / (workload.lengths.mean * workload.lengths.padding)
        kernels += _KERNELS_OF_A_SEQUENCE[which] * min(num_sequences, _MOST_LENGTHS)
    return kernels


def product_seconds(
    device: Device, rows: float, columns: float, inner: float, width: int, speedup: float = 1.0
) -> float:
    """A product [rows, inner] x [inner, columns] inside a training step.

    Args:
        width: bytes of a value.
        speedup: of the operations, against bf16.
    """
    operations = 2 * rows * columns * inner
    rate = device.matmul_flops * PRODUCTS_IN_A_STEP * speedup * _share_of_large(device, rows, columns, inner)
    moved = width * (rows * inner + inner * columns + rows * columns)
    return max(operations / rate, moved / device.bandwidth)


def _share_of_large(device: Device, rows: float, columns: float, inner: float) -> float:
    if device.num_processors == 1:
        return 1.0
    return _tile_share(device, rows, columns, inner) / _tile_share(device, _LARGE, _LARGE, _LARGE)


def _tile_share(device: Device, rows: float, columns: float, inner: float) -> float:
    """What tiles and waves of tiles leave of a device: the last wave is rarely full (NVIDIA, Matrix Multiplication
    Background User's Guide, sections on tile and wave quantization).
    """
    best = 0.0
    for height, breadth, reached in _TILES:
        tiles = ceil(rows / height) * ceil(columns / breadth)
        waves = ceil(tiles / device.num_processors)
        filled = rows * columns / (height * breadth * waves * device.num_processors)
        best = max(best, reached * filled)
    return best * inner / (inner + _FILLING)


def layer_products(shape: Shape) -> list[tuple[int, int]]:
    """The weight matrices of a layer as (inputs, outputs)."""
    hidden, inner, queries = shape.hidden_size, shape.intermediate_size, shape.query_size
    attention = [(hidden, queries), (hidden, shape.key_value_size), (hidden, shape.key_value_size), (queries, hidden)]
    return attention + [(hidden, inner)] * (2 if shape.gated else 1) + [(inner, hidden)]


def _products_seconds(workload: Workload, layout: Layout, device: Device, tokens: float, which: int) -> float:
    """All weight matrices' products of the forward (0) or the backward pass (1: towards inputs, towards weights)."""
    width = value_bytes(workload)
    speedup = device.float8_speedup if layout.float8 and device.float8_speedup else 1.0
    total = 0.0
    for inputs, outputs in layer_products(workload.shape):
        if which == 0:
            total += product_seconds(device, tokens, outputs, inputs, width, speedup)
            continue
        total += product_seconds(device, tokens, inputs, outputs, width, speedup)
        # Frozen weights get no gradient; adapters' own products are small.
        if workload.trained_share_of_layers == 1.0:
            total += product_seconds(device, inputs, outputs, tokens, width, speedup)
    return total


def _attention_seconds(workload: Workload, device: Device, tokens: float, passes: float) -> float:
    """Scores and weighted sums of flash attention; its backward pass does 2.5 times as many operations as its forward
    pass (Dao 2023, section 4.1). Attention written in products does them at the same rate, and reads and writes its
    scores (`Scores`).
    """
    shape, kind, lengths = workload.shape, kind_of(workload.shape), workload.lengths
    mean, mean_square = lengths.mean * lengths.padding, lengths.mean_square * lengths.padding**2
    length = max(mean_square / mean, min(ATTENTION_TILE, lengths.longest))
    seen = length * (0.5 if shape.causal else 1.0)
    if shape.sliding_window:
        seen = (1 - kind.local_share) * seen + kind.local_share * min(seen, 2 * shape.sliding_window)
    operations = 4 * shape.query_size * tokens * seen * passes
    moved = 4 * passes * value_bytes(workload) * shape.query_size * tokens
    seconds = max(operations / (device.matmul_flops * ATTENTION_RATE), moved / device.bandwidth)
    of_scores = kind.scores.forward if passes == 1.0 else kind.scores.backward
    values = of_scores * min(mean_square / mean, lengths.longest) * shape.num_heads
    values += 2 * passes * kind.scores.positions * (shape.num_heads + shape.hidden_size / mean)
    return seconds + tokens * values * value_bytes(workload) / device.bandwidth


def _elementwise_seconds(workload: Workload, layout: Layout, device: Device, tokens: float, which: int) -> float:
    """Passes over activations outside of products and attention, counted in reads and writes of a token's values
    (`layer_kinds.py`). Dropout takes 2.5 of what it is applied to. Compiled, sums and dropout run within the norms.
    """
    shape, kind = workload.shape, kind_of(workload.shape)
    widths = _compiled_widths(shape, kind, which) if layout.compile else (kind.forward, kind.backward)[which]
    values = widths.of(shape)
    if workload.dropout and not layout.compile:
        values += 2.5 * kind.masks.of(shape)
    if layout.float8 and device.float8_speedup:
        # The largest value, then the rounding: two reads and half a write of each product's input or output gradient.
        values += 7.5 * shape.hidden_size + 2.5 * shape.intermediate_size
    return tokens * values * value_bytes(workload) / device.bandwidth


def _compiled_widths(shape: Shape, kind: LayerKind, which: int) -> Widths:
    """Reads and writes of one kernel per norm, per turning of queries and keys, and per activation function; sums and
    dropout run within them. Biases' gradients read what products give.
    """
    gate, turns = (1.5 if shape.gated else 1.0), (2.0 if kind.rotates else 0.0)
    if which == 0:
        return Widths(4.0 * kind.num_norms, turns, turns, 2.0 * gate)
    of_biases = (5.0, 1.0) if shape.has_biases else (0.0, 0.0)
    return Widths(6.0 * kind.num_norms + of_biases[0], 2 * turns, 2 * turns, 3.0 * gate + of_biases[1])

"""Unpadded attention, registered with `transformers`, so that its encoders run on real tokens only.

All sequences of a micro-batch lie in one row; the encoder passes their boundaries down to this function as keyword
arguments.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

UNPADDED = "xlt_scale_unpadded"


class Sequences:
    """The sequences of a row, for attention that takes them one by one.

    An object rather than a tuple: a compiled layer would be compiled anew for every tuple of lengths it is given.

    Attributes:
        runs: neighbouring sequences of equal length as (count, length): each run is one dense batch.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.runs = tuple((len(list(run)), length) for length, run in groupby(lengths))


def sequence_arguments(lengths: Sequence[int], boundaries: Tensor) -> dict[str, Any]:
    """What the encoder hands down to the attention: boundaries in the names that flash kernels use, and the sequences.

    Args:
        boundaries: `MicroBatch.boundaries`, on the device of the row.
    """
    # Kernels want an upper bound; few different ones let compiled layers live on.
    longest = max(_SHORTEST_BOUND, 1 << (max(lengths) - 1).bit_length())
    return {
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
        "sequences": Sequences(lengths),
    }


_SHORTEST_BOUND = 64


def unpadded_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    sequences: Sequences,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention in both directions within each sequence of the row.

    Args:
        query, key, value: [1, heads, T, head size]; key and value may have fewer heads, each shared by several query
            heads.
        sliding_window: tokens see others less than this many places away (the convention of `transformers`' modules,
            whose own flash path takes one off as well); None = the whole sequence.

    Returns:
        [1, T, heads, head size], and None for the attention weights.

    Unpadded runs have no dropout on attention weights anywhere (`encoder.py` sets the rate to 0, the same for every arm
    of a study).
    """
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    if not _has_kernel(query):
        return _sequence_by_sequence(query, key, value, sequences, scaling, sliding_window), None
    reach = -1 if sliding_window is None else sliding_window - 1
    # The operator below `torch.nn.attention.varlen`: its derivative is PyTorch's own, and the host needs a fraction of
    # the time that it takes to call a Python operator with a Python derivative, which small batches wait for.
    output, *_ = torch.ops.aten._flash_attention_forward(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        0.0,
        False,
        False,
        scale=scaling,
        window_size_left=reach,
        window_size_right=reach,
    )
    return output.unsqueeze(0), None


@torch.compiler.disable
def _sequence_by_sequence(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scaling: float | None, sliding_window: int | None
) -> Tensor:
    """Dense attention over each run of equal lengths; [1, T, heads, head size]."""
    outputs = []
    start = 0
    for count, length in sequences.runs:
        stop = start + count * length
        # [1, heads, count * length, size] -> [count, heads, length, size]
        q, k, v = (
            states[0, :, start:stop].unflatten(1, (count, length)).transpose(0, 1) for states in (query, key, value)
        )
        mask = None
        if sliding_window is not None and length > sliding_window:
            places = torch.arange(length, device=query.device)
            mask = (places[:, None] - places[None, :]).abs() < sliding_window
        output = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        start = stop
    return torch.cat(outputs).unsqueeze(0)


def _has_kernel(query: Tensor) -> bool:
    """Flash kernels take half precision and head sizes up to 256 in steps of 8; the rest takes the dense path."""
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] in range(8, 257, 8)


def _no_mask(*arguments: Any, **named: Any) -> None:
    """No mask: the boundaries say it all."""


def register() -> None:
    """Make the function known to `transformers` under the name `UNPADDED`. Calling it again changes nothing."""
    AttentionInterface.register(UNPADDED, unpadded_attention)
    AttentionMaskInterface.register(UNPADDED, _no_mask)

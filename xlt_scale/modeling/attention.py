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

SequenceRuns = tuple[tuple[int, int], ...]


def sequence_runs(lengths: Sequence[int]) -> SequenceRuns:
    """Neighbouring sequences of equal length as (count, length): each run is one dense batch."""
    return tuple((len(list(run)), length) for length, run in groupby(lengths))


def sequence_arguments(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What the encoder hands down to the attention: boundaries in the names that flash kernels use, and the runs."""
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    if device.type == "cuda":
        ends = ends.pin_memory().to(device, non_blocking=True)
    longest = max(lengths)
    return {
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
        "sequence_runs": sequence_runs(lengths),
    }


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
    sequence_runs: SequenceRuns,
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

    The variable-length kernel knows no dropout on attention weights, so unpadded runs have none anywhere (`encoder.py`
    sets the rate to 0, the same for every arm of a study).
    """
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    if _has_kernel(query):
        from torch.nn.attention.varlen import varlen_attn

        reach = -1 if sliding_window is None else sliding_window - 1
        output = varlen_attn(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(reach, reach),
        )
        assert isinstance(output, Tensor)
        return output.unsqueeze(0), None
    outputs = []
    start = 0
    for count, length in sequence_runs:
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
    return torch.cat(outputs).unsqueeze(0), None


def _has_kernel(query: Tensor) -> bool:
    """Flash kernels take half precision and head sizes up to 256 in steps of 8; the rest takes the dense path."""
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] in range(8, 257, 8)


def _no_mask(*arguments: Any, **named: Any) -> None:
    """No mask: the boundaries say it all."""


def register() -> None:
    """Make the function known to `transformers` under the name `UNPADDED`. Calling it again changes nothing."""
    AttentionInterface.register(UNPADDED, unpadded_attention)
    AttentionMaskInterface.register(UNPADDED, _no_mask)

"""Unpadded attention, registered with `transformers`, so that its encoders run on real tokens only.

All sequences of a micro-batch lie in one row; the encoder passes their boundaries down to this function as keyword
arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

UNPADDED = "xlt_scale_unpadded"
UNPADDED_CAUSAL = "xlt_scale_unpadded_causal"
"""The same for decoders that keep their direction: a token sees those before it."""
UNPADDED_WIDER = "xlt_scale_unpadded_wider"
"""Windows reach one token further on either side: what `transformers` makes of a decoder's window where it is read in
both directions, and of T5Gemma's encoder."""

_HARMLESS_TENSORS = {"position_ids", "cache_position", "cu_seq_lens_k"}
"""What families hand down to their attention besides, and do not need there. Of anything else a result may depend."""


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
    softcap: float | None = None,
    causal: bool = False,
    wider: bool = False,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    sequences: Sequences,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention within each sequence of the row: in both directions, whatever the model was trained for, or causal.

    Args:
        query, key, value: [1, heads, T, head size]; key and value may have fewer heads, each shared by several query
            heads.
        sliding_window: tokens see others less than this many places away (the convention of `transformers`' modules,
            whose own flash path takes one off as well), on either side unless `causal`; one more if `wider`; None =
            the whole sequence.
        softcap: scores s become softcap * tanh(s / softcap) (Gemma Team 2024, Gemma 2, section 2).

    Returns:
        [1, T, heads, head size], and None for the attention weights.

    Raises:
        ValueError: the model hands down a tensor that this function knows nothing of, such as a bias of positions.

    Unpadded runs have no dropout on attention weights anywhere (`encoder.py` sets the rate to 0, the same for every arm
    of a study).
    """
    unknown = [name for name, given in unused.items() if isinstance(given, Tensor) and name not in _HARMLESS_TENSORS]
    if unknown or attention_mask is not None:
        raise ValueError(f"its attention takes {', '.join(unknown) or 'a mask'}, which has no place without padding")
    if sliding_window is not None and wider:
        sliding_window += 1
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    if softcap is not None or not _has_kernel(query):
        scores = _Scores(scaling, sliding_window, softcap, causal)
        return _sequence_by_sequence(query, key, value, sequences, scores), None
    reach = -1 if sliding_window is None else sliding_window - 1
    # The operator below `torch.nn.attention.varlen`: its derivative is PyTorch's own, and the host needs a fraction of
    # the time that it takes to call a Python operator with a Python derivative, which small batches wait for.
    output, *_ = torch.ops.aten._flash_attention_forward(
        query.squeeze(0).transpose(0, 1),
        key.squeeze(0).transpose(0, 1),
        value.squeeze(0).transpose(0, 1),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        0.0,
        causal,
        False,
        scale=scaling,
        window_size_left=reach,
        window_size_right=0 if causal else reach,
    )
    return output.unsqueeze(0), None


@dataclass(frozen=True)
class _Scores:
    """How products of queries and keys become weights (`unpadded_attention`)."""

    scaling: float | None
    sliding_window: int | None
    softcap: float | None
    causal: bool

    def mask(self, length: int, device: torch.device) -> Tensor | None:
        """Who sees whom in a sequence, bool [length, length]; None where all see all."""
        window = length if self.sliding_window is None else self.sliding_window
        if length <= window and not self.causal:
            return None
        places = torch.arange(length, device=device)
        behind = places[:, None] - places[None, :]
        nearby = behind.abs() < window
        return nearby & (behind >= 0) if self.causal else nearby

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Dense attention, [sequences, heads, length, head size]."""
        mask = self.mask(query.shape[2], query.device)
        if self.softcap is None:
            return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scaling)
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if self.scaling is None else self.scaling)
        scores = self.softcap * torch.tanh(scores / self.softcap)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value


@torch.compiler.disable
def _sequence_by_sequence(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scores: _Scores) -> Tensor:
    """Dense attention over each run of equal lengths; [1, T, heads, head size]."""
    outputs = []
    start = 0
    for count, length in sequences.runs:
        stop = start + count * length
        # [1, heads, count * length, size] -> [count, heads, length, size]
        q, k, v = (
            states[0, :, start:stop].unflatten(1, (count, length)).transpose(0, 1) for states in (query, key, value)
        )
        outputs.append(scores.attention(q, k, v).transpose(1, 2).flatten(0, 1))
        start = stop
    return torch.cat(outputs).unsqueeze(0)


def _has_kernel(query: Tensor) -> bool:
    """Flash kernels take half precision and head sizes up to 256 in steps of 8; the rest takes the dense path."""
    # Compared, not looked up in a range: where the compiler takes the size for one that changes, ranges have no answer.
    fits = query.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return fits and query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)


def _no_mask(*arguments: Any, **named: Any) -> None:
    """No mask: the boundaries say it all."""


def register() -> None:
    """Make the function known to `transformers` under its names. Calling it again changes nothing."""
    AttentionInterface.register(UNPADDED, unpadded_attention)
    AttentionInterface.register(UNPADDED_CAUSAL, partial(unpadded_attention, causal=True))
    AttentionInterface.register(UNPADDED_WIDER, partial(unpadded_attention, wider=True))
    for name in (UNPADDED, UNPADDED_CAUSAL, UNPADDED_WIDER):
        AttentionMaskInterface.register(name, _no_mask)

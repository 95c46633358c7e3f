"""Masking for masked language modelling, as a pure function of (key, example, epoch, position)."""

import numpy as np

from xlt_scale.data.counter_random import random_bits

IGNORED = -100
_MAX_LENGTH = 1 << 20


def mask_tokens(
    input_ids: np.ndarray,
    example_numbers: np.ndarray,
    positions: np.ndarray,
    *,
    key: int,
    share: float,
    special: np.ndarray,
    ordinary: np.ndarray,
    mask_id: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose `share` of the tokens; 80 % become the mask token, 10 % a random one, 10 % stay (Devlin et al. 2019, 3.1).

    Each example is masked alike on whatever rank and in whatever micro-batch it lies.

    Args:
        input_ids: tokens of several sequences in one row, shape [T].
        example_numbers: the example that each token belongs to, shape [T]; another number in each epoch.
        positions: the token's position in its example, shape [T].
        special: bool per vocabulary entry, shape [vocab_size]; special tokens are never chosen.
        ordinary: the other tokens, int [their number]; random tokens are drawn from them.

    Returns:
        the masked input_ids [T] and the labels [T]: the original token where one was chosen, else -100.
    """
    bits = random_bits(key, example_numbers.astype(np.uint64) * np.uint64(_MAX_LENGTH) + positions.astype(np.uint64))
    # Independent parts of the 64 bits: 24 choose the position, 8 + 8 what happens to it, the rest the random token.
    chosen = ((bits & np.uint64(0xFFFFFF)).astype(np.int64) < share * (1 << 24)) & ~special[input_ids]
    fate = ((bits >> np.uint64(24)) & np.uint64(0xFFFF)).astype(np.int64) / (1 << 16)
    random_tokens = ordinary[((bits >> np.uint64(40)) % np.uint64(len(ordinary))).astype(np.int64)]
    masked = np.where(chosen & (fate < 0.8), mask_id, input_ids)
    masked = np.where(chosen & (fate >= 0.8) & (fate < 0.9), random_tokens, masked)
    return masked.astype(input_ids.dtype), np.where(chosen, input_ids, IGNORED).astype(np.int64)

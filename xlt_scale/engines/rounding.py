"""Rounding fp32 to bf16 at random, so that the mean of what is rounded stays what it was.

Weights kept in bf16 alone lose most updates: an update smaller than half the distance to the next number rounds to
nothing every time. Rounded up with the probability that the remainder asks for, it arrives on average (Zamirai et al.
2020, Revisiting BFloat16 Training, section 4).
"""

import torch
from torch import Tensor

from xlt_scale.data.counter_random import key_of

_BLOCK = 1 << 22


@torch.no_grad()
def stochastic_round_(destination: Tensor, source: Tensor, seed: int, start: int = 0) -> None:
    """Write `source` into `destination`, each element rounded to one of its two neighbours in bf16.

    Which one depends on the seed and the element's number alone: the same on every device, in every piece that a tensor
    is cut into, and when a step is repeated after a resume. Numbers that bf16 has, infinities and NaN stay as they are.
    Called by each rank for its own elements; does not communicate.

    Args:
        destination: bf16, 1-D, contiguous.
        source: fp32 of the same length, on the same device.
        seed: another one for each step and each tensor.
        start: number of the first element in the whole tensor.
    """
    for block in range(start // _BLOCK, -(-(start + len(source)) // _BLOCK)):
        low, high = max(start, block * _BLOCK), min(start + len(source), (block + 1) * _BLOCK)
        values = source[low - start : high - start]
        places = torch.arange(low - block * _BLOCK, high - block * _BLOCK, dtype=torch.int32, device=source.device)
        # bf16 is the upper half of fp32: what is added to the lower half carries over as often as it should.
        rounded = (values.view(torch.int32) + _sixteen_bits(places, key_of("rounding", seed, block))) & -(1 << 16)
        kept = torch.where(values.isfinite(), rounded.view(torch.float32), values)
        destination[low - start : high - start].copy_(kept)


def _sixteen_bits(counters: Tensor, key: int) -> Tensor:
    """int32 in [0, 65536), of counters in int32, which are overwritten.

    Twice the mixing function "lowbias32" (Wellons 2018, Prospecting for Hash Functions), each time with other bits of
    the key: multiplications wrap around, and integers do so alike on every device.
    """
    for part in (key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF):
        counters.bitwise_xor_(_signed(part))
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            counters.bitwise_xor_(counters.bitwise_right_shift(shift).bitwise_and_((1 << 32 - shift) - 1))
            counters.mul_(_signed(factor))
        counters.bitwise_xor_(counters.bitwise_right_shift(16).bitwise_and_(0xFFFF))
    return counters.bitwise_and_(0xFFFF)


def _signed(bits: int) -> int:
    """32 bits as the int32 of the same bits."""
    return bits - (1 << 32) if bits >> 31 else bits

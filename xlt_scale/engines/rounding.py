"""Rounding fp32 to bf16 at random, so that the mean of what is rounded stays what it was.

Weights kept in bf16 alone lose most updates: an update smaller than half the distance to the next number rounds to
nothing every time. Rounded up with the probability that the remainder asks for, it arrives on average (Zamirai et al.
2020, Revisiting BFloat16 Training, section 4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from xlt_scale.data.counter_random import key_of

_RANGE = 1 << 31
"""Elements whose numbers one key serves."""
_PIECE = 1 << 16
"""Elements that are rounded at once without a compiler: what lies between stays in a processor's cache."""
_SMALL = 1 << 16
"""Elements up to which ranges are rounded together."""


@torch.no_grad()
def stochastic_round_(destination: Tensor, source: Tensor, seed: int, start: int = 0) -> None:
    """Write `source` into `destination`, each element rounded to one of its two neighbours in bf16.

    Which one depends on the seed and the element's number alone: the same on every device, in every piece that a tensor
    is cut into, and when a step is repeated after a resume. Numbers that bf16 has, infinities and NaN stay as they are.
    Called by each rank for its own elements; does not communicate. On GPUs one compiled kernel does all of it.

    Args:
        destination: bf16, 1-D, contiguous.
        source: fp32 of the same length, on the same device.
        seed: another one for each step and each tensor.
        start: number of the first element in the whole tensor.
    """
    is_compiled = source.is_cuda and has_triton()
    piece = _RANGE if is_compiled else _PIECE
    stop = start + len(source)
    low = start
    while low < stop:
        number, first = divmod(low, _RANGE)
        high = min(stop, (number + 1) * _RANGE, low + piece)
        key = key_of("rounding", seed, number)
        # Tensors, since a compiled function would be compiled anew for every number.
        numbers = [torch.tensor(_signed(part), dtype=torch.int32) for part in (key & _WORD, key >> 32 & _WORD, first)]
        function = _compiled_round() if is_compiled else _round
        function(destination[low - start : high - start], source[low - start : high - start], *numbers)
        low = high


@dataclass(frozen=True)
class RoundedRange:
    """Elements of a tensor that are rounded: the arguments of `stochastic_round_`."""

    destination: Tensor
    source: Tensor
    seed: int
    start: int


@torch.no_grad()
def stochastic_round_all_(ranges: Sequence[RoundedRange]) -> None:
    """`stochastic_round_` for each range, on one device. Small ones are rounded together: each by itself would cost the
    host more time than the device.
    """
    small: list[RoundedRange] = []
    for found in ranges:
        if len(found.source) <= _SMALL and found.start + len(found.source) <= _RANGE:
            small.append(found)
        else:
            stochastic_round_(found.destination, found.source, found.seed, found.start)
    if small:
        _round_together(small)


def _round_together(ranges: Sequence[RoundedRange]) -> None:
    source = torch.cat([found.source for found in ranges])
    lengths = [len(found.source) for found in ranges]
    keys = [key_of("rounding", found.seed, 0) for found in ranges]
    columns = [
        lengths,
        [_signed(key & _WORD) for key in keys],
        [_signed(key >> 32 & _WORD) for key in keys],
        [found.start - begin for found, begin in zip(ranges, accumulate(lengths, initial=0), strict=False)],
    ]
    repeats, *numbers = torch.tensor(columns, dtype=torch.int32).to(source.device, non_blocking=True)
    of_elements = [each.repeat_interleave(repeats, output_size=len(source)) for each in numbers]
    rounded = torch.empty_like(source, dtype=torch.bfloat16)
    _round(rounded, source, *of_elements)
    torch._foreach_copy_([found.destination for found in ranges], list(rounded.split(lengths)))


@cache
def _compiled_round() -> Callable[..., None]:
    """The rounding of a piece as one kernel, for any number of elements."""
    function: Callable[..., None] = torch.compile(_round, dynamic=True)
    return function


def _round(destination: Tensor, source: Tensor, key: Tensor, second_key: Tensor, first: Tensor) -> None:
    """Keys, and what is to be added to places to have the elements' numbers, are int32: scalars, or one per element."""
    places = torch.arange(len(source), dtype=torch.int32, device=source.device) + first
    # bf16 is the upper half of fp32: what is added to the lower half carries over as often as it should.
    rounded = (source.view(torch.int32) + _sixteen_bits(places, key, second_key)) & -(1 << 16)
    destination.copy_(torch.where(source.isfinite(), rounded.view(torch.float32), source))


def _sixteen_bits(counters: Tensor, *keys: Tensor) -> Tensor:
    """int32 in [0, 65536), of counters in int32.

    Twice the mixing function "lowbias32" (Wellons 2018, Prospecting for Hash Functions), each time with another key:
    multiplications wrap around, and integers do so alike on every device.
    """
    for key in keys:
        counters = counters ^ key
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            counters = (counters ^ (counters >> shift & (1 << 32 - shift) - 1)) * _signed(factor)
        counters = counters ^ (counters >> 16 & 0xFFFF)
    return counters & 0xFFFF


_WORD = 0xFFFFFFFF


def _signed(bits: int) -> int:
    """32 bits as the int32 of the same bits."""
    return bits - (1 << 32) if bits >> 31 else bits

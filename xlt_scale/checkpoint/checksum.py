"""CRC-32 checksums of tensors, whole or in ranges: those of neighbouring ranges combine to that of both.

One number serves two ends: whether a file is as it was written, and whether two states are equal whatever the engines
and world sizes that hold them. It is the CRC-32 of zlib, gzip and PNG, so any program can check it.
"""

import zlib
from collections.abc import Iterable
from functools import cache

from torch import Tensor

from xlt_scale.modeling.stored_tensors import bytes_of

_POLYNOMIAL = 0xEDB88320  # reflected: bit 31 is x^0
PIECE = 1 << 24
"""Elements that are read, written or compared at a time: bounds what is held besides the tensors themselves."""


def tensor_bytes(values: Tensor) -> memoryview:
    """The bytes of a 1-D tensor, without a copy where it is contiguous on the CPU."""
    if not values.numel():
        return memoryview(b"")
    return bytes_of(values.detach().cpu().contiguous())


def tensor_checksum(values: Tensor) -> int:
    """The CRC-32 of a 1-D tensor's little-endian bytes."""
    checksum = 0
    for low in range(0, values.numel(), PIECE):
        checksum = zlib.crc32(tensor_bytes(values[low : low + PIECE]), checksum)
    return checksum


def combine(first: int, second: int, num_bytes_of_second: int) -> int:
    """The checksum of two neighbouring pieces of data, from the checksums of each.

    CRC(A B) = CRC(A) x^(8 |B|) + CRC(B) in the polynomials over GF(2) modulo the CRC's own.
    """
    return _multiply(_power_of_x(8 * num_bytes_of_second), first) ^ second


def combine_all(parts: Iterable[tuple[int, int]]) -> int:
    """The checksum of consecutive pieces, given as (checksum, number of bytes)."""
    total = 0
    for checksum, num_bytes in parts:
        total = combine(total, checksum, num_bytes)
    return total


def _multiply(left: int, right: int) -> int:
    product, bit = 0, 1 << 31
    while bit:
        if left & bit:
            product ^= right
        right = (right >> 1) ^ (_POLYNOMIAL if right & 1 else 0)
        bit >>= 1
    return product


@cache
def _power_of_x(exponent: int) -> int:
    power, square = 1 << 31, 1 << 30
    while exponent:
        if exponent & 1:
            power = _multiply(square, power)
        square = _multiply(square, square)
        exponent >>= 1
    return power

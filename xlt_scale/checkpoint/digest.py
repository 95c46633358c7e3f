"""A content hash of a tensor that ranks can compute from their ranges and add up."""

import torch
from torch import Tensor

_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)
_CHUNK = 1 << 22


def range_digest(values: Tensor, start: int) -> int:
    """The digest of elements [start, start + n) of a flattened fp32 tensor, as a signed 64-bit integer.

    The sum over elements of (bit pattern x odd weight of the index), modulo 2^64. Digests of ranges that tile the
    tensor add up (with wrap-around) to the digest of the tensor, whatever the ranges: so checkpoints written at any
    world size can be compared.
    """
    total = torch.zeros((), dtype=torch.int64)
    for low in range(0, values.numel(), _CHUNK):
        part = values[low : low + _CHUNK].detach().to("cpu", torch.float32).contiguous().view(torch.int32)
        index = torch.arange(start + low, start + low + part.numel(), dtype=torch.int64)
        weight = index * _MULTIPLIER
        weight = (weight ^ (weight >> 29)) * 2 + 1
        total += ((part.to(torch.int64) + 1) * weight).sum()
    return int(total)


def add_digests(left: int, right: int) -> int:
    """Addition modulo 2^64, in the signed range."""
    return (left + right + (1 << 63)) % (1 << 64) - (1 << 63)

"""Checksums: those of zlib, and those of ranges combine to that of the whole."""

import zlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlt_scale.checkpoint import checksum
from xlt_scale.checkpoint.checksum import combine, combine_all, tensor_bytes, tensor_checksum

VALUES = torch.randn(3000, generator=torch.Generator().manual_seed(0))
BYTES = VALUES.numpy().tobytes()


@given(cuts=st.lists(st.integers(0, 3000), max_size=6))
def test_ranges_combine_to_the_whole(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 3000]
    parts = [(tensor_checksum(VALUES[low:high]), 4 * (high - low)) for low, high in pairwise(edges)]
    assert combine_all(parts) == zlib.crc32(BYTES)


@given(first=st.binary(max_size=200), second=st.binary(max_size=200))
def test_two_pieces_of_any_bytes_combine(first: bytes, second: bytes) -> None:
    assert combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@given(parts=st.lists(st.binary(max_size=50), min_size=3, max_size=3))
def test_how_pieces_are_grouped_does_not_matter(parts: list[bytes]) -> None:
    a, b, c = [(zlib.crc32(part), len(part)) for part in parts]
    left = combine_all([(combine_all([a, b]), a[1] + b[1]), c])
    assert left == combine_all([a, (combine_all([b, c]), b[1] + c[1])])


@pytest.mark.parametrize("exponent", [31, 32, 40])
def test_lengths_beyond_32_bits_combine(exponent: int) -> None:
    """Zeros are appended at once, and half of them after the other half."""
    zeros, length = zlib.crc32(bytes(1)), 1
    while length < 1 << exponent:
        half, zeros, length = zeros, combine(zeros, zeros, length), 2 * length
    head = zlib.crc32(b"head")
    at_once = combine(head, zeros, length)
    assert combine(combine(head, half, length // 2), half, length // 2) == at_once
    assert at_once != head


@given(st.lists(st.floats(width=32), max_size=30))
def test_a_tensors_checksum_is_that_of_its_bytes(numbers: list[float]) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    assert tensor_checksum(values) == zlib.crc32(values.numpy().tobytes())


@pytest.mark.parametrize("piece", [1, 7, 1000, 3000, 3001])
def test_pieces_do_not_change_it(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "PIECE", piece)
    assert tensor_checksum(VALUES) == zlib.crc32(BYTES)


def test_a_tensor_with_gaps_counts_by_its_elements() -> None:
    assert tensor_checksum(VALUES[::2]) == zlib.crc32(VALUES[::2].numpy().tobytes())


def test_bytes_are_a_view_where_they_can_be() -> None:
    assert np.frombuffer(tensor_bytes(VALUES), dtype=np.uint8).ctypes.data == VALUES.data_ptr()


def test_it_tells_order_sign_and_length_apart() -> None:
    whole = tensor_checksum(VALUES)
    assert tensor_checksum(VALUES.flip(0)) != whole
    assert tensor_checksum(-VALUES) != whole
    assert tensor_checksum(torch.cat([VALUES, torch.zeros(1)])) != whole
    assert tensor_checksum(torch.tensor([0.0])) != tensor_checksum(torch.tensor([-0.0]))

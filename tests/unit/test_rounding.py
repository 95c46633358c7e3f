"""Stochastic rounding: to a neighbour, right on average, repeatable whatever the pieces."""

import numpy as np
import pytest
import torch
from torch import Tensor

from xlt_scale.data.counter_random import key_of
from xlt_scale.engines import rounding
from xlt_scale.engines.rounding import RoundedRange, stochastic_round_, stochastic_round_all_


def rounded(source: Tensor, seed: int = 1, start: int = 0) -> Tensor:
    destination = torch.empty(source.shape, dtype=torch.bfloat16)
    stochastic_round_(destination, source, seed, start)
    return destination


def drawn(count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0)) * 3


def test_every_element_becomes_one_of_its_two_neighbours_in_bf16() -> None:
    source = drawn(10_000)
    found = rounded(source).float()
    towards_zero = (source.view(torch.int32) & -(1 << 16)).view(torch.float32)
    away = ((source.view(torch.int32) & -(1 << 16)) + (1 << 16)).view(torch.float32)
    assert ((found == towards_zero) | (found == away)).all()
    assert 0.4 < (found == away).float().mean() < 0.6


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("remainder", [0.01, 0.25, 0.5, 0.9])
def test_the_mean_of_what_is_rounded_is_what_it_was(remainder: float, sign: int) -> None:
    """1 has 1 + 2^-7 as next neighbour; the mean over so many elements is right within four of its deviations."""
    count = 200_000
    value = torch.tensor(sign * (1 + remainder * 2**-7), dtype=torch.float32)
    share = (rounded(value.repeat(count)).float() * sign - 1).mean() * 2**7
    exact = (value.item() * sign - 1) * 2**7
    assert abs(share.item() - exact) < 4 * (exact * (1 - exact) / count) ** 0.5


def test_small_updates_of_a_weight_arrive_where_rounding_to_nearest_loses_them_all() -> None:
    nearest, stochastic = torch.ones(4096, dtype=torch.bfloat16), torch.ones(4096, dtype=torch.bfloat16)
    for step in range(100):
        nearest = (nearest.float() + 2**-12).bfloat16()
        stochastic_round_(stochastic, stochastic.float() + 2**-12, seed=step)
    assert (nearest == 1).all()
    assert stochastic.float().mean().item() == pytest.approx(1 + 100 * 2**-12, abs=1e-3)


def test_the_result_is_of_the_seed_and_the_elements_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "_RANGE", 1000)
    source = drawn(3500)
    whole = rounded(source)
    pieces = [rounded(source[start:stop], start=start) for start, stop in ((0, 700), (700, 2100), (2100, 3500))]
    assert torch.equal(torch.cat(pieces), whole)
    assert torch.equal(rounded(source), whole)


def test_another_seed_and_another_element_round_independently() -> None:
    count = 100_000
    source = torch.full((count,), 1 + 2**-8)  # half way
    ups = [rounded(source, seed).float() > 1 for seed in (1, 2)]
    for one, other in ((ups[0], ups[1]), (ups[0][1:], ups[0][:-1]), (ups[0][1024:], ups[0][:-1024])):
        assert abs((one == other).float().mean().item() - 0.5) < 4 * 0.5 / count**0.5


def test_what_bf16_has_stays_as_it_is() -> None:
    special = torch.tensor([0.0, -0.0, 1.0, -2.5, float("inf"), float("-inf"), 2.0**-130])
    assert torch.equal(rounded(special).float(), special)
    not_a_number = torch.tensor([0x7FFFFFFF, 0x7F800001], dtype=torch.int32).view(torch.float32)
    assert rounded(not_a_number).isnan().all()


def test_the_bits_are_those_of_the_mixing_function_in_unsigned_integers() -> None:
    """So they are the same wherever integers wrap around."""
    key = key_of("rounding", 7, 0)
    state = np.arange(100_000, dtype=np.uint32)
    for part in (key & 0xFFFFFFFF, key >> 32):
        state = state ^ np.uint32(part)
        state = (state ^ (state >> 16)) * np.uint32(0x7FEB352D)
        state = (state ^ (state >> 15)) * np.uint32(0x846CA68B)
        state = state ^ (state >> 16)
    remainder = 0x3000
    source = torch.full((len(state),), 0x3F800000 + remainder, dtype=torch.int32).view(torch.float32)
    expected = (state & 0xFFFF).astype(np.int64) + remainder > 0xFFFF
    assert np.array_equal(rounded(source, seed=7).float().numpy() > 1, expected)


def test_ranges_that_are_rounded_together_become_what_each_becomes_by_itself() -> None:
    lengths, starts = (70_000, 1, 300, 7, 65_536), (0, 5, 1_000, 0, (1 << 31) - 30_000)
    sources = [drawn(length) for length in lengths]
    together = [torch.empty(length, dtype=torch.bfloat16) for length in lengths]
    ranges = [RoundedRange(*found) for found in zip(together, sources, range(5), starts, strict=True)]
    stochastic_round_all_(ranges)
    for found, source, seed, start in zip(together, sources, range(5), starts, strict=True):
        assert torch.equal(found, rounded(source, seed, start))

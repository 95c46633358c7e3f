"""Fresh weights: element i of a parameter depends on the seed, the name and i alone, however the parameter is cut."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlt_scale.modeling.parameters import ParameterSpec
from xlt_scale.modeling.weights import FirstOf, FreshWeights

ROWS, WIDTH = 1500, 100  # 150,000 elements: more than two blocks
SPECS = {
    "table": ParameterSpec((ROWS, WIDTH), "normal", 0.02, zero_row=700),
    "other": ParameterSpec((ROWS, WIDTH), "normal", 0.02),
    "wide": ParameterSpec((ROWS, WIDTH), "normal", 0.5),
    "norm": ParameterSpec((WIDTH,), "ones"),
    "bias": ParameterSpec((WIDTH,), "zeros"),
}
SOURCE = FreshWeights(SPECS, seed=1)
WHOLE = SOURCE.read("table", 0, ROWS * WIDTH)


@given(cuts=st.lists(st.integers(0, ROWS * WIDTH), max_size=5))
def test_ranges_are_those_of_the_whole_whatever_the_cuts(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), ROWS * WIDTH]
    parts = [SOURCE.read("table", low, high) for low, high in pairwise(edges)]
    assert torch.equal(torch.cat(parts), WHOLE)


def test_padding_rows_are_zero_and_no_others() -> None:
    rows = WHOLE.view(ROWS, WIDTH)
    assert (rows[700] == 0).all()
    assert (rows == 0).all(1).sum() == 1


def test_the_deviation_is_the_configured_one() -> None:
    assert SOURCE.read("other", 0, ROWS * WIDTH).std().item() == pytest.approx(0.02, rel=0.01)
    assert SOURCE.read("wide", 0, ROWS * WIDTH).std().item() == pytest.approx(0.5, rel=0.01)
    assert abs(SOURCE.read("wide", 0, ROWS * WIDTH).mean().item()) < 0.01


def test_constants_are_constant() -> None:
    assert torch.equal(SOURCE.read("norm", 3, 7), torch.ones(4))
    assert torch.equal(SOURCE.read("bias", 3, 7), torch.zeros(4))


def test_the_same_seed_gives_the_same_values_at_any_time() -> None:
    assert torch.equal(FreshWeights(SPECS, seed=1).read("table", 0, 1000), WHOLE[:1000])
    assert torch.equal(SOURCE.read("table", 0, 1000), WHOLE[:1000])


def test_other_seeds_and_other_names_give_unrelated_values() -> None:
    for values in (FreshWeights(SPECS, seed=2).read("table", 0, 50_000), SOURCE.read("other", 0, 50_000)):
        correlation = torch.corrcoef(torch.stack([values, WHOLE[:50_000]]))[0, 1]
        assert abs(correlation) < 0.03


def test_blocks_do_not_repeat() -> None:
    assert not torch.equal(WHOLE[: 1 << 16][:1000], WHOLE[1 << 16 :][:1000])


def test_the_first_source_that_has_a_parameter_gives_it() -> None:
    first = FreshWeights({"table": SPECS["table"]}, seed=5)
    both = FirstOf([first, SOURCE])
    assert torch.equal(both.read("table", 0, 10), first.read("table", 0, 10))
    assert torch.equal(both.read("other", 0, 10), SOURCE.read("other", 0, 10))
    assert both.has("bias")
    assert not both.has("absent")

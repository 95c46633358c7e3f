"""What a plan detects before it runs, and how many seeds would detect more."""

import math

import numpy as np
import pytest

from xlt_scale.scaling.statistics.effects import Effect, Estimate, summarise
from xlt_scale.scaling.statistics.fits import fit_line
from xlt_scale.scaling.statistics.seed_planning import (
    ASSUMED_SEED_SDS,
    detectable,
    minimum_detectable,
    planned_detectable,
    seeds_needed,
    with_seeds,
)

BASE, LARGE, XL, XXL = 0.28e9, 0.56e9, 3.5e9, 10.7e9


def estimate(value: float, error: float, num_clusters: int = 3, seed_share: float = 0.8) -> Estimate:
    of_seeds, of_items = seed_share * error**2, (1 - seed_share) * error**2
    return Estimate(value, of_seeds, of_items, 4.0, num_clusters, 2 * num_clusters, 500.0)


def planned(sizes: list[float], num_intermediate: int, num_target: int = 1) -> dict[float, dict[str, float]]:
    return {row["seed_sd"]: row for row in planned_detectable(sizes, num_intermediate, num_target)}


@pytest.mark.parametrize(
    ("seed_sd", "num_seeds", "three_sizes", "four_sizes"),
    [(0.3, 3, 0.27, 0.20), (0.3, 5, 0.21, 0.15), (0.5, 3, 0.45, 0.33), (0.5, 10, 0.24, 0.18), (1.0, 5, 0.69, 0.50)],
)
def test_standard_errors_of_planned_slopes_are_the_published_ones(
    seed_sd: float, num_seeds: int, three_sizes: float, four_sizes: float
) -> None:
    assert planned([LARGE, XL, XXL], num_seeds)[seed_sd]["standard_error"] == pytest.approx(three_sizes, abs=0.006)
    assert planned([BASE, LARGE, XL, XXL], num_seeds)[seed_sd]["standard_error"] == pytest.approx(four_sizes, abs=0.006)


def test_with_many_seeds_a_plan_detects_what_the_normal_law_says() -> None:
    row = planned([LARGE, XL, XXL], 1000)[0.5]
    assert row["detectable"] == pytest.approx(2.8 * row["standard_error"], rel=0.01)


def test_a_plan_with_few_seeds_detects_less_than_the_normal_law_says() -> None:
    row = planned([LARGE, XL, XXL], 3)[0.5]
    assert row["detectable"] > 3.2 * row["standard_error"]


def test_target_seeds_make_their_own_part_smaller_alone() -> None:
    sizes = [LARGE, XL, XXL]
    one, two, many = (planned(sizes, 3, number)[1.0]["standard_error"] for number in (1, 2, 10_000))
    assert two == pytest.approx(one * math.sqrt(3 / 4))
    assert many == pytest.approx(one * math.sqrt(1 / 2), rel=1e-3)


def test_the_planned_slopes_are_those_of_simulated_runs() -> None:
    rng, found = np.random.default_rng(4), []
    places = {name: math.log10(size / LARGE) for name, size in (("large", LARGE), ("xl", XL), ("xxl", XXL))}
    pairs = tuple((i, j) for i in range(3) for j in range(2))
    for _ in range(300):
        drawn = {}
        for name in places:
            gains = np.repeat(rng.standard_normal(3), 2) + rng.standard_normal(6)
            drawn[name] = summarise([(1.0, Effect(name, pairs, gains, {}))])
        found.append(fit_line(drawn, places, 1e9).slope.value)
    expected = planned([LARGE, XL, XXL], 3, 2)[1.0]["standard_error"]
    assert np.std(found) == pytest.approx(expected, rel=0.15)


def test_one_intermediate_seed_detects_nothing_and_one_size_has_no_slope() -> None:
    assert all(math.isnan(row["detectable"]) for row in planned_detectable([LARGE, XL], 1, 5))
    assert [row["seed_sd"] for row in planned_detectable([LARGE, XL], 2, 1)] == list(ASSUMED_SEED_SDS)
    assert planned_detectable([LARGE, LARGE], 3, 2) == planned_detectable([], 3, 2) == []
    assert planned_detectable([LARGE, XL], 0, 2) == []


def test_without_spread_or_seeds_nothing_can_be_detected() -> None:
    assert math.isnan(detectable(0.0, 5.0)) and math.isnan(detectable(1.0, math.nan))
    assert detectable(1.0, math.inf) == pytest.approx(2.8, abs=0.01)


def test_more_seeds_detect_smaller_slopes_until_items_are_the_limit() -> None:
    slope = estimate(-0.8, 0.9)
    found = [minimum_detectable(with_seeds(slope, number), 0.05) for number in (3, 6, 12, 24)]
    assert found == sorted(found, reverse=True)
    assert minimum_detectable(with_seeds(slope, 3), 0.05) == pytest.approx(minimum_detectable(slope, 0.05))
    assert seeds_needed(slope, 0.1, 0.05) is None


def test_the_number_of_seeds_is_the_fewest_that_suffice() -> None:
    slope = estimate(-0.8, 0.9)
    number = seeds_needed(slope, 1.5, 0.05)
    assert number is not None
    assert minimum_detectable(with_seeds(slope, number), 0.05) <= 1.5
    assert minimum_detectable(with_seeds(slope, number - 1), 0.05) > 1.5

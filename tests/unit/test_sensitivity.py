"""Slopes: planted truths come out, in every variant that the sizes allow, on both scales."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from small_studies import SIZES, log_decades, make_results

from xlt_scale.scaling.analysis.gains import StudyGains
from xlt_scale.scaling.analysis.grouping import ALL, HEADLINE
from xlt_scale.scaling.analysis.sensitivity import (
    Slopes,
    asked_sizes,
    draw_slopes,
    predictions_table,
    variants,
    weights_by_size,
)
from xlt_scale.scaling.analysis.verdicts import trend
from xlt_scale.scaling.results import PREDICTION_COLUMNS, SLOPE_COLUMNS, SizeFacts, StudyResults


def slopes_of(results: StudyResults) -> Slopes:
    return draw_slopes(StudyGains(results), False)


def headroom(size: SizeFacts) -> float:
    """A baseline that comes nearer to 100 with size."""
    return 50.0 + 15.0 * log_decades(size)


@pytest.fixture(scope="module")
def falling() -> StudyResults:
    return make_results(lambda size, arm, target, language: 3.0 - log_decades(size))


@pytest.fixture(scope="module")
def drawn(falling: StudyResults) -> Slopes:
    return slopes_of(falling)


def headline(table: pd.DataFrame, arm: str = ALL) -> pd.DataFrame:
    return table[(table["arm"] == arm) & (table["group_kind"] == "headline")].set_index(["variant", "scale"])


@pytest.mark.parametrize(
    ("gain", "base", "expected"),
    [
        (lambda size, *_: 3.0 - log_decades(size), lambda size: 60.0, "diminishes"),
        (lambda size, *_: 1.0 + log_decades(size), lambda size: 60.0, "grows"),
        (2.0, lambda size: 60.0, "no change"),
        (lambda size, *_: 0.1 * (100.0 - headroom(size)), headroom, "headroom only"),
    ],
)
def test_planted_trends_come_out(
    gain: Callable[..., float] | float, base: Callable[[SizeFacts], float], expected: str
) -> None:
    found = slopes_of(make_results(gain, base=base, seed_noise=0.15)).trends[ALL, HEADLINE]
    assert trend(found, 0.01) == expected


def test_few_seeds_that_differ_much_cannot_tell() -> None:
    results = make_results(lambda size, *_: 3.0 - log_decades(size), pairs=[(0, 0), (1, 0)], seed_noise=6.0)
    assert trend(slopes_of(results).trends[ALL, HEADLINE], 0.05) == "cannot tell"


def test_the_table_has_the_contracts_columns_and_the_planted_slope(drawn: Slopes) -> None:
    assert list(drawn.table.columns) == list(SLOPE_COLUMNS)
    primary = headline(drawn.table).loc[("primary", "points")]
    assert primary["low"] < -1.0 < primary["high"]
    assert primary["intercept"] == pytest.approx(3.0, abs=0.3)
    assert primary["p_falling"] == pytest.approx(primary["p"] / 2)
    assert headline(drawn.table).loc[("primary", "log error"), "p_falling"] < 0.01


def test_every_check_that_leaves_two_sizes_is_there() -> None:
    names = [variant.name for variant in variants(SIZES, has_collapsed=True)]
    assert names == [
        "primary",
        "non-embedding",
        "without small",
        "without middle",
        "without large",
        "post-norm only",
        "without collapsed runs",
    ]
    assert [variant.name for variant in variants(SIZES[:2], False)] == ["primary", "non-embedding"]
    assert variants(SIZES[:1], False) == []


def test_the_other_count_of_parameters_stretches_the_line(drawn: Slopes) -> None:
    rows = headline(drawn.table)
    by_total, without_embeddings = (rows.loc[(name, "points"), "gain"] for name in ("primary", "non-embedding"))
    assert abs(without_embeddings) < abs(by_total)  # the same fall over more decades


def test_the_mean_over_arms_is_the_mean_of_their_slopes(falling: StudyResults) -> None:
    gains = StudyGains(falling)
    weights = weights_by_size(gains, ALL, HEADLINE)
    own = [weights_by_size(gains, arm, HEADLINE) for arm in gains.arms]
    for size in SIZES:
        values = [gains.summary(size.name, one[size.name]) for one in own]
        mean = gains.summary(size.name, weights[size.name])
        assert mean is not None
        assert mean.value == pytest.approx(np.mean([value.value for value in values if value is not None]))


def test_an_arm_that_lacks_a_size_is_not_in_the_mean_over_arms() -> None:
    lacking = lambda runs: runs[~((runs["size"] == "large") & (runs["arm"] == "inference"))]  # noqa: E731
    gains = StudyGains(make_results(2.0, adjust=lacking))
    weights = weights_by_size(gains, ALL, HEADLINE)
    assert {arm for own in weights.values() for arm, _ in own} == {"questions"}


def test_predictions_are_asked_at_sizes_between_at_ten_billion_and_half_a_decade_past() -> None:
    numbers = asked_sizes(SIZES)
    assert {size.num_parameters for size in SIZES} <= set(numbers)
    assert 10_000_000_000 in numbers
    assert max(numbers) == round(10**10.5)
    assert len(numbers) == 3 + 30 + 1


def test_predictions_say_what_is_extrapolated_and_are_wider_than_the_line(falling: StudyResults, drawn: Slopes) -> None:
    table = predictions_table(StudyGains(falling), drawn.lines)
    assert list(table.columns) == list(PREDICTION_COLUMNS)
    assert set(table.loc[table["is_extrapolated"], "num_parameters"]) == {round(10**10.5)}
    assert (table["prediction_high"] - table["prediction_low"] >= table["high"] - table["low"] - 1e-9).all()


def test_one_size_draws_no_line() -> None:
    found = slopes_of(make_results(2.0, sizes=SIZES[:1]))
    assert not len(found.table) and not found.lines
    assert list(found.table.columns) == list(SLOPE_COLUMNS)

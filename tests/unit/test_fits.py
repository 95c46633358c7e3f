"""The line over sizes, and curves for studies with many sizes."""

import numpy as np
import pytest
import statsmodels.api as models

from xlt_scale.scaling.statistics.effects import Effect, SizeSummary, summarise
from xlt_scale.scaling.statistics.exploratory_fits import Curve, one_break_law, power_law_of_error
from xlt_scale.scaling.statistics.fits import LineFit, fit_line, shrunken_variances

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

DECADES = {"base": -0.3, "large": 0.0, "xl": 0.8, "xxl": 1.28}


def summary(size: str, unit_gains: np.ndarray) -> SizeSummary:
    pairs = tuple((seed, 0) for seed in range(len(unit_gains)))
    return summarise([(1.0, Effect(size, pairs, np.asarray(unit_gains, float), {}))])


def draw_line(
    rng: np.random.Generator, slope: float = 0.0, sd: float = 1.0, bend: float = 0.0, num_seeds: int = 3
) -> LineFit:
    summaries = {
        name: summary(name, 2.0 + slope * x + bend * x**2 + sd * rng.standard_normal(num_seeds))
        for name, x in DECADES.items()
    }
    return fit_line(summaries, DECADES)


def test_slope_and_intercept_are_those_of_weighted_least_squares() -> None:
    fit = draw_line(np.random.default_rng(1), slope=-1.0)
    known = models.WLS(fit.gains, models.add_constant(fit.log10_n), weights=1.0 / fit.variances).fit().params
    assert [fit.intercept.value, fit.slope.value] == pytest.approx(known)
    assert fit.residuals == pytest.approx(fit.gains - known[0] - known[1] * fit.log10_n)


def test_a_planted_slope_is_recovered_without_bias() -> None:
    rng = np.random.default_rng(2)
    slopes = [draw_line(rng, slope=-1.5).slope.value for _ in range(400)]
    assert np.mean(slopes) == pytest.approx(-1.5, abs=3.5 * float(np.std(slopes)) / 20)


def test_sizes_whose_seeds_happened_to_agree_do_not_rule_the_line() -> None:
    agreeing, spread = summary("large", np.array([1.0, 1.001, 0.999])), summary("xl", np.array([0.0, 2.0, 1.0]))
    shrunken = shrunken_variances([agreeing, spread])
    plug_in = shrunken_variances([agreeing, spread], prior_degrees=1e-9)
    assert shrunken[1] / shrunken[0] < 1.5
    assert plug_in[1] / plug_in[0] > 1e4


def test_the_slope_covers_the_truth_with_four_sizes_of_three_seeds() -> None:
    rng, number = np.random.default_rng(3), 500
    covered = 0
    for _ in range(number):
        low, high = draw_line(rng).slope.interval()
        covered += low <= 0.0 <= high
    assert 0.92 < covered / number < 0.985


def test_lack_of_fit_is_rarely_found_on_a_line_and_mostly_where_gains_bend() -> None:
    rng = np.random.default_rng(4)
    straight = np.mean([draw_line(rng).lack_of_fit_p < 0.05 for _ in range(400)])
    bent = np.mean([draw_line(rng, sd=0.3, bend=4.0).lack_of_fit_p < 0.05 for _ in range(50)])
    assert straight < 0.085
    assert bent > 0.8


def test_three_sizes_leave_lack_of_fit_open_and_a_prediction_of_little_use() -> None:
    rng = np.random.default_rng(5)
    names = ("large", "xl", "xxl")
    fit = fit_line({name: summary(name, rng.standard_normal(3)) for name in names}, DECADES)
    assert np.isnan(fit.lack_of_fit_p)
    point = fit.at(1.6)
    assert point.is_extrapolated
    assert point.prediction_high - point.prediction_low > 3 * (point.high - point.low)


def test_a_new_size_falls_into_the_prediction_interval() -> None:
    rng, number, inside = np.random.default_rng(6), 300, 0
    for _ in range(number):
        point = draw_line(rng, slope=1.0).at(1.5)
        new = 2.0 + 1.5 + rng.standard_normal(3).mean()
        inside += point.prediction_low <= new <= point.prediction_high
    assert inside / number > 0.92


def test_two_sizes_give_a_slope_and_no_prediction() -> None:
    fit = fit_line({"large": summary("large", np.ones(3)), "xl": summary("xl", np.array([1.0, 2.0, 3.0]))}, DECADES)
    assert fit.slope.value == pytest.approx(1.0 / 0.8)
    assert np.isnan(fit.at(0.5).prediction_low)


def test_one_size_is_no_line() -> None:
    with pytest.raises(ValueError, match="two sizes"):
        fit_line({"large": summary("large", np.ones(3))}, DECADES)


def test_equal_scores_everywhere_give_a_slope_of_zero_and_no_p() -> None:
    fit = fit_line({name: summary(name, np.ones(3)) for name in DECADES}, DECADES)
    assert fit.slope.value == pytest.approx(0.0)
    assert np.isnan(fit.slope.p_value())
    assert np.isnan(fit.lack_of_fit_p)
    assert fit.at(1.0).high == pytest.approx(1.0)


def test_single_run_pairs_give_a_slope_whose_seeds_are_unknown() -> None:
    fit = fit_line({name: summary(name, np.array([x])) for name, x in DECADES.items()}, DECADES)
    assert fit.slope.value == pytest.approx(1.0)
    assert np.isnan(fit.slope.p_value())


def test_a_power_law_of_the_error_is_recovered_from_six_sizes() -> None:
    x = np.linspace(0.0, 2.5, 6)
    curve = power_law_of_error(x, 8.0 + 30.0 * 10 ** (-0.4 * x))
    assert isinstance(curve, Curve)
    assert curve.parameters == pytest.approx({"floor": 8.0, "scale": 30.0, "exponent": 0.4}, rel=0.01)


def test_a_law_with_a_break_is_fitted_to_nine_sizes() -> None:
    x = np.linspace(0.0, 4.0, 9)
    error = 5.0 + 40.0 * 10 ** (-0.1 * x) * (1 + 10 ** ((x - 2.0) / 0.3)) ** (-0.6 * 0.3)
    curve = one_break_law(x, error)
    assert isinstance(curve, Curve)
    assert np.abs(curve.fitted - error).max() < 0.3


def test_few_sizes_get_a_reason_instead_of_a_curve() -> None:
    x = np.linspace(0.0, 1.3, 4)
    assert "5 needed" in str(power_law_of_error(x, 30.0 - x))
    assert "7 needed" in str(one_break_law(x, 30.0 - x))

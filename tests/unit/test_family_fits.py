"""One slope for several architecture families, an intercept for each, and whether the families' slopes differ."""

from collections.abc import Mapping

import numpy as np
import pytest
import statsmodels.api as models
from test_fits import summary

from xlt_scale.scaling.statistics.effects import Effect, SizeSummary, summarise
from xlt_scale.scaling.statistics.family_fits import FamilyFit, Parallelism, fit_families, parallelism
from xlt_scale.scaling.statistics.fits import fit_line

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

PLACES = {
    "XLM-R": (-0.3, 0.0, 0.8, 1.28),
    "Qwen3": (0.03, 0.5, 0.86, 1.16, 1.4, 1.76),
    "Gemma 3": (-0.3, 0.25, 0.85, 1.33, 1.68),
}
DECADES = {f"{family} {number}": x for family, places in PLACES.items() for number, x in enumerate(places)}
FAMILIES = {f"{family} {number}": family for family, places in PLACES.items() for number in range(len(places))}
LEVELS = {"XLM-R": 4.0, "Qwen3": 0.0, "Gemma 3": 2.0}
ALIKE = dict.fromkeys(PLACES, -1.0)


def draw(
    rng: np.random.Generator,
    slopes: Mapping[str, float] = ALIKE,
    levels: Mapping[str, float] = LEVELS,
    sd: float = 1.0,
    spread: Mapping[str, float] | None = None,
    num_seeds: int = 3,
) -> dict[str, SizeSummary]:
    """Gains of every size, of families whose name is in `slopes`.

    Args:
        spread: factors of the seeds' standard deviation by family.
    """
    return {
        size: summary(
            size,
            levels[family] + slopes[family] * x + sd * (spread or {}).get(family, 1.0) * rng.standard_normal(num_seeds),
        )
        for (size, x), family in zip(DECADES.items(), FAMILIES.values(), strict=True)
        if family in slopes
    }


def fitted(found: Mapping[str, SizeSummary]) -> FamilyFit:
    return fit_families(found, DECADES, FAMILIES)


def compared(found: Mapping[str, SizeSummary]) -> Parallelism:
    names = dict.fromkeys(FAMILIES[size] for size in found)
    lines = {
        family: fit_line({size: one for size, one in found.items() if FAMILIES[size] == family}, DECADES)
        for family in names
    }
    test = parallelism(lines)
    assert test is not None
    return test


def test_slope_and_intercepts_are_those_of_an_analysis_of_covariance() -> None:
    fit = fitted(draw(np.random.default_rng(1)))
    names = list(dict.fromkeys(fit.families))
    levels = np.array([[float(family == name) for name in names] for family in fit.families])
    known = models.WLS(fit.gains, np.column_stack([levels, fit.log10_n]), weights=1.0 / fit.variances).fit()
    assert [*(fit.intercept(name).value for name in names), fit.slope.value] == pytest.approx(known.params)
    assert fit.residuals == pytest.approx(known.resid)


def test_one_family_has_the_slope_of_its_plain_line() -> None:
    found = draw(np.random.default_rng(2), {"Qwen3": -1.0})
    line, fit = fit_line(found, DECADES), fitted(found)
    assert fit.slope.value == pytest.approx(line.slope.value)
    assert fit.slope.standard_error == pytest.approx(line.slope.standard_error)
    assert fit.lack_of_fit_p == pytest.approx(line.lack_of_fit_p)
    assert fit.at("Qwen3", 1.0).prediction_low == pytest.approx(line.at(1.0).prediction_low)


def test_levels_of_families_that_rise_with_their_sizes_are_not_taken_for_a_slope() -> None:
    places = {"a0": 0.0, "a1": 0.4, "b0": 1.0, "b1": 1.4, "c0": 2.0, "c1": 2.4}
    families = {name: name[0] for name in places}
    levels = {"a": 1.0, "b": 4.0, "c": 7.0}
    rng = np.random.default_rng(3)
    found = {
        name: summary(name, levels[families[name]] - 1.0 * x + 0.05 * rng.standard_normal(3))
        for name, x in places.items()
    }
    assert fit_line(found, places).slope.value > 1.0
    low, high = fit_families(found, places, families).slope.interval()
    assert low < -1.0 < high < 0.0


def test_a_family_with_one_size_has_a_level_and_no_part_in_the_slope() -> None:
    found = draw(np.random.default_rng(4), {"XLM-R": -1.0, "Qwen3": -1.0})
    alone = {**found, "RemBERT": summary("RemBERT", np.array([50.0, 51.0, 52.0]))}
    fit = fit_families(alone, {**DECADES, "RemBERT": 2.0}, {**FAMILIES, "RemBERT": "RemBERT"})
    assert fit.sloped_families == ("XLM-R", "Qwen3")
    assert fit.num_sizes == 10
    assert fit.slope_weights[fit.sizes.index("RemBERT")] == 0.0
    assert fit.slope.value == pytest.approx(fitted(found).slope.value, abs=0.1)  # weights alone differ
    assert fit.intercept("RemBERT").value == pytest.approx(51.0 - 2.0 * fit.slope.value)


def test_families_of_one_size_each_are_no_line() -> None:
    found = {name: summary(name, np.ones(3)) for name in ("a", "b")}
    with pytest.raises(ValueError, match="two sizes"):
        fit_families(found, {"a": 0.0, "b": 1.0}, {"a": "a", "b": "b"})


def test_shared_slope_family_slopes_and_levels_cover_the_truth() -> None:
    rng, number = np.random.default_rng(5), 200
    covered: dict[str, int] = {"slope": 0, "level": 0, "own": 0, "new size": 0}
    for _ in range(number):
        found = draw(rng)
        fit = fitted(found)
        own = fit_line({size: one for size, one in found.items() if FAMILIES[size] == "Qwen3"}, DECADES)
        point = fit.at("Gemma 3", 1.9)
        new = LEVELS["Gemma 3"] - 1.9 + rng.standard_normal(3).mean()
        for name, (low, high), truth in (
            ("slope", fit.slope.interval(), -1.0),
            ("level", fit.intercept("Gemma 3").interval(), LEVELS["Gemma 3"]),
            ("own", own.slope.interval(), -1.0),
            ("new size", (point.prediction_low, point.prediction_high), new),
        ):
            covered[name] += low <= truth <= high
    assert {name: 0.9 < count / number < 0.995 for name, count in covered.items()} == dict.fromkeys(covered, True)


@pytest.mark.parametrize("spread", [None, {"XLM-R": 4.0}])
@pytest.mark.parametrize("families", [("XLM-R", "Qwen3"), tuple(PLACES)])
def test_equal_slopes_are_rarely_said_to_differ(families: tuple[str, ...], spread: dict[str, float] | None) -> None:
    rng, number = np.random.default_rng(6), 200
    slopes = dict.fromkeys(families, -1.0)
    found = [compared(draw(rng, slopes, spread=spread)).p < 0.05 for _ in range(number)]
    assert np.mean(found) < 0.1


def test_different_slopes_are_mostly_found_and_the_pair_that_differs_is_named() -> None:
    rng, number = np.random.default_rng(7), 30
    tests = [compared(draw(rng, {**ALIKE, "Qwen3": 2.0}, sd=0.5)) for _ in range(number)]
    assert np.mean([test.p < 0.05 for test in tests]) > 0.9
    differences = np.array([[one.value for one in test.differences.values()] for test in tests]).mean(axis=0)
    assert list(tests[0].differences) == [("XLM-R", "Qwen3"), ("XLM-R", "Gemma 3"), ("Qwen3", "Gemma 3")]
    assert differences == pytest.approx([-3.0, 0.0, 3.0], abs=0.4)


def test_of_two_families_the_test_is_the_t_test_of_the_difference() -> None:
    test = compared(draw(np.random.default_rng(8), {"XLM-R": -1.0, "Gemma 3": 0.0}))
    (difference,) = test.differences.values()
    assert test.p == difference.p_value()
    assert test.statistic == pytest.approx((difference.value / difference.standard_error) ** 2)


def test_items_that_all_sizes_share_are_no_evidence_of_different_slopes() -> None:
    rng = np.random.default_rng(9)
    items = 20.0 * rng.standard_normal(200)
    found = {}
    for size in DECADES:
        gains = -1.0 * DECADES[size] + 0.3 * rng.standard_normal(3)
        values = {"xnli": (gains[:, None] + items + rng.standard_normal((3, 200))).astype(np.float32)}
        pairs = tuple((seed, 0) for seed in range(3))
        found[size] = summarise([(1.0, Effect(size, pairs, values["xnli"].mean(axis=1), values))])
    fit = fitted(found)
    assert fit.slope.standard_error < 0.25 * fit.intercept("Qwen3").standard_error
    assert compared(found).p > 0.01


def test_single_run_pairs_leave_the_test_open() -> None:
    found = {size: summary(size, np.array([x])) for size, x in DECADES.items()}
    assert np.isnan(compared(found).p)
    assert np.isnan(fitted(found).slope.p_value())

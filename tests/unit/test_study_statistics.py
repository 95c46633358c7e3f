"""Whole simulated studies of known truth, from records to slopes: a seeded part of benchmarks/study_statistics.py."""

from collections.abc import Sequence

import numpy as np
import pytest

from xlt_scale.scaling.statistics.coverage import COVERAGE, nearest_design
from xlt_scale.scaling.statistics.differences import TaskDifferences, cell_estimates, study_differences
from xlt_scale.scaling.statistics.effects import Effect, combine, summarise
from xlt_scale.scaling.statistics.fits import LineFit, fit_line
from xlt_scale.scaling.statistics.simulation import (
    XLM_R_SIZES,
    TaskTruth,
    Truth,
    f1_item_values,
    headroom_gains,
    simulate_counts,
    simulate_studies,
    simulate_study,
    straight_gains,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

NUM_STUDIES = 250
LANGUAGES = ("en", "de", "sw")
EVEN = dict.fromkeys(LANGUAGES, 1 / 3)
LEVEL, RISING = (70.0,) * 4, (62.0, 70.0, 76.0, 80.0)


def truth(base: Sequence[float], gains: Sequence[float]) -> Truth:
    task = TaskTruth(languages=LANGUAGES, num_items=250, base=tuple(base), gains=tuple(gains))
    return Truth(sizes=XLM_R_SIZES, tasks=(task,), intermediate_sd=0.8, item_share=0.03)


def by_size(drawn: Truth, number: int, seed: int = 1) -> list[dict[str, TaskDifferences]]:
    return [{one.size: one for one in study_differences(study)} for study in simulate_studies(drawn, seed, number)]


def lines(study: dict[str, TaskDifferences], drawn: Truth) -> tuple[LineFit, LineFit]:
    """In points and of log errors."""
    points = {size: summarise([(1.0, one.effect(EVEN))]) for size, one in study.items()}
    logs = {size: summarise([(1.0, one.effect(EVEN, "log error"))]) for size, one in study.items()}
    return fit_line(points, drawn.decades), fit_line(logs, drawn.decades)


def diminishes(study: dict[str, TaskDifferences], drawn: Truth) -> tuple[bool, bool]:
    """In points; in points and of log errors."""
    points, logs = lines(study, drawn)
    in_points = points.slope.p_value("less") < 0.05
    return in_points, in_points and logs.slope.p_value("greater") < 0.05


def sampling_error(rate: float, number: int) -> float:
    """Three standard errors of a rate."""
    return 3.0 * float(np.sqrt(rate * (1.0 - rate) / number))


def test_with_three_by_two_seeds_intervals_cover_and_tests_keep_their_level() -> None:
    drawn = truth(LEVEL, (1.0,) * 4)
    covered: dict[str, list[float]] = {"cell": [], "mean": [], "slope": [], "false": []}
    for study in by_size(drawn, NUM_STUDIES):
        low, high = cell_estimates(study["large"]).estimate("de").interval()
        covered["cell"].append(low <= 1.0 <= high)
        low, high = combine([(1.0, study["large"].effect(EVEN))]).interval()
        covered["mean"].append(low <= 1.0 <= high)
        low, high = lines(study, drawn)[0].slope.interval()
        covered["slope"].append(low <= 0.0 <= high)
        covered["false"].append(diminishes(study, drawn)[1])
    tolerance = 0.02 + sampling_error(0.95, NUM_STUDIES)
    for quantity in ("cell", "mean", "slope"):
        assert np.mean(covered[quantity]) == pytest.approx(0.95, abs=tolerance), quantity
    assert np.mean(covered["false"]) <= 0.05 + sampling_error(0.05, NUM_STUDIES)


def test_a_planted_slope_is_found_and_not_biased() -> None:
    drawn = truth(LEVEL, straight_gains(XLM_R_SIZES, 2.0, -2.0))
    studies = by_size(drawn, 60)
    slopes = [lines(study, drawn)[0].slope.value for study in studies]
    assert np.mean(slopes) == pytest.approx(-2.0, abs=3.5 * np.std(slopes) / np.sqrt(len(slopes)))
    assert np.mean([diminishes(study, drawn)[1] for study in studies]) > 0.7


def test_gains_that_fall_by_headroom_alone_are_not_called_diminishing() -> None:
    drawn = truth(RISING, headroom_gains(RISING, 0.12))
    found = np.array([diminishes(study, drawn) for study in by_size(drawn, 100)])
    assert found[:, 0].mean() > 0.4  # in points they do fall
    assert found[:, 1].mean() <= 0.05 + sampling_error(0.05, 100)


def item_widths(correlation: float) -> tuple[float, float]:
    """Mean items' standard error of a mean over languages: items drawn jointly, and language by language."""
    task = TaskTruth(languages=("en", "de", "ru", "sw", "th", "zh"), num_items=400)
    drawn = Truth(tasks=(task,), item_share=0.2, language_correlation=correlation)
    joint, naive = [], []
    for study in by_size(drawn, 25):
        one = study["large"]
        joint.append(combine([(1.0, one.effect(dict.fromkeys(one.languages, 1 / 6)))]).item_variance)
        naive.append(cell_estimates(one).item_variance.sum() / 36)
    return float(np.sqrt(np.mean(joint))), float(np.sqrt(np.mean(naive)))


def test_where_items_are_alike_over_languages_joint_resampling_is_wider() -> None:
    joint, naive = item_widths(0.7)
    assert joint > 1.4 * naive


def test_where_items_are_independent_joint_resampling_is_as_wide() -> None:
    joint, naive = item_widths(0.0)
    assert joint == pytest.approx(naive, rel=0.07)


def test_linear_item_values_of_f1_vary_as_recounted_f1_does() -> None:
    rng = np.random.default_rng(3)
    counts = simulate_counts(rng.beta(6, 2, 400), rng)
    values = f1_item_values(counts)
    drawn = counts[rng.integers(0, 400, (4000, 400))].sum(axis=1)
    recounted = 200.0 * drawn[:, 0] / (drawn[:, 1] + drawn[:, 2])
    assert values.mean() == pytest.approx(200.0 * counts[:, 0].sum() / counts[:, 1:].sum(), abs=1e-3)
    assert values.std(ddof=1) / np.sqrt(400) == pytest.approx(recounted.std(), rel=0.05)


def test_a_brute_force_study_has_the_spread_that_is_claimed() -> None:
    drawn = truth(LEVEL, (1.0,) * 4)
    estimates = [combine([(1.0, study["xl"].effect(EVEN))]) for study in by_size(drawn, 200, seed=5)]
    claimed = np.sqrt(np.mean([one.standard_error**2 for one in estimates]))
    assert claimed == pytest.approx(np.std([one.value for one in estimates]), rel=0.15)


@pytest.mark.parametrize("kind", ["binary", "soft"])
def test_simulated_scores_have_the_planted_means(kind: str) -> None:
    task = TaskTruth(languages=LANGUAGES, num_items=400, kind=kind, gains=(3.0, 2.0, 1.0))
    studies = list(simulate_studies(Truth(tasks=(task,), seeds=(5, 2)), 1, 30))
    for size, gain in zip(Truth().sizes, task.gain("nli"), strict=True):
        rows = [study.runs[study.runs["size"] == size].groupby("arm")["score"].mean() for study in studies]
        base, arm = (float(np.mean([row[name] for row in rows])) for name in ("baseline", "nli"))
        assert base == pytest.approx(70.0, abs=0.7)
        assert arm - base == pytest.approx(gain, abs=0.5)


def test_a_tagging_study_goes_from_counts_to_a_slope() -> None:
    task = TaskTruth(languages=LANGUAGES, num_items=150, kind="tagging", is_parallel=False, gains=(3.0, 2.0, 1.0))
    drawn = Truth(tasks=(task,))
    fit = lines(by_size(drawn, 1)[0], drawn)[0]
    assert np.isfinite(fit.slope.interval()).all()


def test_collapsed_runs_are_where_chance_puts_them() -> None:
    results = simulate_study(Truth(collapse_rate=0.3), np.random.default_rng(1))
    scores = results.runs.groupby("record")["score"].mean()
    share = (np.abs(scores - 33.3) < 6).mean()
    assert 0.1 < share < 0.5
    assert (results.runs.loc[results.runs["record"].isin(scores.index[scores < 45]), "last_loss"] > 1.0).any()


def test_a_study_drawn_again_is_the_same() -> None:
    first, again = (simulate_study(Truth(), np.random.default_rng(9)) for _ in range(2))
    assert first.runs.equals(again.runs)


def test_the_campaign_found_95_percent_from_three_by_two_seeds_up() -> None:
    for (intermediate, target), row in COVERAGE.items():
        if intermediate >= 3 and target >= 2:
            assert all(0.93 <= share <= 0.97 for share in row.values()), (intermediate, target, row)


def test_a_design_that_was_not_simulated_is_judged_by_the_nearest_with_fewer_seeds() -> None:
    assert nearest_design(4, 5) == (3, 3)
    assert nearest_design(3, 2) == (3, 2)
    assert nearest_design(1, 5) == (1, 3)


def test_a_study_of_one_effect_has_its_runs_gains() -> None:
    one = by_size(truth(LEVEL, (1.0,) * 4), 1)[0]["base"]
    effect: Effect = one.effect(EVEN)
    assert combine([(1.0, effect)]).value == pytest.approx(float(np.mean(one.with_arm - one.base)))

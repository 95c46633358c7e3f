"""Joint bootstrap, sign flips, families of languages, and summaries over tasks."""

import numpy as np
import pytest

from xlt_scale.scaling.statistics.aggregates import interquartile_mean
from xlt_scale.scaling.statistics.effects import Effect, SizeSummary, combine_sizes, summarise
from xlt_scale.scaling.statistics.resampling import bootstrap, resample_families, sign_flip_p

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def draw_summary(
    rng: np.random.Generator,
    num_seeds: int = 3,
    seed_sd: float = 1.0,
    item_sd: float = 5.0,
    size: str = "large",
    shared: np.ndarray | None = None,
    gain: float = 0.0,
) -> SizeSummary:
    """A gain with seeds' and items' deviations; `shared` items' deviations instead of own ones."""
    items = item_sd * rng.standard_normal(120) if shared is None else shared
    values = gain + seed_sd * rng.standard_normal((num_seeds, 1)) + items + rng.standard_normal((num_seeds, 120))
    pairs = tuple((seed, 0) for seed in range(num_seeds))
    return summarise([(1.0, Effect(size, pairs, values.mean(axis=1), {"task": values.astype(np.float32)}))])


def test_draws_spread_as_the_standard_error_says() -> None:
    rng = np.random.default_rng(1)
    summary = draw_summary(rng)
    draws = bootstrap([[(1.0, summary)]], 8000)
    assert draws.draws.std() == pytest.approx(combine_sizes([(1.0, summary)]).standard_error, rel=0.03)
    assert draws.draws.mean() == pytest.approx(summary.value, abs=0.05)


def test_draws_of_a_slope_let_items_that_sizes_share_cancel() -> None:
    rng = np.random.default_rng(2)
    shared = 20.0 * rng.standard_normal(120)
    small, big = (draw_summary(rng, size=size, shared=shared) for size in ("large", "xl"))
    slope = [(-1.0, small), (1.0, big)]
    draws = bootstrap([slope, [(0.5, small), (0.5, big)]], 4000)
    assert draws.draws[:, 0].std() == pytest.approx(combine_sizes(slope).standard_error, rel=0.05)
    assert draws.draws[:, 0].std() < draws.draws[:, 1].std()


def test_contrasts_of_one_bootstrap_share_their_draws() -> None:
    rng = np.random.default_rng(3)
    one, other = draw_summary(rng, size="large"), draw_summary(rng, size="xl")
    draws = bootstrap([[(1.0, one)], [(1.0, other)], [(1.0, one), (1.0, other)]], 500).draws
    assert draws[:, 2] == pytest.approx(draws[:, 0] + draws[:, 1], abs=0.02)  # noise is shrunken away apart


def test_the_same_seed_gives_the_same_draws() -> None:
    contrast = [(1.0, draw_summary(np.random.default_rng(4)))]
    assert np.array_equal(bootstrap([contrast], 100, 7).draws, bootstrap([contrast], 100, 7).draws)


def test_with_many_seeds_bootstrap_intervals_agree_with_the_t_interval() -> None:
    summary = draw_summary(np.random.default_rng(5), num_seeds=40)
    draws = bootstrap([[(1.0, summary)]], 8000)
    estimate = combine_sizes([(1.0, summary)])
    for interval in (draws.percentile()[0], draws.studentised()[0]):
        assert interval == pytest.approx(estimate.interval(), abs=0.25 * estimate.standard_error)


def test_with_two_seeds_and_no_items_the_studentised_interval_is_without_end() -> None:
    effect = Effect("large", ((0, 0), (1, 0)), np.array([1.0, 2.0]), {})
    assert np.isinf(bootstrap([[(1.0, summarise([(1.0, effect)]))]], 500).studentised()).all()


def test_equal_gains_give_draws_without_spread() -> None:
    effect = Effect("large", ((0, 0), (1, 0)), np.array([2.0, 2.0]), {"task": np.full((2, 9), 2.0, np.float32)})
    summary = summarise([(1.0, effect)])
    draws = bootstrap([[(1.0, summary)]], 50)
    assert (draws.draws == 2.0).all()
    assert draws.share_above_zero() == pytest.approx(1.0)
    assert sign_flip_p([summary])[0] == pytest.approx(0.5)  # all signs of two seeds


def test_gains_of_zero_without_any_spread_have_no_p() -> None:
    effect = Effect("large", ((0, 0), (1, 0)), np.zeros(2), {"task": np.zeros((2, 9), np.float32)})
    assert np.isnan(sign_flip_p([summarise([(1.0, effect)])])[0])


@pytest.mark.parametrize("item_sd", [0.0, 3.0, 15.0])
def test_sign_flips_reject_no_more_often_than_they_should(item_sd: float) -> None:
    rng = np.random.default_rng(6)
    summaries = [draw_summary(rng, num_seeds=5, item_sd=item_sd, size=str(study)) for study in range(400)]
    p = np.array([sign_flip_p([summary], 200, seed)[0] for seed, summary in enumerate(summaries)])
    assert np.mean(p <= 0.05) < 0.085
    assert np.mean(p <= 0.2) == pytest.approx(0.2, abs=0.065)
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.08)


def test_seeds_alone_cannot_reach_a_smaller_p_than_their_signs_allow() -> None:
    effect = Effect("large", tuple((seed, 0) for seed in range(3)), np.array([5.0, 5.1, 4.9]), {})
    assert sign_flip_p([summarise([(1.0, effect)])])[0] == pytest.approx(0.25)


def test_sign_flips_find_a_gain_that_items_and_seeds_agree_on() -> None:
    assert sign_flip_p([draw_summary(np.random.default_rng(8), 5, 0.3, 5.0, gain=6.0)], 2000)[0] < 0.08
    assert sign_flip_p([draw_summary(np.random.default_rng(8), 8, 0.3, 5.0, gain=6.0)], 2000)[0] < 0.02


def test_a_single_run_pair_is_flipped_item_by_item() -> None:
    values = (1.0 + np.random.default_rng(9).standard_normal((1, 200))).astype(np.float32)
    effect = Effect("large", ((0, 0),), values.mean(axis=1), {"task": values})
    assert sign_flip_p([summarise([(1.0, effect)])])[0] < 0.01


def test_families_widen_a_claim_about_languages() -> None:
    rng = np.random.default_rng(10)
    families = ["indo-european"] * 4 + ["bantu"] * 2 + ["turkic", "thai"]
    values = np.array([{"indo-european": 3.0, "bantu": -1.0, "turkic": 1.0, "thai": 0.0}[one] for one in families])
    draws = values + 0.1 * rng.standard_normal((2000, 8))
    weights = np.full(8, 1 / 8)
    wide = resample_families(draws, values, families, weights)
    assert wide.mean() == pytest.approx(values.mean(), abs=0.1)
    assert wide.std() > 5 * (draws @ weights).std()


def test_one_family_cannot_be_resampled() -> None:
    draws = np.random.default_rng(11).standard_normal((100, 2))
    weights = np.array([0.5, 0.5])
    assert resample_families(draws, np.zeros(2), ["a", "a"], weights) == pytest.approx(draws @ weights)


def test_the_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    values = np.array([[-100.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 100.0]])
    assert interquartile_mean(values) == pytest.approx(3.5)


def test_one_odd_task_moves_the_interquartile_mean_little() -> None:
    gains = 1.0 + 0.1 * np.random.default_rng(12).standard_normal((5, 9))
    odd = gains - np.array([0.0] * 8 + [45.0])
    assert interquartile_mean(odd) == pytest.approx(interquartile_mean(gains), abs=0.1)

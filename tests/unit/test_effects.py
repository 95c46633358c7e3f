"""Estimates of contrasts: variance from seeds and items, shared runs, missing runs, degrees of freedom."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as formulas

from xlt_scale.scaling.statistics.effects import (
    Effect,
    Estimate,
    Pair,
    combine,
    combine_sizes,
    quantile,
    summarise,
    total_degrees_of_freedom,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def crossed(num_intermediate: int, num_target: int) -> tuple[Pair, ...]:
    return tuple((one, other) for one in range(num_intermediate) for other in range(num_target))


def effect(values: np.ndarray, pairs: tuple[Pair, ...], population: str = "task", size: str = "large") -> Effect:
    """From item values [pairs, items]."""
    return Effect(size, pairs, values.mean(axis=1, dtype=np.float64), {population: values.astype(np.float32)})


def draw_values(
    rng: np.random.Generator,
    pairs: tuple[Pair, ...],
    num_items: int = 50,
    sds: tuple[float, float, float, float, float] = (1.0, 0.8, 4.0, 3.0, 6.0),
) -> np.ndarray:
    """Item values with mean 0; deviations of intermediate seeds, target seeds, items, seeds on items, runs on items."""
    clusters = [one for one, _ in pairs]
    num_clusters = max(clusters) + 1
    intermediate, target, item, interaction, noise = sds
    return (
        (intermediate * rng.standard_normal(num_clusters))[clusters][:, None]
        + target * rng.standard_normal(len(pairs))[:, None]
        + item * rng.standard_normal(num_items)
        + (interaction * rng.standard_normal((num_clusters, num_items)))[clusters]
        + noise * rng.standard_normal((len(pairs), num_items))
    )


@pytest.mark.parametrize("pairs", [crossed(3, 2), crossed(5, 1), ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1))])
def test_the_variance_is_that_of_repeated_studies_whether_or_not_clusters_are_equal(pairs: tuple[Pair, ...]) -> None:
    rng = np.random.default_rng(1)
    estimates = [combine([(1.0, effect(draw_values(rng, pairs), pairs))]) for _ in range(1500)]
    claimed = np.mean([estimate.seed_variance + estimate.item_variance for estimate in estimates])
    assert claimed == pytest.approx(np.var([estimate.value for estimate in estimates]), rel=0.1)


def test_balanced_components_are_those_of_a_mixed_model() -> None:
    num_units, num_items = 6, 40
    pairs = crossed(num_units, 1)
    values = draw_values(np.random.default_rng(3), pairs, num_items, (2.0, 0.0, 3.0, 0.0, 4.0))
    units, items = (part.ravel() for part in np.indices(values.shape))
    table = pd.DataFrame({"value": values.ravel(), "unit": units, "item": items, "all": 1})
    parts = {"unit": "0 + C(unit)", "item": "0 + C(item)"}
    model = formulas.mixedlm("value ~ 1", table, groups="all", re_formula="0", vc_formula=parts).fit(reml=True)
    of_items, of_units = model.vcomp  # in alphabetical order
    estimate = combine([(1.0, effect(values, pairs))])
    assert estimate.item_variance == pytest.approx(of_items / num_items, rel=0.02)
    assert estimate.seed_variance == pytest.approx(of_units / num_units + model.scale / values.size, rel=0.02)


def test_noise_of_single_runs_on_items_is_counted_once() -> None:
    rng, pairs = np.random.default_rng(5), crossed(4, 2)
    only_noise = (0.0, 0.0, 0.0, 0.0, 10.0)
    parts = [combine([(1.0, effect(draw_values(rng, pairs, 100, only_noise), pairs))]) for _ in range(300)]
    true_variance = 100.0 / (len(pairs) * 100)
    assert np.mean([one.seed_variance for one in parts]) == pytest.approx(true_variance, rel=0.15)
    assert np.mean([one.item_variance for one in parts]) < 0.25 * true_variance  # cut at 0, so not quite 0


def test_the_value_of_a_group_is_the_weighted_sum_of_its_parts_whatever_runs_are_missing() -> None:
    rng = np.random.default_rng(7)
    first = effect(draw_values(rng, crossed(3, 2)), crossed(3, 2), "first")
    second = effect(draw_values(rng, ((0, 0), (2, 1))), ((0, 0), (2, 1)), "second")
    group = combine([(0.5, first), (0.5, second)])
    assert group.value == pytest.approx((combine([(1.0, first)]).value + combine([(1.0, second)]).value) / 2)
    assert group.num_clusters == 2
    assert np.isfinite(group.seed_variance)


def test_every_intermediate_seed_counts_alike() -> None:
    pairs = ((0, 0), (0, 1), (0, 2), (1, 0))
    gains = np.array([1.0, 1.0, 1.0, 5.0])
    assert combine([(1.0, Effect("large", pairs, gains, {}))]).value == pytest.approx(3.0)


def test_the_noise_of_a_baseline_that_two_arms_share_leaves_their_difference() -> None:
    rng, pairs = np.random.default_rng(11), crossed(3, 2)
    base = 5.0 * rng.standard_normal(len(pairs))
    first, second = (Effect("large", pairs, rng.standard_normal(len(pairs)) - base, {}) for _ in range(2))
    difference = combine([(1.0, first), (-1.0, second)])
    apart = combine([(1.0, first)]).seed_variance + combine([(1.0, second)]).seed_variance
    assert difference.seed_variance < 0.3 * apart


def test_items_that_sizes_share_cancel_in_their_difference_and_their_seeds_do_not() -> None:
    rng, pairs = np.random.default_rng(13), crossed(3, 1)
    shared = 20.0 * rng.standard_normal(80)
    small, big = (
        effect(shared + rng.standard_normal((3, 1)) + rng.standard_normal((3, 80)), pairs, size=size)
        for size in ("large", "xl")
    )
    mean, slope = combine([(0.5, small), (0.5, big)]), combine([(1.0, big), (-1.0, small)])
    assert slope.item_variance < 0.05 * mean.item_variance
    assert slope.seed_variance == pytest.approx(4 * mean.seed_variance)


def test_contrasts_of_summaries_are_those_of_effects() -> None:
    rng, pairs = np.random.default_rng(17), crossed(3, 2)
    effects = [effect(draw_values(rng, pairs), pairs, size=size) for size in ("large", "xl", "xxl")]
    weights = (-1.0, 0.2, 0.8)
    direct = combine(list(zip(weights, effects, strict=True)))
    summaries = [summarise([(1.0, one)]) for one in effects]
    again = combine_sizes(list(zip(weights, summaries, strict=True)))
    assert again.value == pytest.approx(direct.value)
    assert again.standard_error == pytest.approx(direct.standard_error)
    assert again.degrees_of_freedom == pytest.approx(direct.degrees_of_freedom)


def test_with_one_intermediate_seed_target_seeds_are_judged_and_it_says_so() -> None:
    pairs = crossed(1, 3)
    estimate = combine([(1.0, Effect("large", pairs, np.array([1.0, 2.0, 3.0]), {}))])
    assert estimate.num_clusters == 1
    assert estimate.seed_variance == pytest.approx(1.0 / 3)
    assert estimate.seed_degrees_of_freedom == pytest.approx(2.0)


def test_a_single_run_pair_is_judged_by_its_items_alone() -> None:
    values = np.random.default_rng(19).standard_normal((1, 200))
    estimate = combine([(1.0, effect(values, ((0, 0),)))])
    assert np.isnan(estimate.seed_variance)
    assert estimate.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(200), rel=1e-4)
    assert np.isnan(estimate.p_value())
    assert np.isfinite(estimate.interval()).all()


def test_a_target_that_is_not_trained_goes_with_trained_ones() -> None:
    rng = np.random.default_rng(23)
    gains = np.repeat(rng.standard_normal(3), 2)
    trained = Effect("large", crossed(3, 2), gains, {})
    retrieval = Effect("large", ((0, -1), (1, -1), (2, -1)), gains[::2], {})
    group = combine([(0.5, trained), (0.5, retrieval)])
    assert group.num_clusters == 3
    assert group.seed_variance == pytest.approx(combine([(1.0, trained)]).seed_variance)  # the same seeds, not more


def test_a_target_that_is_not_trained_has_no_spread_given_its_one_checkpoint() -> None:
    retrieval = Effect("large", ((0, -1),), np.array([2.0]), {})
    trained = Effect("large", crossed(1, 2), np.array([1.0, 3.0]), {})
    assert np.isnan(combine([(1.0, retrieval)]).seed_variance)
    assert combine([(0.5, retrieval), (0.5, trained)]).seed_variance == pytest.approx(0.25)


def test_no_spread_at_all_gives_no_p_and_an_interval_of_one_point() -> None:
    estimate = combine([(1.0, effect(np.full((4, 10), 2.0), crossed(2, 2)))])
    assert estimate.standard_error == 0.0
    assert estimate.interval() == (2.0, 2.0)
    assert np.isnan(estimate.p_value())


def test_test_sets_of_different_lengths_are_refused() -> None:
    small, big = (
        effect(np.zeros((2, number)), crossed(2, 1), size=size) for number, size in ((10, "large"), (11, "xl"))
    )
    with pytest.raises(ValueError, match="items"):
        combine([(1.0, small), (1.0, big)])


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 1.0, 10.0])
def test_three_seeds_cover_about_95_percent_whatever_share_is_the_items(ratio: float) -> None:
    rng, number = np.random.default_rng(29), 100_000
    seeds = rng.chisquare(2, number) / 2
    items = np.full(number, ratio)
    degrees = total_degrees_of_freedom(seeds, items, np.full(number, 2.0), np.full(number, np.inf))
    reach = quantile(0.975, degrees) * np.sqrt(seeds + items)
    assert 0.94 < np.mean(np.abs(rng.standard_normal(number)) * np.sqrt(1 + ratio) < reach) < 0.97


def test_few_items_widen_the_interval() -> None:
    few, many = (Estimate(0.0, 0.0, 1.0, 2.0, 3, 6, degrees) for degrees in (5.0, np.inf))
    assert few.interval()[1] > 1.2 * many.interval()[1]


def test_one_sided_p_values_add_up_to_one() -> None:
    estimate = Estimate(1.3, 0.5, 0.2, 2.0, 3, 6)
    less, greater = estimate.p_value("less"), estimate.p_value("greater")
    assert less + greater == pytest.approx(1.0)
    assert estimate.p_value() == pytest.approx(2 * min(less, greater))

"""What a plan of sizes and seeds can detect, from variance components that a study has shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from xlt_scale.scaling.statistics.effects import Effect, Estimate

MAX_SEEDS = 1000


@dataclass(frozen=True)
class VarianceComponents:
    """Of gains of single run pairs at one size, in squared points.

    Attributes:
        intermediate: between intermediate seeds.
        target: between target seeds of one intermediate seed, with the run's noise on the items.
        items: of the estimate, not of a pair: what more seeds do not make smaller.
    """

    intermediate: float
    target: float
    items: float = 0.0

    def variance(self, num_intermediate: int, num_target: int) -> float:
        """Seeds' part of the variance of a mean gain."""
        return (self.intermediate + self.target / num_target) / num_intermediate


def variance_components(effect: Effect, item_variance: float = 0.0) -> VarianceComponents | None:
    """Nested analysis of variance, target seeds within intermediate seeds, unequal numbers allowed; None without a
    second run of any intermediate seed (Searle, Casella and McCulloch 1992, section 3.6).

    With one intermediate seed nothing is known of others: that component is nan.
    """
    clusters = np.array([intermediate for intermediate, _ in effect.pairs])
    names, counts = np.unique(clusters, return_counts=True)
    num_pairs, num_clusters = len(clusters), len(names)
    if num_pairs <= num_clusters:
        return None
    means = np.array([effect.gains[clusters == name].mean() for name in names])
    within = float(np.sum((effect.gains - means[np.searchsorted(names, clusters)]) ** 2))
    target = within / (num_pairs - num_clusters)
    if num_clusters < 2:
        return VarianceComponents(np.nan, target, item_variance)
    between = float(counts @ (means - effect.gains.mean()) ** 2) / (num_clusters - 1)
    runs_per_cluster = (num_pairs - float(np.sum(counts**2)) / num_pairs) / (num_clusters - 1)
    return VarianceComponents(max(0.0, (between - target) / runs_per_cluster), target, item_variance)


def pooled_components(components: Sequence[VarianceComponents]) -> VarianceComponents:
    """Their means: single sizes have too few seeds to plan with."""
    return VarianceComponents(
        float(np.mean([one.intermediate for one in components])),
        float(np.mean([one.target for one in components])),
        float(np.mean([one.items for one in components])),
    )


def minimum_detectable_slope(estimate: Estimate, power: float = 0.8, level: float = 0.05) -> float:
    """Smallest true value that a two-sided test finds with that power: (t_{1 - level/2} + t_{power}) SE, in its unit.

    nan without any spread, or with a single run pair.
    """
    degrees = estimate.degrees_of_freedom
    if np.isnan(degrees) or not estimate.standard_error > 0.0:
        return float("nan")
    return _reach(degrees, power, level) * estimate.standard_error


def _reach(degrees: float, power: float, level: float) -> float:
    bounded = min(degrees, 1e9)
    return float(stats.t.ppf(1 - level / 2, bounded) + stats.t.ppf(power, bounded))


def planned_slope_error(
    log10_n: Sequence[float],
    components: Sequence[VarianceComponents],
    num_intermediate: int,
    num_target: int,
    item_variance: float = 0.0,
) -> tuple[float, float]:
    """Standard error of the slope, all sizes weighted alike, and its degrees of freedom.

    Args:
        item_variance: of the slope, as estimated (`Estimate.item_variance`): sizes share items, so most of it cancels.
    """
    x = np.asarray(log10_n, float)
    weights = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
    variances = weights**2 * np.array([one.variance(num_intermediate, num_target) for one in components])
    seeds, degrees = float(variances.sum()), num_intermediate - 1
    if seeds <= 0.0 or degrees < 1:
        return float(np.sqrt(seeds + item_variance)), np.inf if seeds <= 0.0 else np.nan
    total = seeds + item_variance
    return float(np.sqrt(total)), float(total**2 / (np.sum(variances**2) / degrees))


def planned_power(slope: float, standard_error: float, degrees: float, level: float = 0.05) -> float:
    """Chance that a two-sided test finds a slope (noncentral t; Johnson, Kotz and Balakrishnan 1995, chapter 31)."""
    if np.isnan(degrees) or not standard_error > 0.0:
        return float("nan")
    bounded = min(degrees, 1e6)
    critical = stats.t.ppf(1 - level / 2, bounded)
    shift = abs(slope) / standard_error
    above, below = stats.nct.sf(critical, bounded, shift), stats.nct.cdf(-critical, bounded, shift)
    # Far out scipy's series gives nan: the far tail is then 0, the near one the normal law's.
    above = stats.norm.sf(critical - shift) if np.isnan(above) else above
    return float(above + np.nan_to_num(below))


def seeds_needed(
    slope: float,
    log10_n: Sequence[float],
    components: Sequence[VarianceComponents],
    num_target: int = 2,
    item_variance: float = 0.0,
    power: float = 0.8,
    level: float = 0.05,
) -> int | None:
    """Intermediate seeds per size that find a slope with that power; None where no number of seeds does.

    Args:
        slope: points per tenfold parameters.
        components: of each size, in the order of `log10_n`.
    """

    def finds(count: int) -> bool:
        return (
            planned_power(slope, *planned_slope_error(log10_n, components, count, num_target, item_variance)) >= power
        )

    if not finds(MAX_SEEDS):
        return None
    low, high = 1, MAX_SEEDS  # finds(high), not finds(low): power grows with seeds
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle, high)
    return high


def detectable_slopes(
    sizes: Mapping[str, float], components: VarianceComponents, designs: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], float]:
    """By (intermediate seeds, target seeds) the smallest slope that 80 % of studies find; nan where seeds leave no
    degree of freedom.

    Args:
        sizes: log10(N / N_reference) by size.
    """
    found = {}
    for design in designs:
        error, degrees = planned_slope_error(list(sizes.values()), [components] * len(sizes), *design)
        found[design] = float("nan") if np.isnan(degrees) else _reach(degrees, 0.8, 0.05) * error
    return found

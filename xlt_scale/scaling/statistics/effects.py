"""Paired gains as run pairs and items made them, and estimates of linear contrasts of them.

A contrast (a mean over languages, a difference of arms, a slope over sizes) is a weighted sum of gains. Its variance
has two parts. Seeds: the spread of the means over intermediate seeds, each with its target seeds inside; sizes are
independent of each other. Items: the spread over test items of what all run pairs have in common on them; items are
resampled jointly over languages (where test sets are parallel), arms and sizes, which all answer the same questions.

The sum is the two-way analysis of variance of units (intermediate seeds) by items, both random: Var = (MS_units +
MS_items - MS_interaction) / (units x items), unbiased for crossed samples (Owen 2007, "The pigeonhole bootstrap",
section 4; Cameron, Gelbach and Miller 2011, section 2.2). Units of one size are means over an intermediate seed's runs:
the spread of such means holds target seeds whatever their number, so clusters may be unequal.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import stats

Scale = Literal["points", "log error"]
Alternative = Literal["two-sided", "less", "greater"]
Pair = tuple[int, int]
"""Intermediate seed, target seed."""


@dataclass(frozen=True)
class Effect:
    """Gains of one arm at one size on a weighted set of languages of one task.

    Attributes:
        pairs: seeds of each run pair.
        gains: of each pair, float64 [pairs]: arm - baseline, on the scale that was asked for.
        items: by population of items (the task, or task/language where test sets are not parallel) the item values of
            each pair, float32 [pairs, items]; gains are the sum over populations of the means over items.
    """

    size: str
    pairs: tuple[Pair, ...]
    gains: np.ndarray
    items: Mapping[str, np.ndarray]

    @cached_property
    def units(self) -> tuple[tuple[Pair, ...], np.ndarray]:
        """What counts as independently drawn (`unit_means`): names, and the matrix [units, pairs] that averages."""
        return unit_means(self.pairs)

    @property
    def num_clusters(self) -> int:
        """Intermediate seeds."""
        return len({intermediate for intermediate, _ in self.pairs})


@dataclass(frozen=True)
class SizeSummary:
    """A weighted sum of effects of one size, without its runs: contrasts over sizes of it cost next to nothing.

    Attributes:
        units: names of the units: (intermediate seed, -1), or run pairs where there is one intermediate seed only.
        deviations: of the units, float64 [units]; their sum of squares is the seeds' variance.
        seed_variance: nan where it cannot be seen: a single run pair.
        item_means: by population, float64 [items]: mean over units, then the weighted sum.
        item_noise: by population, the part of the variance of these means that units do not have in common.
    """

    size: str
    value: float
    units: tuple[Pair, ...]
    deviations: np.ndarray
    seed_variance: float
    seed_degrees_of_freedom: float
    item_means: Mapping[str, np.ndarray]
    item_noise: Mapping[str, float]
    num_clusters: int
    num_pairs: int


@dataclass(frozen=True)
class Estimate:
    """A contrast with its uncertainty.

    Attributes:
        seed_variance: of the estimate, from the spread over seeds; nan with a single run pair.
        item_variance: of the estimate, from the items.
        seed_degrees_of_freedom: Satterthwaite's, of the seeds' part alone.
        num_clusters: intermediate seeds; the fewest of any size in the contrast. With 1 the seeds' part is the spread
            of target seeds alone: the estimate holds for that one intermediate checkpoint.
        item_degrees_of_freedom: Satterthwaite's, of the items' part alone.
    """

    value: float
    seed_variance: float
    item_variance: float
    seed_degrees_of_freedom: float
    num_clusters: int
    num_pairs: int
    item_degrees_of_freedom: float = np.inf

    @property
    def standard_error(self) -> float:
        return float(np.sqrt(np.nan_to_num(self.seed_variance) + self.item_variance))

    @property
    def seed_share(self) -> float:
        """Share of the variance that is the seeds'; nan where that is not known."""
        total = self.seed_variance + self.item_variance
        return float(self.seed_variance / total) if total > 0.0 else np.nan

    @property
    def degrees_of_freedom(self) -> float:
        """Of both parts together; nan with a single run pair."""
        parts = (self.seed_variance, self.item_variance, self.seed_degrees_of_freedom, self.item_degrees_of_freedom)
        return float(total_degrees_of_freedom(*map(np.asarray, parts)))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval; with a single run pair it covers the items alone."""
        reach = float(quantile(0.5 + level / 2, np.asarray(self.degrees_of_freedom))) * self.standard_error
        return self.value - reach, self.value + reach

    def p_value(self, alternative: Alternative = "two-sided") -> float:
        """Of the value 0; nan where there is no spread to judge it by."""
        value, error, degrees = map(np.asarray, (self.value, self.standard_error, self.degrees_of_freedom))
        return float(p_values(value, error, degrees, alternative))


def total_degrees_of_freedom(
    seed_variance: np.ndarray, item_variance: np.ndarray, seed_degrees: np.ndarray, item_degrees: np.ndarray
) -> np.ndarray:
    """Degrees of freedom of the sum of both variances, of any shape; nan where the seeds' variance is.

    Satterthwaite (1946) with one change. His formula puts in the estimates; a seeds' variance that came out small by
    chance then also claims many degrees of freedom, and with 3 intermediate seeds coverage falls to 92 % where the
    items have a tenth to a third of the seeds' variance. Here the seeds' variance counts (1 + 3 / its degrees) times
    in the formula (not in the standard error): 94 to 97 % at any ratio with 3 seeds, and no change with many.
    """
    boosted = seed_variance * (1.0 + 3.0 / np.maximum(seed_degrees, 1e-9))
    seeds_have_spread = seed_variance > 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        of_seeds = np.where(seeds_have_spread, boosted**2 / seed_degrees, 0.0)
        total = np.where(seeds_have_spread, boosted, 0.0) + item_variance
        degrees = np.where(total > 0.0, total**2 / (of_seeds + item_variance**2 / item_degrees), np.inf)
    return np.where(np.isnan(seed_variance), np.nan, degrees)


def quantile(probability: float, degrees: np.ndarray) -> np.ndarray:
    """Of Student's t; of the normal law where degrees are infinite or nan."""
    return stats.t.ppf(probability, np.where(np.isfinite(degrees), np.minimum(degrees, 1e9), 1e9))


def p_values(
    values: np.ndarray, standard_errors: np.ndarray, degrees: np.ndarray, alternative: Alternative = "two-sided"
) -> np.ndarray:
    """Of the value 0, of any shape; nan where there is no spread to judge by."""
    is_known = (standard_errors > 0.0) & ~np.isnan(degrees)
    statistics = np.where(is_known, values, 0.0) / np.where(is_known, standard_errors, 1.0)
    bounded = np.where(np.isfinite(degrees), np.minimum(degrees, 1e9), 1e9)
    if alternative == "two-sided":
        tails = 2.0 * stats.t.sf(np.abs(statistics), bounded)
    else:
        tails = stats.t.cdf(statistics if alternative == "less" else -statistics, bounded)
    return np.where(is_known, tails, np.nan)


def combine(terms: Sequence[tuple[float, Effect]]) -> Estimate:
    """The estimate of a weighted sum of effects.

    Its value is the weighted sum of the effects' own means, whichever run pairs each has. Effects of one size are
    aligned by their units, so that what they share, the baseline's runs and the intermediate checkpoint, is counted as
    shared. Effects of different sizes share no run, but they do share items.
    """
    by_size: dict[str, list[tuple[float, Effect]]] = defaultdict(list)
    for weight, effect in terms:
        by_size[effect.size].append((weight, effect))
    return combine_sizes([(1.0, summarise(group)) for group in by_size.values()])


def summarise(terms: Sequence[tuple[float, Effect]]) -> SizeSummary:
    """A weighted sum of effects of one size.

    With mean m_e and deviations d_ei / sqrt(U_e (U_e - 1)) of the U_e units of effect e, the seeds' variance is the sum
    over units of the squared weighted sums of deviations: exactly variance / units where all effects have the same
    units, and a cluster-robust variance where some lack a few.

    Raises:
        ValueError: no effects, effects of several sizes, or a population with different numbers of items.
    """
    if len({effect.size for _, effect in terms}) != 1:
        raise ValueError("a summary is of the effects of one size")
    units = tuple(sorted({unit for _, effect in terms for unit in effect.units[0]}))
    position = {unit: row for row, unit in enumerate(units)}
    deviations = np.zeros(len(units))
    means: dict[str, np.ndarray] = {}
    item_deviations: dict[str, np.ndarray] = {}
    value = variance_sum = degrees_sum = 0.0
    num_seen, is_blind = 0, False
    for weight, effect in terms:
        names, average = effect.units
        rows = [position[unit] for unit in names]
        unit_gains = average @ effect.gains
        mean = float(unit_gains.mean())
        value += weight * mean
        # Nothing is trained for a retrieval target: given its checkpoint it has no further seed.
        is_blind |= len(names) == 1 and names[0][1] >= 0
        num_seen += len(names) > 1
        scale = weight / np.sqrt(max(1, len(names) * (len(names) - 1)))
        own = scale * (unit_gains - mean)
        deviations[rows] += own
        variance_sum += float(own @ own)
        degrees_sum += float(own @ own) * (len(names) - 1)
        for name, values in effect.items.items():
            unit_values = average.astype(np.float32) @ values
            item_mean = unit_values.mean(axis=0)
            if name not in means:
                means[name] = np.zeros(len(item_mean))
                item_deviations[name] = np.zeros((len(units), len(item_mean)), np.float32)
            elif len(means[name]) != len(item_mean):
                raise ValueError(f"{name} has {len(item_mean)} items and {len(means[name])}: not the same test set")
            means[name] += weight * item_mean
            item_deviations[name][rows] += np.float32(scale) * (unit_values - item_mean)
    is_known = num_seen > 0 and not is_blind
    return SizeSummary(
        size=terms[0][1].size,
        value=value,
        units=units,
        deviations=deviations,
        seed_variance=float(deviations @ deviations) if is_known else np.nan,
        seed_degrees_of_freedom=degrees_sum / variance_sum if variance_sum > 0.0 else float(max(1, len(units) - 1)),
        item_means=means,
        item_noise={name: interaction_variance(values) for name, values in item_deviations.items()},
        num_clusters=min(effect.num_clusters for _, effect in terms),
        num_pairs=max(len(effect.pairs) for _, effect in terms),
    )


def combine_sizes(terms: Sequence[tuple[float, SizeSummary]]) -> Estimate:
    """The estimate of a weighted sum of summaries, each of another size (sizes share items but no seeds)."""
    used = [(weight, part) for weight, part in terms if weight != 0.0] or list(terms[:1])
    variances = np.array([weight**2 * part.seed_variance for weight, part in used])
    of_sizes = np.array([part.seed_degrees_of_freedom for _, part in used])
    total = float(variances.sum())
    seed_degrees = total**2 / float(np.sum(variances**2 / of_sizes)) if total > 0.0 else float(of_sizes.sum())
    means: dict[str, np.ndarray] = {}
    noise: dict[str, float] = defaultdict(float)
    for weight, part in used:
        for name, values in part.item_means.items():
            if name in means and len(means[name]) != len(values):
                raise ValueError(f"{name} has {len(values)} items at one size and {len(means[name])} at another")
            means[name] = means[name] + weight * values if name in means else weight * values
            noise[name] += weight**2 * part.item_noise[name]
    variance, item_degrees = item_variance(means, noise)
    return Estimate(
        value=float(sum(weight * part.value for weight, part in used)),
        seed_variance=total,
        item_variance=variance,
        seed_degrees_of_freedom=float(seed_degrees),
        num_clusters=min(part.num_clusters for _, part in used),
        num_pairs=sum(part.num_pairs for _, part in used),
        item_degrees_of_freedom=item_degrees,
    )


def item_variance(means: Mapping[str, np.ndarray], noise: Mapping[str, float]) -> tuple[float, float]:
    """Variance of the sum over populations of means over items, and its degrees of freedom.

    Negative estimates of single populations are kept and the sum is cut at 0: cut one by one, 40 small test sets would
    add up to a variance that is not there.
    """
    parts = [
        ((float(np.var(mean, ddof=1)) - noise[name]) / len(mean), len(mean) - 1.0)
        for name, mean in means.items()
        if len(mean) > 1
    ]
    total = sum(part for part, _ in parts)
    if total <= 0.0:
        return 0.0, np.inf
    return total, max(1.0, total**2 / sum(part**2 / degrees for part, degrees in parts))


def unit_means(pairs: Sequence[Pair]) -> tuple[tuple[Pair, ...], np.ndarray]:
    """Units that count as independently drawn, and the matrix [units, pairs] that averages values of pairs over them.

    Intermediate seeds, named (seed, -1); with a single one its run pairs, which tell about target seeds alone.
    """
    clusters = sorted({intermediate for intermediate, _ in pairs})
    if len(clusters) == 1:
        return tuple(pairs), np.eye(len(pairs))
    belongs = np.array([[float(intermediate == cluster) for intermediate, _ in pairs] for cluster in clusters])
    return tuple((cluster, -1) for cluster in clusters), belongs / belongs.sum(axis=1, keepdims=True)


def interaction_variance(item_deviations: np.ndarray) -> float:
    """Part of the variance of item means that units [units] do not share on items [items].

    From deviations scaled so that their squares sum to a variance: the sum over units of the variance over items is the
    mean square of the interaction / units. The seeds' part has it already; left in, it would count twice.
    """
    if item_deviations.shape[1] < 2:
        return 0.0
    centred = item_deviations - item_deviations.mean(axis=1, keepdims=True)
    return float(np.einsum("uk,uk->", centred, centred)) / (item_deviations.shape[1] - 1)

"""Joint resampling of seeds and items, as a check beside the t intervals, and sign-flip tests.

Draws of all contrasts come from the same resampled seeds and items, one matrix product per size and per population of
items. Two corrections make the spread of draws that of the estimate, where a plain nested bootstrap is too narrow (few
clusters) or too wide (noise drawn at two levels). Deviations of intermediate seeds are scaled by sqrt(I / (I - 1));
target seeds stay with their intermediate seed, whose means already hold them (Davison and Hinkley 1997, section 3.8:
with replacement at the upper level, without at the lower). Item means are shrunken by the noise that run pairs do not
share, which the seeds' part has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xlt_scale.scaling.statistics.effects import Pair, SizeSummary, combine_sizes, item_variance

NUM_DRAWS, NUM_FINAL_DRAWS = 2_000, 10_000
MAX_EXACT_UNITS = 10
_CHUNK_VALUES = 8_000_000  # random numbers at once: 32 MB of float32

Contrast = Sequence[tuple[float, SizeSummary]]
"""Weighted sum of summaries, each of another size."""


@dataclass(frozen=True)
class Draws:
    """Resampled contrasts.

    Attributes:
        values: the estimates, float64 [contrasts].
        standard_errors: of the estimates, float64 [contrasts].
        draws: float64 [draws, contrasts].
        statistics: (draw - value) / standard error of the draw's own seeds, float64 [draws, contrasts].
    """

    values: np.ndarray
    standard_errors: np.ndarray
    draws: np.ndarray
    statistics: np.ndarray

    def percentile(self, level: float = 0.95) -> np.ndarray:
        """Interval between quantiles of the draws, float64 [contrasts, 2]. Too narrow with few intermediate seeds."""
        return np.quantile(self.draws, [0.5 - level / 2, 0.5 + level / 2], axis=0).T

    def studentised(self, level: float = 0.95) -> np.ndarray:
        """Bootstrap-t interval, float64 [contrasts, 2] (Davison and Hinkley 1997, section 5.2); infinite where too many
        draws hold a single intermediate seed, as with two or three seeds and no items."""
        with np.errstate(invalid="ignore"):
            low, high = np.quantile(self.statistics, [0.5 - level / 2, 0.5 + level / 2], axis=0, method="nearest")
            ends = [
                self.values - np.nan_to_num(one, nan=np.inf, posinf=np.inf, neginf=-np.inf) * self.standard_errors
                for one in (high, low)
            ]
        return np.stack(ends, axis=1)

    def share_above_zero(self) -> np.ndarray:
        """Share of draws above 0, float64 [contrasts]: the chance that the arm is better."""
        return (self.draws > 0.0).mean(axis=0) + 0.5 * (self.draws == 0.0).mean(axis=0)


def bootstrap(contrasts: Sequence[Contrast], num_draws: int = NUM_DRAWS, seed: int = 0) -> Draws:
    """Draws of contrasts, seeds and items resampled jointly."""
    rng = np.random.default_rng(seed)
    estimates = [combine_sizes(contrast) for contrast in contrasts]
    values = np.array([estimate.value for estimate in estimates])
    offsets = np.zeros((num_draws, len(contrasts)))
    own_variance = np.zeros_like(offsets)
    for deviations in _unit_deviations(contrasts):
        num_units = len(deviations)
        counts = rng.multinomial(num_units, np.full(num_units, 1.0 / num_units), size=num_draws).astype(np.float64)
        drawn = (counts - 1.0) @ deviations
        offsets += drawn
        # Variance of the mean of the drawn units: sums of squares about the drawn mean, as `summarise` has it.
        own_variance += np.maximum(counts @ deviations**2 - drawn**2 / num_units, 0.0)
    for columns, means, noise in _item_columns(contrasts):
        offsets[:, columns] += _resampled_items(means, noise, num_draws, rng)
    of_items = np.array([estimate.item_variance for estimate in estimates])
    errors = np.sqrt(own_variance + of_items)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = np.where(offsets == 0.0, 0.0, offsets / errors)
    standard_errors = np.array([estimate.standard_error for estimate in estimates])
    return Draws(values, standard_errors, values + offsets, statistics)


def _unit_deviations(contrasts: Sequence[Contrast]) -> Iterator[np.ndarray]:
    """By size (and level of seeds) the deviations of units that are drawn together, float64 [units, contrasts].

    Units that only some contrasts have (missing runs) count 0 in the others.
    """
    found: dict[tuple[str, bool], dict[Pair, np.ndarray]] = {}
    for column, contrast in enumerate(contrasts):
        for weight, summary in contrast:
            for unit, deviation in zip(summary.units, summary.deviations, strict=True):
                units = found.setdefault((summary.size, unit[1] < 0), {})
                units.setdefault(unit, np.zeros(len(contrasts)))[column] += weight * deviation
    for _, units in sorted(found.items()):
        if len(units) > 1:
            yield np.stack([units[unit] for unit in sorted(units)])


def _item_columns(contrasts: Sequence[Contrast]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """By population of items the contrasts that have it [columns], their item means, float64 [items, columns], and the
    noise of these, float64 [columns]."""
    having: dict[str, dict[int, list[tuple[float, SizeSummary]]]] = {}
    for column, contrast in enumerate(contrasts):
        for weight, summary in contrast:
            for name in summary.item_means:
                having.setdefault(name, {}).setdefault(column, []).append((weight, summary))
    for name, by_column in sorted(having.items()):
        means = [sum(weight * part.item_means[name] for weight, part in parts) for parts in by_column.values()]
        noise = [sum(weight**2 * part.item_noise[name] for weight, part in parts) for parts in by_column.values()]
        if len(np.asarray(means[0])) > 1:
            yield list(by_column), np.stack([np.asarray(one) for one in means], axis=1), np.array(noise)


def _shared_items(means: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Item means [items, contrasts] centred and shrunken to what run pairs have in common on them, float32."""
    centred = means - means.mean(axis=0)
    variance = centred.var(axis=0, ddof=1)
    kept = np.maximum(variance - noise, 0.0) / np.where(variance > 0.0, variance, 1.0)
    return (centred * np.sqrt(kept)).astype(np.float32)


def _resampled_items(means: np.ndarray, noise: np.ndarray, num_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Deviations of the means over items drawn with replacement, float64 [draws, contrasts]."""
    shared, num_items = _shared_items(means, noise), len(means)
    shared *= np.float32(np.sqrt(num_items / (num_items - 1.0)))
    parts = []
    for count in _chunks(num_draws, num_items):
        drawn = rng.integers(0, num_items, (count, num_items)) + num_items * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * num_items).reshape(count, num_items)
        parts.append(counts.astype(np.float32) @ shared / num_items)
    return np.concatenate(parts).astype(np.float64)


def _chunks(num_draws: int, num_items: int) -> list[int]:
    size = max(1, min(num_draws, _CHUNK_VALUES // num_items))
    return [min(size, num_draws - start) for start in range(0, num_draws, size)]


def resample_families(
    draws: np.ndarray, values: np.ndarray, families: Sequence[str], weights: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Draws of a mean over languages where language families are drawn too, float64 [draws].

    For claims about languages, not about these languages: families are drawn with replacement, whole, since languages
    of one family are alike; their deviations are scaled by sqrt(F / (F - 1)).

    Args:
        draws: of each language, float64 [draws, languages], of seeds and items (`bootstrap`).
        values: the languages' estimates, float64 [languages].
        families: of each language.
        weights: of each language, summing to 1.
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(families))
    belongs = np.array([[float(family == name) for name in names] for family in families])  # [languages, families]
    mean = float(weights @ values)
    plain = draws @ weights
    if len(names) < 2:
        return plain
    counts = rng.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=len(draws)) - 1.0
    deviations = (weights * (values - mean)) @ belongs
    return plain + np.sqrt(len(names) / (len(names) - 1.0)) * (counts @ deviations)


def sign_flip_p(summaries: Sequence[SizeSummary], num_draws: int = NUM_DRAWS, seed: int = 0) -> np.ndarray:
    """Two-sided p of a gain of 0 by random signs over seeds and over items, float64 [summaries].

    One sign per (seed, item) would treat every item of a seed as independent evidence, which rejects far too often
    where seeds differ. So both parts have signs of their own and are added: all signs of up to ten intermediate seeds
    (drawn beyond), each with `num_draws` signs of items, drawn jointly for all summaries. Items carry their centred
    means without the run pairs' own noise. A seed's gain also holds the error of the item sample, the same in all
    seeds; that share of the mean, S / (S + V) of it expected to be left, is taken out before signs are flipped, so the
    two parts add up to the variance of the estimate. Exact where items do not vary; p is then at least 2^(1 - seeds).

    nan where there is neither seed nor item to judge by.
    """
    rng = np.random.default_rng(seed)
    flipped = np.zeros((num_draws, len(summaries)))
    for columns, means, noise in _item_columns([[(1.0, summary)] for summary in summaries]):
        shared, num_items = _shared_items(means, noise), len(means)
        rows = 0
        for count in _chunks(num_draws, num_items):
            signs = rng.integers(0, 2, (count, num_items), dtype=np.int8).astype(np.float32) * 2 - 1
            flipped[rows : rows + count, columns] += signs @ shared / num_items
            rows += count
    signs_of: dict[int, np.ndarray] = {}
    p = np.full(len(summaries), np.nan)
    for column, summary in enumerate(summaries):
        seeds = _seed_parts(summary)
        of_items = np.sort(flipped[:, column])
        if not seeds.any() and not of_items.any():
            continue
        signs = signs_of.setdefault(len(seeds), _unit_signs(len(seeds), num_draws, rng))
        p[column] = _tail_share(signs @ seeds, of_items, abs(summary.value))
    return p


def _seed_parts(summary: SizeSummary) -> np.ndarray:
    """What each unit adds to the gain, without the items' share of it, float64 [units]."""
    num_units = len(summary.units)
    if num_units < 2 or np.isnan(summary.seed_variance):
        return np.zeros(1)
    variance = item_variance(summary.item_means, summary.item_noise)[0]
    total = summary.seed_variance + variance
    # With two seeds S is too poorly known to be used; all of the mean is left in, which errs on the safe side.
    kept = np.sqrt(summary.seed_variance / total) if total > 0.0 and num_units > 2 else 1.0
    return (kept * summary.value + summary.deviations * np.sqrt(num_units * (num_units - 1.0))) / num_units


def _unit_signs(num_units: int, num_draws: int, rng: np.random.Generator) -> np.ndarray:
    """All signs of few units, drawn ones of many, float64 [signs, units]."""
    if num_units <= MAX_EXACT_UNITS:
        return 1.0 - 2.0 * ((np.arange(2**num_units)[:, None] >> np.arange(num_units)) & 1)
    return 2.0 * rng.integers(0, 2, (num_draws, num_units)) - 1.0


def _tail_share(of_seeds: np.ndarray, of_items: np.ndarray, observed: float) -> float:
    """Share of the sums seeds + items [each with each] at least as far from 0 as the observed gain."""
    reach = observed * (1.0 - 1e-9)  # a sum that differs from the gain by rounding alone counts
    above = len(of_items) - np.searchsorted(of_items, reach - of_seeds, side="left")
    below = np.searchsorted(of_items, -reach - of_seeds, side="right")
    total = len(of_items) * len(of_seeds)
    if reach <= 0.0:
        return 1.0
    # The observed signs are one of those drawn where items do not vary; where they do, one is added for them.
    own = 1 if of_items.any() else 0
    return float((above.sum() + below.sum() + own) / (total + own))

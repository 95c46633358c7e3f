"""Lines over sizes of several architecture families: one slope with an intercept per family, and whether slopes differ.

gain = a_family + b log10(N / N_reference), the analysis of covariance with families as groups (Searle 1987, Linear
Models for Unbalanced Data, chapter 6). Families differ in level for reasons that are not size (data, tokenizer,
objective). A line through all of them would take that for an effect of size; here the slope comes from differences
within families alone. It is the mean of the families' own slopes, each weighted by how exactly it is known. Families
are fixed: the slope is of these, not of families at large.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy import stats

from xlt_scale.scaling.statistics.effects import Estimate, SizeSummary, combine_sizes
from xlt_scale.scaling.statistics.fits import (
    LineFit,
    LinePoint,
    item_covariance,
    line_point,
    shrunken_variances,
    size_weights,
    strays_p,
)


@dataclass(frozen=True)
class FamilyFit:
    """Weighted least-squares lines of several families with one slope.

    Attributes:
        families: of each size.
        log10_n: log10(N / N_reference) of each size, float64 [sizes].
        weights: of the sizes, summing to 1 over all; fixed once chosen: what follows is linear in the gains.
        variances: what the weights were made from: shrunken seeds' part and items' part.
    """

    sizes: tuple[str, ...]
    families: tuple[str, ...]
    log10_n: np.ndarray
    summaries: tuple[SizeSummary, ...]
    weights: np.ndarray
    variances: np.ndarray

    @cached_property
    def gains(self) -> np.ndarray:
        return np.array([summary.value for summary in self.summaries])

    @cached_property
    def sloped_families(self) -> tuple[str, ...]:
        """Families with two different sizes or more: the others have a level and say nothing of the slope."""
        names = dict.fromkeys(self.families)
        return tuple(name for name in names if len(set(self.log10_n[self._rows(name)].tolist())) > 1)

    @property
    def num_sizes(self) -> int:
        """Sizes that the slope rests on."""
        return sum(family in self.sloped_families for family in self.families)

    @cached_property
    def slope_weights(self) -> np.ndarray:
        """float64 [sizes]: slope = these @ gains; within each family they sum to 0."""
        centred = np.zeros(len(self.sizes))
        for family in self.sloped_families:
            rows = self._rows(family)
            centred[rows] = self.log10_n[rows] - self._centre(family)
        return self.weights * centred / (self.weights @ centred**2)

    def line_weights(self, family: str, log10_n: float) -> np.ndarray:
        """float64 [sizes]: a family's line at a size = these @ gains; they sum to 1."""
        rows = self._rows(family)
        own = np.where(rows, self.weights, 0.0)
        return own / own.sum() + (log10_n - self._centre(family)) * self.slope_weights

    def contrast(self, weights: np.ndarray) -> Estimate:
        return combine_sizes([(float(one), summary) for one, summary in zip(weights, self.summaries, strict=True)])

    @cached_property
    def slope(self) -> Estimate:
        """Change of the gain per tenfold parameters within a family."""
        return self.contrast(self.slope_weights)

    def intercept(self, family: str) -> Estimate:
        """A family's line at the reference size, whether the family has a size near it or not."""
        return self.contrast(self.line_weights(family, 0.0))

    def at_smallest(self) -> float:
        """Mean over families of the line at the family's smallest size; families without a slope left out."""
        smallest = [(family, float(self.log10_n[self._rows(family)].min())) for family in self.sloped_families]
        return float(np.mean([self.line_weights(family, place) @ self.gains for family, place in smallest]))

    @cached_property
    def residuals(self) -> np.ndarray:
        """float64 [sizes]; 0 where a family has a single size."""
        places = zip(self.families, self.log10_n.tolist(), strict=True)
        return self.gains - np.array([self.line_weights(family, place) @ self.gains for family, place in places])

    @property
    def residual_degrees(self) -> int:
        return len(self.sizes) - len(set(self.families)) - 1

    @cached_property
    def residual_variance(self) -> float:
        """Of a size's gain around its family's line; nan without degrees of freedom."""
        if self.residual_degrees < 1:
            return np.nan
        return float(len(self.sizes) * (self.weights @ self.residuals**2) / self.residual_degrees)

    @cached_property
    def lack_of_fit_p(self) -> float:
        """p that gains stray from parallel lines as far by chance; nan with fewer than two degrees of freedom."""
        names = list(dict.fromkeys(self.families))
        levels = [[float(family == name) for name in names] for family in self.families]
        return strays_p(np.column_stack([levels, self.log10_n]), self.gains, self.summaries)

    def at(self, family: str, log10_n: float, level: float = 0.95) -> LinePoint:
        """A family's line and the prediction interval of a new size of that family (`LineFit.at`)."""
        rows = self._rows(family)
        own = self.log10_n[rows]
        return line_point(
            self.contrast(self.line_weights(family, log10_n)),
            is_inside=bool(own.min() - 1e-9 <= log10_n <= own.max() + 1e-9),
            measured=float(np.mean(self.variances)),
            residual_variance=self.residual_variance,
            degrees=self.residual_degrees,
            level=level,
        )

    def _rows(self, family: str) -> np.ndarray:
        return np.array([name == family for name in self.families])

    def _centre(self, family: str) -> float:
        own = np.where(self._rows(family), self.weights, 0.0)
        return float((own / own.sum()) @ self.log10_n)


def fit_families(
    summaries: Mapping[str, SizeSummary], log10_n: Mapping[str, float], families: Mapping[str, str]
) -> FamilyFit:
    """The lines with one slope through gains of sizes of several families.

    Args:
        log10_n: log10(N / N_reference) by size.
        families: by size.

    Raises:
        ValueError: no family has two different sizes.
    """
    names = tuple(sorted(summaries, key=lambda name: log10_n[name]))
    chosen = tuple(summaries[name] for name in names)
    variances = shrunken_variances(chosen)
    places = np.array([log10_n[name] for name in names])
    fit = FamilyFit(names, tuple(families[name] for name in names), places, chosen, size_weights(variances), variances)
    if not fit.sloped_families:
        raise ValueError("a shared slope needs a family with two sizes or more")
    return fit


@dataclass(frozen=True)
class Parallelism:
    """Whether families' slopes differ.

    Attributes:
        statistic: F; nan where it cannot be tested.
        degrees: of its numerator and its denominator.
        differences: by pair of families the slope of the first minus that of the second.
    """

    statistic: float
    degrees: tuple[float, float]
    p: float
    differences: Mapping[tuple[str, str], Estimate]


def parallelism(lines: Mapping[str, LineFit]) -> Parallelism | None:
    """The test that families' slopes, each from its own line, are the same; None with fewer than two families.

    With two families it is the two-sided t test of the difference, degrees of freedom as everywhere (`Estimate`). With
    more it is the Welch-James test of Johansen (1980, Biometrika 67, theorem 2.1): the statistic of Wald with seeds'
    variances that may differ from size to size, each counted with its own degrees of freedom, and with the items that
    all sizes share.
    """
    if len(lines) < 2:
        return None
    summaries = [summary for line in lines.values() for summary in line.summaries]
    slopes = _slope_rows(lines)
    pairs = list(combinations(range(len(lines)), 2))
    names = list(lines)
    differences = {
        (names[one], names[other]): combine_sizes(
            [(float(weight), part) for weight, part in zip(slopes[one] - slopes[other], summaries, strict=True)]
        )
        for one, other in pairs
    }
    if len(lines) == 2:
        (only,) = differences.values()
        p = only.p_value()
        statistic = np.nan if np.isnan(p) else (only.value / only.standard_error) ** 2
        return Parallelism(statistic, (1.0, only.degrees_of_freedom), p, differences)
    return Parallelism(*_welch_james(slopes, summaries), differences)


def _slope_rows(lines: Mapping[str, LineFit]) -> np.ndarray:
    """float64 [families, sizes of all]: each family's slope = its row @ gains."""
    rows = np.zeros((len(lines), sum(len(line.sizes) for line in lines.values())))
    start = 0
    for row, line in enumerate(lines.values()):
        rows[row, start : start + len(line.sizes)] = line.slope_weights
        start += len(line.sizes)
    return rows


def _welch_james(slopes: np.ndarray, summaries: Sequence[SizeSummary]) -> tuple[float, tuple[float, float], float]:
    """F, its degrees of freedom and p, of equal rows of `slopes` [families, sizes] @ gains."""
    free = len(slopes) - 1
    contrasts = slopes[1:] - slopes[:1]  # [families - 1, sizes]
    of_seeds = np.array([summary.seed_variance for summary in summaries])
    degrees = np.array([summary.seed_degrees_of_freedom for summary in summaries])
    nothing = (np.nan, (float(free), np.nan), np.nan)
    if np.isnan(of_seeds).any():
        return nothing
    covariance = contrasts @ (np.diag(of_seeds) + item_covariance(summaries)) @ contrasts.T
    if np.linalg.eigvalsh(covariance).min() <= 1e-12 * max(1e-300, float(np.trace(covariance))):
        return nothing
    inverse = np.linalg.inv(covariance)
    differences = contrasts @ np.array([summary.value for summary in summaries])
    shares = of_seeds * np.einsum("is,ij,js->s", contrasts, inverse, contrasts)
    spread = float(np.sum(shares**2 / degrees))
    scale = free + 2.0 * spread - 6.0 * spread / (free + 2.0)
    statistic = float(differences @ inverse @ differences) / scale
    below = free * (free + 2.0) / (3.0 * spread) if spread > 0.0 else np.inf
    return statistic, (float(free), below), float(stats.f.sf(statistic, free, min(below, 1e9)))

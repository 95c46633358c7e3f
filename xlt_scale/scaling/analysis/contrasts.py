"""Weighted sums of gains at every size, their mean over sizes and their change with size.

Sizes of several architecture families have one slope with an intercept for each family (`FamilyFit`): what differs
between families is no effect of size.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xlt_scale.scaling.analysis.gains import Place, StudyGains, blend
from xlt_scale.scaling.analysis.grouping import Cell, CellId, GroupKey, nested_weights
from xlt_scale.scaling.results import SizeFacts
from xlt_scale.scaling.statistics.effects import Estimate, Scale, SizeSummary, combine_sizes
from xlt_scale.scaling.statistics.family_fits import FamilyFit, fit_families
from xlt_scale.scaling.statistics.fits import LineFit, fit_line

Count = Literal["total", "non-embedding"]
"""Which parameters N counts."""

Line = LineFit | FamilyFit
"""One line, or lines of several families with one slope."""


@dataclass(frozen=True)
class SizedContrast:
    """One contrast, wherever it can be computed.

    Attributes:
        by_size: estimate at each size, smallest first.
        mean: over these sizes, each counting alike; None where there is none.
        slope: change per tenfold parameters, within families; None where no family has two sizes.
        num_families: architecture families of the sizes.
    """

    by_size: Mapping[str, Estimate]
    mean: Estimate | None
    slope: Estimate | None
    num_families: int = 1


def reference_size(gains: StudyGains) -> SizeFacts:
    """The size where log10(N / N_reference) is 0; the smallest where the study names none."""
    facts = gains.results.facts
    named = {size.name: size for size in facts.sizes}
    return named.get(facts.reference_size) or (gains.sizes or list(facts.sizes))[0]


def parameters(size: SizeFacts, count: Count) -> int:
    return size.num_parameters if count == "total" else size.num_non_embedding_parameters


def decades(gains: StudyGains, count: Count = "total") -> dict[str, float]:
    """log10(N / N_reference) by size."""
    reference = parameters(reference_size(gains), count)
    return {size.name: math.log10(parameters(size, count) / reference) for size in gains.sizes}


def family_by_size(gains: StudyGains) -> dict[str, str]:
    """The architecture family of every size that has gains."""
    return {size.name: size.family for size in gains.sizes}


def family_names(gains: StudyGains) -> list[str]:
    """Families of the sizes that have gains, in the study's order."""
    having = {size.name for size in gains.sizes}
    return list(dict.fromkeys(size.family for size in gains.results.facts.sizes if size.name in having))


def line_through(
    summaries: Mapping[str, SizeSummary], places: Mapping[str, float], ladders: Mapping[str, str]
) -> Line | None:
    """The fitted line; None where no ladder has two sizes that differ in their number of parameters.

    Args:
        ladders: by size what shares an intercept: its family, as a rule.
    """
    by_ladder: dict[str, set[float]] = {}
    for size in summaries:
        by_ladder.setdefault(ladders[size], set()).add(places[size])
    if not any(len(own) > 1 for own in by_ladder.values()):
        return None
    return fit_line(summaries, places) if len(by_ladder) == 1 else fit_families(summaries, places, ladders)


def sized_contrast(
    gains: StudyGains, weights: Mapping[str, Mapping[Place, float]], scale: Scale = "points"
) -> SizedContrast:
    """The contrast of those weights by size; sizes with no weights or no run pairs in common are left out."""
    found: dict[str, SizeSummary] = {}
    for size in gains.sizes:
        summary = gains.summary(size.name, weights[size.name], scale) if weights.get(size.name) else None
        if summary is not None:
            found[size.name] = summary
    if not found:
        return SizedContrast({}, None, None)
    families = family_by_size(gains)
    line = line_through(found, decades(gains), families)
    return SizedContrast(
        by_size={size: combine_sizes([(1.0, summary)]) for size, summary in found.items()},
        mean=combine_sizes([(1 / len(found), summary) for summary in found.values()]),
        slope=None if line is None else line.slope,
        num_families=len({families[size] for size in found}),
    )


def usable_cells(gains: StudyGains, size: str, arm: str, key: GroupKey) -> dict[CellId, Cell]:
    """Cells of a group without those of shared data."""
    found = gains.members(size, arm, key)
    by_name = {cell.identity: cell for cell in gains.cells(size, arm)}
    return {identity: by_name[identity] for identity in found.plus} if found else {}


def mean_of_arms(
    gains: StudyGains, size: str, arms: Iterable[str], key: GroupKey, only: Iterable[CellId] | None = None
) -> dict[Place, float]:
    """Weights of the mean over arms, cell by cell: a cell that one arm shares data with is the others' mean.

    Args:
        only: cells that may be used; all that any of these arms has, by default.
    """
    by_arm = {arm: usable_cells(gains, size, arm, key) for arm in arms}
    cells = {identity: cell for found in by_arm.values() for identity, cell in found.items()}
    if only is not None:
        allowed = set(only)
        cells = {identity: cell for identity, cell in cells.items() if identity in allowed}
    weights: dict[Place, float] = {}
    for identity, weight in nested_weights(list(cells.values())).items():
        having = [arm for arm, found in by_arm.items() if identity in found]
        weights.update({(arm, identity): weight / len(having) for arm in having})
    return weights


def difference_of_arms(
    gains: StudyGains, size: str, first: Sequence[str], second: Sequence[str], key: GroupKey
) -> dict[Place, float]:
    """Weights of mean(first) - mean(second) over the cells that both have; {} where there are none."""
    cells = [{identity for arm in arms for identity in usable_cells(gains, size, arm, key)} for arms in (first, second)]
    both = cells[0] & cells[1]
    if not both:
        return {}
    return blend(
        [(1.0, mean_of_arms(gains, size, first, key, both)), (-1.0, mean_of_arms(gains, size, second, key, both))]
    )

"""Slopes over sizes: the primary line and the checks that a reader would ask for."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from xlt_scale.scaling.analysis.contrasts import (
    Count,
    Line,
    decades,
    family_by_size,
    family_names,
    line_through,
    reference_size,
)
from xlt_scale.scaling.analysis.gains import Place, StudyGains, blend, one_arm
from xlt_scale.scaling.analysis.grouping import ALL, GroupKey
from xlt_scale.scaling.analysis.tables import SCALES, with_estimates
from xlt_scale.scaling.analysis.verdicts import TrendEvidence
from xlt_scale.scaling.results import PREDICTION_COLUMNS, SLOPE_COLUMNS, SizeFacts
from xlt_scale.scaling.statistics.effects import Estimate, Scale
from xlt_scale.scaling.statistics.family_fits import FamilyFit, Parallelism, parallelism
from xlt_scale.scaling.statistics.fits import LineFit

NUM_GRID_POINTS = 30
NUM_GRID_POINTS_OF_FAMILIES = 8  # their lines end at their sizes, and each has its own
TEN_BILLION = 10_000_000_000
FURTHEST_DECADES = 0.5
"""Beyond the largest size by more than this nothing is predicted."""

PRIMARY = "primary"
WITHOUT_COLLAPSED = "without collapsed runs"
POOLED = "families pooled (confounded)"
NORMS_APART = "an intercept per norm"


@dataclass(frozen=True)
class Variant:
    """One way to draw the line.

    Attributes:
        ladders: by size what shares an intercept.
        count: which parameters N counts.
        is_sound: without run pairs of which either run collapsed.
        family: of a line through the sizes of one family among several; '' = of all.
    """

    name: str
    sizes: tuple[str, ...]
    ladders: Mapping[str, str] = field(repr=False)
    count: Count = "total"
    is_sound: bool = False
    family: str = ""


def variants(sizes: Sequence[SizeFacts], has_collapsed: bool, order: Sequence[str] = ()) -> list[Variant]:
    """The primary line and its checks, of those that leave two sizes of a family.

    Args:
        order: of the families; by default that of their smallest sizes.
    """
    names = tuple(size.name for size in sizes)
    families = {size.name: size.family for size in sizes}
    found = [Variant(PRIMARY, names, families), Variant("non-embedding", names, families, "non-embedding")]
    found += _of_families(sizes, order or list(dict.fromkeys(families.values())))
    found += [Variant(f"without {left}", tuple(name for name in names if name != left), families) for left in names]
    for label, is_pre_norm in (("post-norm only", False), ("pre-norm only", True)):
        kept = tuple(size.name for size in sizes if size.is_pre_norm is is_pre_norm)
        if kept != names:
            found.append(Variant(label, kept, families))
    if has_collapsed:
        found.append(Variant(WITHOUT_COLLAPSED, names, families, is_sound=True))
    return [variant for variant in found if _num_most([variant.ladders[name] for name in variant.sizes]) > 1]


def _of_families(sizes: Sequence[SizeFacts], distinct: Sequence[str]) -> list[Variant]:
    """Where there are several families: the line of each alone, without each, and with other intercepts."""
    families = {size.name: size.family for size in sizes}
    if len(distinct) < 2:
        return []
    names = tuple(families)
    found = []
    for family in distinct:
        own = tuple(name for name in names if families[name] == family)
        found.append(Variant(f"{family} alone", own, families, family=family))
    if len(distinct) > 2:
        for family in distinct:
            kept = tuple(name for name in names if families[name] != family)
            if len(names) - len(kept) > 1:  # a single size is among the sizes that are left out
                found.append(Variant(f"without {family}", kept, families))
    norms = {size.name: f"{size.family}, {'pre' if size.is_pre_norm else 'post'}-norm" for size in sizes}
    if len(set(norms.values())) > len(distinct):
        found.append(Variant(NORMS_APART, names, norms))
    return [*found, Variant(POOLED, names, dict.fromkeys(names, ""))]


def _num_most(names: Sequence[str]) -> int:
    return max(Counter(names).values(), default=0)


def weights_by_size(gains: StudyGains, arm: str, key: GroupKey) -> dict[str, dict[Place, float]]:
    """Weights of a group at every size that has it, over cells that all these sizes have; {} where there are none.

    Args:
        arm: 'all' = the mean over arms that have shared cells.
    """
    if arm != ALL:
        sizes = [size.name for size in gains.sizes if gains.members(size.name, arm, key)]
        shared = gains.shared_cells(arm, key, sizes) if sizes else frozenset()
        found = {size: gains.members(size, arm, key, shared) for size in sizes}
        return {size: one_arm(arm, members) for size, members in found.items() if members is not None}
    by_arm = {name: weights_by_size(gains, name, key) for name in gains.arms}
    sizes = [size.name for size in gains.sizes if any(size.name in weights for weights in by_arm.values())]
    complete = [weights for weights in by_arm.values() if weights and all(size in weights for size in sizes)]
    return {size: blend([(1 / len(complete), weights[size]) for weights in complete]) for size in sizes if complete}


def draw_line(
    gains: StudyGains, weights: Mapping[str, Mapping[Place, float]], variant: Variant, scale: Scale
) -> Line | None:
    """The line of a variant; None where no ladder has two sizes that differ."""
    found = {}
    for size in variant.sizes:
        if weights.get(size):
            summary = gains.summary(size, weights[size], scale, is_sound=variant.is_sound)
            if summary is not None:
                found[size] = summary
    return line_through(found, decades(gains, variant.count), variant.ladders)


def slope_keys(gains: StudyGains) -> list[GroupKey]:
    """Groups that slopes are taken of: headline, target groups, tasks, families over all tasks."""
    return [
        key
        for key in gains.group_keys()
        if key.kind in ("headline", "target group", "task") or (key.kind == "family" and key.task == ALL)
    ]


Row = tuple[str, GroupKey]
"""Arm ('all' = the mean over arms), group."""


@dataclass(frozen=True)
class Slopes:
    """Lines of a study.

    Attributes:
        table: a row per arm, group, variant and scale (`SLOPE_COLUMNS`).
        trends: what verdicts look at: the primary lines' slopes.
        lines: the primary lines in points.
        of_families: where there are several families, the same of each that has two sizes, by its name.
        parallel: and whether their slopes are the same, by scale: of headlines, and target groups over all arms.
    """

    table: pd.DataFrame
    trends: Mapping[Row, TrendEvidence]
    lines: Mapping[Row, Line]
    of_families: Mapping[Row, Mapping[str, TrendEvidence]]
    parallel: Mapping[Row, Mapping[Scale, Parallelism]]


def draw_slopes(gains: StudyGains, has_collapsed: bool) -> Slopes:
    """All lines: of every arm and their mean, of every group, by every variant, on both scales."""
    rows: list[dict[str, object]] = []
    estimates: list[Estimate] = []
    trends: dict[Row, TrendEvidence] = {}
    lines: dict[Row, Line] = {}
    of_families: dict[Row, dict[str, TrendEvidence]] = {}
    parallel: dict[Row, dict[Scale, Parallelism]] = {}
    checks = variants(gains.sizes, has_collapsed, family_names(gains))
    families = family_by_size(gains)
    for arm in (ALL, *gains.arms):
        for key in slope_keys(gains):
            weights = weights_by_size(gains, arm, key)
            found: dict[tuple[str, Scale], Line] = {}
            for variant in checks:
                for scale in SCALES:
                    line = draw_line(gains, weights, variant, scale)
                    if line is not None:
                        found[variant.name, scale] = line
                        family = variant.family or _only(variant.ladders[size] for size in variant.sizes)
                        rows.append(_row(arm, key, variant.name, family, scale, line))
                        estimates.append(line.slope)
            if not weights:
                continue
            if (PRIMARY, "points") in found:
                lines[arm, key] = found[PRIMARY, "points"]
            num_families = len({families[size] for size in weights})
            trends[arm, key] = _evidence(found, PRIMARY, len(weights), num_families)
            if num_families > 1:
                alone = [variant for variant in checks if variant.family and (variant.name, "points") in found]
                of_families[arm, key] = {one.family: _evidence(found, one.name, 0) for one in alone}
                if key.kind == "headline" or (arm, key.kind) == (ALL, "target group"):
                    parallel[arm, key] = _parallel(found, alone)
    table = with_estimates(rows, estimates, SLOPE_COLUMNS)
    table["p_falling"] = _one_sided(table)
    return Slopes(table, trends, lines, of_families, parallel)


def _evidence(
    found: Mapping[tuple[str, Scale], Line], variant: str, num_sizes: int, num_families: int = 1
) -> TrendEvidence:
    """Args:
    num_sizes: said where there is no line.
    """
    in_points, in_logs = (found.get((variant, scale)) for scale in SCALES)
    if in_points is None or in_logs is None:
        return TrendEvidence(None, None, num_sizes, num_families=num_families)
    if isinstance(in_points, FamilyFit):
        num_families = len(in_points.sloped_families)
    at_smallest = in_points.at_smallest()
    return TrendEvidence(in_points.slope, in_logs.slope, in_points.num_sizes, at_smallest, num_families)


def _parallel(found: Mapping[tuple[str, Scale], Line], alone: Sequence[Variant]) -> dict[Scale, Parallelism]:
    """By scale; none with fewer than two families that have a slope of their own."""
    tests: dict[Scale, Parallelism] = {}
    for scale in SCALES:
        own = {one.family: found.get((one.name, scale)) for one in alone}
        test = parallelism({name: line for name, line in own.items() if isinstance(line, LineFit)})
        if test is not None:
            tests[scale] = test
    return tests


def _only(names: Iterable[str]) -> str:
    """The name that all have; '' where they differ."""
    distinct = set(names)
    return distinct.pop() if len(distinct) == 1 else ""


def _one_sided(table: pd.DataFrame) -> pd.Series:
    """p of a falling slope in points, of a rising slope of the log error ratio: half of the two-sided p on that "
    "side."""
    is_points = table["scale"] == "points"
    is_on_side = (table["gain"] < 0) == is_points
    return (table["p"] / 2).where(is_on_side, 1 - table["p"] / 2)


def _row(arm: str, key: GroupKey, variant: str, family: str, scale: Scale, line: Line) -> dict[str, object]:
    return {
        "arm": arm,
        "group_kind": key.kind,
        "group": key.group,
        "variant": variant,
        "family": family,
        "scale": scale,
        "intercept": float(line.line_weights(0.0) @ line.gains) if isinstance(line, LineFit) else math.nan,
        "lack_of_fit_p": line.lack_of_fit_p,
        "num_sizes": line.num_sizes,
    }


def predictions_table(gains: StudyGains, lines: Mapping[Row, Line]) -> pd.DataFrame:
    """Values of the primary lines in points (`PREDICTION_COLUMNS`): at the sizes, on a grid between, half a decade past
    the largest size, and at ten billion parameters where that is no further; nothing is said further out. Of several
    families each has its own sizes, on its line with the slope that all share.
    """
    rows = []
    reference = reference_size(gains).num_parameters if lines else 1
    families = family_by_size(gains)
    for (arm, key), line in lines.items():
        for family in dict.fromkeys(families[name] for name in line.sizes):
            own = [size for size in gains.sizes if size.family == family]
            asked = asked_sizes(own, NUM_GRID_POINTS_OF_FAMILIES) if isinstance(line, FamilyFit) else None
            for number in asked or asked_sizes(gains.sizes):
                place = math.log10(number / reference)
                point = line.at(family, place) if isinstance(line, FamilyFit) else line.at(place)
                values = (point.value, point.low, point.high, point.prediction_low, point.prediction_high)
                rows.append((arm, key.kind, key.group, family, number, *values, point.is_extrapolated))
    return pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS))


def asked_sizes(sizes: Sequence[SizeFacts], num_between: int = NUM_GRID_POINTS) -> list[int]:
    """Numbers of parameters that predictions are made for, rising; of a single size that alone."""
    numbers = [size.num_parameters for size in sizes]
    smallest, largest = math.log10(min(numbers)), math.log10(max(numbers))
    if smallest == largest:
        return numbers[:1]
    step = (largest - smallest) / (num_between + 1)
    between = [round(10 ** (smallest + step * place)) for place in range(1, num_between + 1)]
    furthest = round(10 ** (largest + FURTHEST_DECADES))
    return sorted({*numbers, *between, furthest, *([TEN_BILLION] if furthest >= TEN_BILLION else [])})

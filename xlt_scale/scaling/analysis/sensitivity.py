"""Slopes over sizes: the primary line and the checks that a reader would ask for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from xlt_scale.scaling.analysis.contrasts import Count, decades, line_through, reference_size
from xlt_scale.scaling.analysis.gains import Place, StudyGains, blend, one_arm
from xlt_scale.scaling.analysis.grouping import ALL, GroupKey
from xlt_scale.scaling.analysis.tables import SCALES, with_estimates
from xlt_scale.scaling.analysis.verdicts import TrendEvidence
from xlt_scale.scaling.results import PREDICTION_COLUMNS, SLOPE_COLUMNS, SizeFacts
from xlt_scale.scaling.statistics.effects import Estimate, Scale
from xlt_scale.scaling.statistics.fits import LineFit

NUM_GRID_POINTS = 30
TEN_BILLION = 10_000_000_000
FURTHEST_DECADES = 0.5
"""Beyond the largest size by more than this nothing is predicted."""

PRIMARY = "primary"
WITHOUT_COLLAPSED = "without collapsed runs"


@dataclass(frozen=True)
class Variant:
    """One way to draw the line.

    Attributes:
        count: which parameters N counts.
        is_sound: without run pairs of which either run collapsed.
    """

    name: str
    sizes: tuple[str, ...]
    count: Count = "total"
    is_sound: bool = False


def variants(sizes: Sequence[SizeFacts], has_collapsed: bool) -> list[Variant]:
    """The primary line and its checks, of those that leave at least two sizes."""
    names = tuple(size.name for size in sizes)
    found = [Variant(PRIMARY, names), Variant("non-embedding", names, "non-embedding")]
    found += [Variant(f"without {left}", tuple(name for name in names if name != left)) for left in names]
    for label, is_pre_norm in (("post-norm only", False), ("pre-norm only", True)):
        kept = tuple(size.name for size in sizes if size.is_pre_norm is is_pre_norm)
        if kept != names:
            found.append(Variant(label, kept))
    if has_collapsed:
        found.append(Variant(WITHOUT_COLLAPSED, names, is_sound=True))
    return [variant for variant in found if len(variant.sizes) > 1]


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
) -> LineFit | None:
    """The line of a variant; None with fewer than two sizes that differ."""
    found = {}
    for size in variant.sizes:
        if weights.get(size):
            summary = gains.summary(size, weights[size], scale, is_sound=variant.is_sound)
            if summary is not None:
                found[size] = summary
    return line_through(found, decades(gains, variant.count))


def slope_keys(gains: StudyGains) -> list[GroupKey]:
    """Groups that slopes are taken of: headline, target groups, tasks, families over all tasks."""
    return [
        key
        for key in gains.group_keys()
        if key.kind in ("headline", "target group", "task") or (key.kind == "family" and key.task == ALL)
    ]


@dataclass(frozen=True)
class Slopes:
    """Lines of a study.

    Attributes:
        table: a row per arm, group, variant and scale (`SLOPE_COLUMNS`).
        trends: what verdicts look at: the primary lines' slopes.
        lines: the primary lines in points.
    """

    table: pd.DataFrame
    trends: Mapping[tuple[str, GroupKey], TrendEvidence]
    lines: Mapping[tuple[str, GroupKey], LineFit]


def draw_slopes(gains: StudyGains, has_collapsed: bool) -> Slopes:
    """All lines: of every arm and their mean, of every group, by every variant, on both scales."""
    rows: list[dict[str, object]] = []
    estimates: list[Estimate] = []
    trends: dict[tuple[str, GroupKey], TrendEvidence] = {}
    lines: dict[tuple[str, GroupKey], LineFit] = {}
    checks = variants(gains.sizes, has_collapsed)
    keys = slope_keys(gains)
    for arm in (ALL, *gains.arms):
        for key in keys:
            weights = weights_by_size(gains, arm, key)
            primary: dict[Scale, Estimate] = {}
            for variant in checks:
                for scale in SCALES:
                    line = draw_line(gains, weights, variant, scale)
                    if line is None:
                        continue
                    if variant.name == PRIMARY:
                        primary[scale] = line.slope
                        if scale == "points":
                            lines[arm, key] = line
                    rows.append(_row(arm, key, variant.name, scale, line))
                    estimates.append(line.slope)
            if weights:
                line = lines.get((arm, key))
                at_smallest = float(line.line_weights(min(line.log10_n)) @ line.gains) if line else math.nan
                trends[arm, key] = TrendEvidence(
                    primary.get("points"), primary.get("log error"), len(weights), at_smallest
                )
    table = with_estimates(rows, estimates, SLOPE_COLUMNS)
    table["p_falling"] = _one_sided(table)
    return Slopes(table, trends, lines)


def _one_sided(table: pd.DataFrame) -> pd.Series:
    """p of a falling slope in points, of a rising slope of the log error ratio: half of the two-sided p on that "
    "side."""
    is_points = table["scale"] == "points"
    is_on_side = (table["gain"] < 0) == is_points
    return (table["p"] / 2).where(is_on_side, 1 - table["p"] / 2)


def _row(arm: str, key: GroupKey, variant: str, scale: Scale, line: LineFit) -> dict[str, object]:
    return {
        "arm": arm,
        "group_kind": key.kind,
        "group": key.group,
        "variant": variant,
        "scale": scale,
        "intercept": float(line.line_weights(0.0) @ line.gains),
        "lack_of_fit_p": line.lack_of_fit_p,
        "num_sizes": len(line.sizes),
    }


def predictions_table(gains: StudyGains, lines: Mapping[tuple[str, GroupKey], LineFit]) -> pd.DataFrame:
    """Values of the primary lines in points (`PREDICTION_COLUMNS`): at the sizes, on a grid between, half a decade past
    the largest size, and at ten billion parameters where that is no further; nothing is said further out.
    """
    rows = []
    reference = reference_size(gains).num_parameters if lines else 1
    for (arm, key), line in lines.items():
        for number in asked_sizes(gains.sizes):
            point = line.at(math.log10(number / reference))
            values = (point.value, point.low, point.high, point.prediction_low, point.prediction_high)
            rows.append((arm, key.kind, key.group, number, *values, point.is_extrapolated))
    return pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS))


def asked_sizes(sizes: Sequence[SizeFacts]) -> list[int]:
    """Numbers of parameters that predictions are made for, rising."""
    numbers = [size.num_parameters for size in sizes]
    smallest, largest = math.log10(min(numbers)), math.log10(max(numbers))
    step = (largest - smallest) / (NUM_GRID_POINTS + 1)
    between = [round(10 ** (smallest + step * place)) for place in range(1, NUM_GRID_POINTS + 1)]
    furthest = round(10 ** (largest + FURTHEST_DECADES))
    return sorted({*numbers, *between, furthest, *([TEN_BILLION] if furthest >= TEN_BILLION else [])})

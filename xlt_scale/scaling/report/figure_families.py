"""Gain against parameters of several architecture families: each with its own line and the slope that all share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from xlt_scale.scaling.report.drawing import Drawing
from xlt_scale.scaling.report.figure_gain import MOST_BANDS, of_group, share_one_scale, size_axis
from xlt_scale.scaling.report.numbers import ordered, seeds_by_size, signed
from xlt_scale.scaling.report.style import INK, Margins, legend_above, limits, panels, shorten, zero_line
from xlt_scale.scaling.report.subject import Subject

MOST_PANELS = 12
SHARED_DASH = (0, (4, 1.6))


@dataclass(frozen=True)
class Panel:
    """An arm's gains in one group of cells."""

    arm: str
    kind: str
    group: str

    def title(self, subject: Subject) -> str:
        group = "headline mean" if self.kind == "headline" else self.group
        return f"{shorten(subject.arm_label(self.arm), 20)}: {shorten(group, 24)}" if len(subject.arms) > 1 else group


def gain_of_architectures(subject: Subject) -> Drawing | None:
    """The main figure of several families: the headline of each arm, then its target groups while panels are few."""
    groups = subject.analysis.groups
    targets = [target.group for target in subject.analysis.results.facts.targets]
    names = ordered(groups["group"][groups["group_kind"] == "target group"], targets)
    wanted = [Panel(arm, "headline", "all") for arm in subject.arms]
    further = [Panel(arm, "target group", name) for name in names for arm in subject.arms] if len(names) > 1 else []
    wanted += further if len(wanted) + len(further) <= MOST_PANELS else []
    title = "Gain from intermediate training against model size, by architecture family"
    return _drawn(subject, "gain", title, wanted[:MOST_PANELS])


def languages_of_architectures(subject: Subject) -> Drawing | None:
    """The same by language family, over all tasks; None where panels are too many to be read."""
    groups = subject.analysis.groups
    rows = groups[(groups["group_kind"] == "family") & (groups["task"] == "all")]
    names = sorted(set(rows["group"]))
    wanted = [Panel(arm, "family", name) for name in names for arm in subject.arms]
    if len(names) < 2 or len(wanted) > MOST_PANELS:
        return None
    return _drawn(subject, "gain-families", "Gain against model size by language family", wanted)


def _drawn(subject: Subject, name: str, title: str, wanted: Sequence[Panel]) -> Drawing | None:
    found = [(panel, _rows(subject, panel)) for panel in wanted]
    found = [(panel, rows) for panel, rows in found if len(rows)]
    if not found:
        return None
    columns = 2 if len(found) < 5 else 3
    margins = Margins(bottom=0.42, between_rows=0.62, between_columns=0.38)
    figure, all_axes = panels(len(found), columns, 2.1 if columns == 2 else 1.55, margins)
    ranges = [limits(rows["gain"].tolist(), [*rows["low"], *rows["high"]]) for _, rows in found]
    is_shared = share_one_scale(ranges)
    if is_shared:
        ranges = [(min(low for low, _ in ranges), max(high for _, high in ranges))] * len(ranges)
    for position, (axes, (panel, rows), reach) in enumerate(zip(all_axes, found, ranges, strict=True)):
        axes.set_title(panel.title(subject))
        axes.set_ylim(*reach)
        size_axis(axes, subject, is_beyond=False)
        if position % columns == 0:
            axes.set_ylabel("gain (points)")
        if position >= len(found) - columns:
            axes.set_xlabel(subject.parameter_label)
        zero_line(axes)
        for family in subject.family_names:
            _lines(axes, subject, panel, family)
            _points(axes, subject, rows, family)
    _legend(figure, subject)
    rows = pd.concat([own for _, own in found])
    return Drawing(name, title, _caption(subject, rows, is_shared), _description(subject, found), figure)


def _rows(subject: Subject, panel: Panel) -> pd.DataFrame:
    rows = of_group(subject.analysis.groups, (panel.kind, panel.group))
    return rows[rows["arm"] == panel.arm]


def _of_panel(table: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    is_there = (table["arm"] == panel.arm) & (table["group_kind"] == panel.kind) & (table["group"] == panel.group)
    return table[is_there]


def _lines(axes: Axes, subject: Subject, panel: Panel, family: str) -> None:
    """The family's own line, and the one with the slope that all share, where its sizes are."""
    look = subject.family_style[family]
    shared = _of_panel(subject.analysis.predictions, panel)
    shared = shared[(shared["family"] == family) & ~shared["is_extrapolated"].astype(bool)].sort_values(
        "num_parameters"
    )
    if len(shared) < 2:
        return
    x = shared["num_parameters"].to_numpy(float)
    if _has_bands(subject):
        ends = shared["low"].to_numpy(float), shared["high"].to_numpy(float)
        axes.fill_between(x, *ends, color=look.colour, alpha=0.14, linewidth=0)
    axes.plot(x, shared["gain"].to_numpy(float), color=look.colour, linestyle=SHARED_DASH, linewidth=0.9)
    own = _own_line(subject, panel, family)
    if own is not None:
        slope, intercept, reference = own
        axes.plot(x, intercept + slope * np.log10(x / reference), color=look.colour, linestyle="-", linewidth=1.4)


def _own_line(subject: Subject, panel: Panel, family: str) -> tuple[float, float, float] | None:
    """Slope, intercept and the number of parameters that the intercept is at."""
    slopes = _of_panel(subject.analysis.slopes, panel)
    slopes = slopes[(slopes["variant"] == f"{family} alone") & (slopes["scale"] == "points")]
    facts = subject.analysis.results.facts
    reference = {size.name: size.num_parameters for size in facts.sizes}.get(facts.reference_size)
    if slopes.empty or not reference:
        return None
    row = slopes.iloc[0]
    return float(row["gain"]), float(row["intercept"]), float(reference)


def _points(axes: Axes, subject: Subject, rows: pd.DataFrame, family: str) -> None:
    """Gains with intervals, each mark a link to its group; hollow where the family normalises in two ways."""
    own = rows[rows["size"].map(subject.families) == family]
    if own.empty:
        return
    look = subject.family_style[family]
    positions = {index: place for place, index in enumerate(subject.analysis.groups.index)}
    hollow = _hollow(subject)
    x = own["size"].map(subject.parameters).to_numpy(float)
    axes.vlines(x, own["low"], own["high"], color=look.colour, linewidth=0.9, zorder=3)
    faces = ["none" if size in hollow else look.colour for size in own["size"]]
    marks = axes.scatter(
        x, own["gain"], s=17, marker=look.marker, facecolors=faces, edgecolors=look.colour, linewidths=0.9, zorder=4
    )
    marks.set_urls([subject.evidence.group(positions[index]) for index in own.index])


def _hollow(subject: Subject) -> set[str]:
    """Sizes that normalise after each block, of families whose larger sizes do so before it."""
    pre = {size.name: size.is_pre_norm for size in subject.analysis.results.facts.sizes}
    mixed = {
        family
        for family in subject.family_names
        if len({pre.get(size) for size in subject.sizes if subject.families[size] == family}) > 1
    }
    return {size for size in subject.sizes if subject.families[size] in mixed and not pre.get(size)}


def _has_bands(subject: Subject) -> bool:
    return len(subject.family_names) <= MOST_BANDS + 1


def _legend(figure: Figure, subject: Subject) -> None:
    families: list[Line2D | Patch] = [
        Line2D([], [], color=look.colour, marker=look.marker, markersize=4, linewidth=1.4)
        for look in (subject.family_style[name] for name in subject.family_names)
    ]
    lines: list[Line2D | Patch] = [
        Line2D([], [], color=INK, linewidth=1.4),
        Line2D([], [], color=INK, linewidth=0.9, linestyle=SHARED_DASH),
    ]
    names = ["family's own slope", "one slope for all families"]
    if _has_bands(subject):
        lines.append(Patch(facecolor=INK, alpha=0.2, linewidth=0))
        names.append("its 95 % band")
    if _hollow(subject):
        lines.append(Line2D([], [], linestyle="none", marker="o", markersize=4, markerfacecolor="none", color=INK))
        names.append("norm after blocks")
    legend_above(figure, (families, [shorten(name, 24) for name in subject.family_names]), (lines, names))


def _caption(subject: Subject, rows: pd.DataFrame, is_shared: bool) -> str:
    parts = [
        "Gain over the baseline in points; bars are 95 % intervals over seeds and test items together. Solid: gain = a "
        "+ b log10(parameters) through the sizes of a family alone. Dashed: the same slope for all families, an "
        "intercept for each; families with a single size have a mark and no line."
    ]
    if _has_bands(subject):
        parts.append("Band: 95 % confidence of the dashed line.")
    if rows["low"].isna().any():
        parts.append("Points without a bar have too few seeds for one.")
    if _hollow(subject):
        parts.append("Hollow marks: normalised after each block, larger sizes of the family before it.")
    if not is_shared:
        parts.append("Panels have scales of their own.")
    parts.append("Bars and bands that reach the edge of a panel go on beyond it.")
    parts.append(f"Intermediate seeds / run pairs: {seeds_by_size(rows, subject.sizes)}. {subject.sizes_in_words()}")
    return " ".join(parts)


def _description(subject: Subject, found: Sequence[tuple[Panel, pd.DataFrame]]) -> str:
    parts = []
    for panel, rows in found:
        gains = dict(zip(rows["size"], rows["gain"], strict=True))
        own = [f"{size} {signed(gains[size])}" for size in subject.sizes if math.isfinite(gains.get(size, math.nan))]
        parts.append(f"{panel.title(subject)}: {', '.join(own)}.")
    return " ".join(parts)

"""Gain against parameters: points with intervals, the fitted line with its bands, a panel per group."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from xlt_scale.scaling.report.drawing import Drawing
from xlt_scale.scaling.report.numbers import ordered, parameter_count, seeds_by_size
from xlt_scale.scaling.report.style import (
    GREY,
    GRID,
    INK,
    Look,
    Margins,
    arm_handles,
    legend_above,
    limits,
    panels,
    shorten,
    text_width,
    zero_line,
)
from xlt_scale.scaling.report.subject import ALL_ARMS, Subject

Panel = tuple[str, str]
"""Kind of group, group."""

MOST_BANDS = 3  # arms whose bands can lie over one another and still be told apart


def gain_by_target(subject: Subject) -> Drawing | None:
    """The study's main figure: the headline, then each target group."""
    groups = subject.analysis.groups
    targets = subject.analysis.results.facts.targets
    names = ordered(groups["group"][groups["group_kind"] == "target group"], [target.group for target in targets])
    wanted: list[Panel] = [("headline", "all")] if (groups["group_kind"] == "headline").any() else []
    # A single target group is the headline once more.
    wanted += [("target group", name) for name in names] if len(names) > 1 or not wanted else []
    if not wanted:
        return None
    title = "Gain from intermediate training against model size"
    return _drawn(subject, "gain", title, wanted, 3, 1.55)


def gain_by_family(subject: Subject) -> Drawing | None:
    """A panel per language family, over all tasks."""
    rows = _rows(subject.analysis.groups, "family")
    names = sorted(set(rows["group"]))
    if len(names) < 2:
        return None
    title = "Gain against model size by language family"
    return _drawn(subject, "gain-families", title, [("family", name) for name in names], 4, 1.15)


def _drawn(subject: Subject, name: str, title: str, wanted: Sequence[Panel], columns: int, height: float) -> Drawing:
    margins = Margins(bottom=0.42, between_rows=0.62, between_columns=0.38)
    figure, all_axes = panels(len(wanted), columns, height, margins)
    chosen = [of_group(subject.analysis.groups, panel) for panel in wanted]
    ranges = [limits(rows["gain"].tolist(), [*rows["low"], *rows["high"]]) for rows in chosen]
    is_shared = share_one_scale(ranges)
    if is_shared:
        ranges = [(min(low for low, _ in ranges), max(high for _, high in ranges))] * len(ranges)
    is_narrow = columns > 3
    for position, (axes, panel, rows, reach) in enumerate(zip(all_axes, wanted, chosen, ranges, strict=True)):
        axes.set_title(shorten("headline mean" if panel[0] == "headline" else panel[1], 24 if is_narrow else 32))
        axes.set_ylim(*reach)
        size_axis(axes, subject)
        if position % columns == 0:
            axes.set_ylabel("gain (points)")
        if position >= len(wanted) - columns:
            axes.set_xlabel(subject.parameter_label)
        zero_line(axes)
        _fits(axes, subject, panel)
        _points(axes, subject, rows)
        _norm_border(axes, subject)
    _legend(figure, subject)
    caption = _caption(subject, pd.concat(chosen), is_shared, is_again=wanted[0][0] == "family")
    return Drawing(name, title, caption, _description(subject, wanted, chosen), figure)


def _rows(groups: pd.DataFrame, kind: str) -> pd.DataFrame:
    rows = groups[groups["group_kind"] == kind]
    return rows[rows["task"] == "all"] if kind == "family" else rows


def of_group(groups: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """Rows of the table of groups."""
    rows = _rows(groups, panel[0])
    return rows[rows["group"] == panel[1]]


def share_one_scale(ranges: Sequence[tuple[float, float]]) -> bool:
    """One scale for all panels unless that would flatten the smallest."""
    spans = [high - low for low, high in ranges]
    return max(spans) < 4 * min(spans)


def size_axis(axes: Axes, subject: Subject, is_beyond: bool = True) -> None:
    """A log axis whose ticks are the sizes; labels that would overlap are left out, ticks are not.

    Args:
        is_beyond: whether lines go on past the largest size.
    """
    factor, _ = subject.unit
    counts = sorted(subject.parameters[size] for size in subject.sizes)
    low, high = math.log10(min(counts)), math.log10(max(counts))
    beyond = subject.analysis.predictions["num_parameters"]
    furthest = math.log10(beyond.max()) if is_beyond and len(beyond) and high > low else high
    right = min(furthest, high + 0.5)  # no further than half a decade: see the methods
    pad = max((0.09 if len(subject.arms) <= 5 else 0.12) * (right - low), 0.05)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - pad), 10 ** (right + pad))
    per_inch = (right - low + 2 * pad) / _panel_width(axes)
    labels = [parameter_count(count, factor) for count in counts]
    halves = [(text_width(label, 7) / 2 + 0.015) * per_inch for label in labels]
    shown: list[int] = []
    # The ends of the ladder first: what lies between can be guessed from them.
    for place in dict.fromkeys([0, len(counts) - 1, *range(len(counts))]):
        apart = [abs(math.log10(counts[place] / counts[other])) - halves[place] - halves[other] for other in shown]
        if all(distance >= 0 for distance in apart):
            shown.append(place)
    axes.set_xticks(counts, [label if place in shown else "" for place, label in enumerate(labels)])
    axes.minorticks_off()
    axes.grid(axis="y", color=GRID, linewidth=0.5)


def _panel_width(axes: Axes) -> float:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return float(axes.get_position().width * figure.get_figwidth())


def _fits(axes: Axes, subject: Subject, panel: Panel) -> None:
    """Fitted lines, solid where sizes were run; bands while they can be told apart."""
    predictions = subject.analysis.predictions
    rows = predictions[(predictions["group_kind"] == panel[0]) & (predictions["group"] == panel[1])]
    has_bands = _arms_with_bands(subject)
    for arm in [*subject.arms, ALL_ARMS]:
        line = rows[rows["arm"] == arm].sort_values("num_parameters")
        if line.empty or (arm == ALL_ARMS and len(subject.arms) <= MOST_BANDS):
            continue
        look = subject.style.get(arm, Look(INK, "", "-"))
        x, gain = line["num_parameters"].to_numpy(float), line["gain"].to_numpy(float)
        if arm in has_bands:
            for low, high, alpha in (("prediction_low", "prediction_high", 0.09), ("low", "high", 0.2)):
                ends = line[low].to_numpy(float), line[high].to_numpy(float)
                axes.fill_between(x, *ends, color=look.colour, alpha=alpha, linewidth=0)
        outside = line["is_extrapolated"].to_numpy(bool)
        inside = np.where(outside, np.nan, gain)
        dash = look.dash if arm != ALL_ARMS else "-"
        axes.plot(x, inside, color=look.colour, linestyle=dash, linewidth=1.6 if arm == ALL_ARMS else 1.1)
        if outside.any():
            first = np.flatnonzero(outside)
            start = np.unique(np.clip(np.concatenate([first - 1, first, first + 1]), 0, len(x) - 1))
            beyond = np.full(len(x), np.nan)
            beyond[start] = gain[start]
            axes.plot(x, beyond, color=look.colour, linestyle=(0, (1, 1.6)), linewidth=1.0)


def _arms_with_bands(subject: Subject) -> set[str]:
    """Few arms have bands of their own; of many, only their mean has."""
    return set(subject.arms) if len(subject.arms) <= MOST_BANDS else {ALL_ARMS}


def _points(axes: Axes, subject: Subject, rows: pd.DataFrame) -> None:
    """Gains with intervals, arms side by side, each mark a link to its group."""
    low, high = (math.log10(value) for value in axes.get_xlim())
    # Inches: far enough apart to be seen, near enough to belong to one size.
    apart = min(0.05, 0.13 * _panel_width(axes) / max(len(subject.arms), 1))
    step = apart * (high - low) / _panel_width(axes)
    positions = {id_: place for place, id_ in enumerate(subject.analysis.groups.index)}
    for place, arm in enumerate(subject.arms):
        of_arm = rows[rows["arm"] == arm]
        if of_arm.empty:
            continue
        look = subject.style[arm]
        shift = 10 ** ((place - (len(subject.arms) - 1) / 2) * step)
        x = of_arm["size"].map(subject.parameters).to_numpy(float) * shift
        axes.vlines(x, of_arm["low"], of_arm["high"], color=look.colour, linewidth=0.9, zorder=3)
        marks = axes.scatter(x, of_arm["gain"], s=15, c=look.colour, marker=look.marker, linewidths=0, zorder=4)
        marks.set_urls([subject.evidence.group(positions[index]) for index in of_arm.index])


def _norm_border(axes: Axes, subject: Subject) -> None:
    """Where post-norm sizes end and pre-norm ones begin: a change that a line over sizes cannot tell from size."""
    pre = {size.name: size.is_pre_norm for size in subject.analysis.results.facts.sizes}
    flags = [pre.get(size, False) for size in subject.sizes]
    if flags != sorted(flags) or len(set(flags)) < 2:
        return
    first = flags.index(True)
    below, above = (subject.parameters[subject.sizes[position]] for position in (first - 1, first))
    if below < above:
        axes.axvline(math.sqrt(below * above), color=GREY, linewidth=0.6, linestyle=(0, (2, 2)), zorder=1)


def _legend(figure: Figure, subject: Subject) -> None:
    handles: list[Line2D | Patch] = list(arm_handles(subject.arms, subject.style))
    labels = [subject.arm_label(arm) for arm in subject.arms]
    has_fits = len(subject.analysis.predictions) > 0
    is_mean = has_fits and len(subject.arms) > MOST_BANDS and ALL_ARMS in set(subject.analysis.predictions["arm"])
    if is_mean:
        handles.append(Line2D([], [], color=INK, linewidth=1.6))
        labels.append(subject.arm_labels[ALL_ARMS])
    if has_fits and (is_mean or len(subject.arms) <= MOST_BANDS):
        handles += [Patch(facecolor=INK, alpha=0.28, linewidth=0), Patch(facecolor=INK, alpha=0.1, linewidth=0)]
        labels += ["line, 95 %", "a new size, 95 %"]
    legend_above(figure, (handles, labels))


def _caption(subject: Subject, rows: pd.DataFrame, is_shared: bool, is_again: bool) -> str:
    parts = ["Gain over the baseline in points; bars are 95 % intervals over seeds and test items together."]
    if rows["low"].isna().any():
        parts.append("Points without a bar have too few seeds for one.")
    if is_again:
        parts.append("All tasks; lines and bands as in the figure before.")
    else:
        parts += _about_lines(subject)
    if not is_shared:
        parts.append("Panels have scales of their own.")
    parts.append(f"Intermediate seeds / run pairs: {seeds_by_size(rows, subject.sizes)}.")
    return " ".join(parts if is_again else [*parts, subject.sizes_in_words()])


def _about_lines(subject: Subject) -> list[str]:
    parts = []
    if len(subject.analysis.predictions):
        parts.append(
            "Lines: gain = a + b log10(parameters), dotted beyond the sizes that were run; dark band: 95 % confidence "
            "of the line, light band: 95 % prediction for a new size."
        )
        if len(subject.arms) > MOST_BANDS:
            parts.append("Bands are drawn for the mean of the arms only.")
    if len({size.is_pre_norm for size in subject.analysis.results.facts.sizes if size.name in subject.sizes}) > 1:
        parts.append(
            "Dashed vertical line: layer normalisation moves from behind the blocks to before them; whatever changes "
            "there may be that and not size."
        )
    parts.append("Bars and bands that reach the edge of a panel go on beyond it.")
    return parts


def _description(subject: Subject, wanted: Sequence[Panel], chosen: Sequence[pd.DataFrame]) -> str:
    parts = []
    for panel, rows in zip(wanted, chosen, strict=True):
        name = "headline mean" if panel[0] == "headline" else panel[1]
        means = [
            f"{size} {rows['gain'][rows['size'] == size].mean():.1f}"
            for size in subject.sizes
            if (rows["size"] == size).any()
        ]
        parts.append(f"{name}: mean gain over arms {', '.join(means)}.")
    return " ".join(parts)

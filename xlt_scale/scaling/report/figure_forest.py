"""Slopes with their intervals, one row each, on both scales; and what the headline's slope depends on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xlt_scale.scaling.report.drawing import Drawing
from xlt_scale.scaling.report.evidence import group_name
from xlt_scale.scaling.report.numbers import ordered, signed, span
from xlt_scale.scaling.report.style import GREY, GRID, INK, PALETTE, limits, shorten, widest, zero_line
from xlt_scale.scaling.report.subject import ALL_ARMS, Subject

SCALES = {"points": "points per tenfold parameters", "log error": "log error ratio per tenfold parameters"}
DIRECTIONS = {"points": ("gain falls", "gain grows"), "log error": ("advantage grows", "advantage shrinks")}
"""What a slope left and right of zero means: a negative log error ratio is an advantage."""
MOST_ROWS = 56
KINDS = ("headline", "target group", "task")


@dataclass(frozen=True)
class Row:
    """A line of the plot: a heading, or a slope on each scale."""

    label: str
    by_scale: dict[str, int]
    is_indented: bool = False


def forest(subject: Subject) -> Drawing | None:
    """Slopes of each arm: headline, target groups and tasks; below, the headline under each sensitivity check."""
    slopes = subject.analysis.slopes.reset_index(drop=True)
    if slopes.empty:
        return None
    main = _main_rows(subject, slopes)
    variants = _variant_rows(subject, slopes)
    if not main:
        return None
    primary = slopes[slopes["variant"] == "primary"]
    figure = _drawn(subject, slopes, main, variants)
    kept = "" if len(_of_kinds(slopes, KINDS)) <= MOST_ROWS else " Slopes by task and arm are in tables/slopes.csv."
    caption = (
        "Change of the gain per tenfold parameters, with 95 % intervals. Left: in points; left of zero the gain falls "
        "as models grow. Right: log of the ratio of errors with and without; right of zero the advantage shrinks. Only "
        "where both scales agree is it more than head-room. "
        + (
            "Slopes are those that architecture families share, each with its intercept. "
            if subject.has_families
            else ""
        )
        + ("Lower panels: the headline's slope under each sensitivity check. " if variants else "")
        + f"Sizes in a fit: {span(primary['num_sizes'])}; intermediate seeds (the fewest of any size): "
        f"{span(primary['num_intermediate_seeds'])}, run pairs: {span(primary['num_pairs'])}. Intervals that reach the "
        f"edge go on beyond it; a mark without one has too few seeds.{kept}"
    )
    chosen = slopes.iloc[[row.by_scale["points"] for row in main if "points" in row.by_scale]]
    described = " ".join(
        f"{row['arm']}, {group_name(row)}: {signed(row['gain'], 2)}." for row in chosen.head(20).to_dict("records")
    )
    return Drawing("slopes", "How the gain changes with model size", caption, described, figure)


def _of_kinds(slopes: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    return slopes[(slopes["variant"] == "primary") & (slopes["scale"] == "points") & slopes["group_kind"].isin(kinds)]


def _main_rows(subject: Subject, slopes: pd.DataFrame) -> list[Row]:
    primary = slopes[(slopes["variant"] == "primary") & slopes["group_kind"].isin(KINDS)]
    if len(primary["arm"].unique()) == 2 and ALL_ARMS in set(primary["arm"]):
        primary = primary[primary["arm"] != ALL_ARMS]  # the mean of one arm says nothing new
    if len(_of_kinds(primary, KINDS)) > MOST_ROWS:
        is_mean = primary["arm"] == ALL_ARMS
        primary = primary[is_mean | primary["group_kind"].isin(KINDS[:2])]
    if len(_of_kinds(primary, KINDS)) > MOST_ROWS:
        primary = primary[(primary["arm"] == ALL_ARMS) | (primary["group_kind"] == "headline")]
    alone = _tasks_alone_in_their_group(subject)
    rows: list[Row] = []
    for arm in ordered(primary["arm"], [ALL_ARMS, *subject.arms]):
        rows.append(Row(subject.arm_label(arm), {}))
        of_arm = primary[primary["arm"] == arm]
        for kind in KINDS:
            of_kind = of_arm[of_arm["group_kind"] == kind]
            for group in ordered(of_kind["group"], subject.tasks):
                if kind == "task" and group in alone:
                    continue
                chosen = of_kind[of_kind["group"] == group]
                by_scale = dict(zip(chosen["scale"], map(int, chosen.index), strict=True))
                label = "headline mean" if kind == "headline" else shorten(group, 26)
                rows.append(Row(label, by_scale, kind == "task"))
    return rows


def _tasks_alone_in_their_group(subject: Subject) -> set[str]:
    """Their slope is the group's: one row says it."""
    tasks_of: dict[str, set[str]] = {}
    for target in subject.analysis.results.facts.targets:
        tasks_of.setdefault(target.group, set()).update(target.tasks)
    return {task for tasks in tasks_of.values() if len(tasks) == 1 for task in tasks}


def _variant_rows(subject: Subject, slopes: pd.DataFrame) -> list[Row]:
    headline = slopes[slopes["group_kind"] == "headline"]
    arms = ordered(headline["arm"], [ALL_ARMS, *subject.arms])
    if len(subject.arms) == 1:
        arms = [arm for arm in arms if arm != ALL_ARMS]
    elif (len(arms) > 4 or subject.has_families) and ALL_ARMS in arms:
        arms = [ALL_ARMS]
    rows: list[Row] = []
    for arm in arms[:4]:
        of_arm = headline[headline["arm"] == arm]
        variants = ordered(of_arm["variant"], ["primary"])
        if len(variants) < 2:
            continue
        rows.append(Row(f"{subject.arm_label(arm)}, headline mean", {}))
        for variant in variants:
            chosen = of_arm[of_arm["variant"] == variant]
            rows.append(Row(shorten(variant, 28), dict(zip(chosen["scale"], map(int, chosen.index), strict=True))))
    return rows


def _drawn(subject: Subject, slopes: pd.DataFrame, main: list[Row], variants: list[Row]) -> Figure:
    blocks = [block for block in (main, variants) if block]
    left = max(widest([row.label for block in blocks for row in block], 7), 1.0) + 0.15
    width, line, above, below = 7.0, 0.165, 0.3, 0.42
    heights = [line * (len(block) + 0.4) for block in blocks]
    total = sum(heights) + len(blocks) * (above + below)
    figure = Figure(figsize=(width, total))
    across = (width - left - 0.15 - 0.3) / 2
    top = total
    for block, height in zip(blocks, heights, strict=True):
        top -= above + height
        for column, scale in enumerate(SCALES):
            x = left + column * (across + 0.3)
            axes = figure.add_axes((x / width, top / total, across / width, height / total))
            _column(axes, subject, slopes, block, scale, column == 0)
        top -= below
    return figure


def _column(axes: Axes, subject: Subject, slopes: pd.DataFrame, rows: list[Row], scale: str, has_labels: bool) -> None:
    axes.set_ylim(len(rows) - 0.4, -0.8)
    places = [place for place, row in enumerate(rows) if scale in row.by_scale]
    found = [rows[place].by_scale[scale] for place in places]
    chosen = slopes.iloc[found]
    axes.set_xlim(*limits(chosen["gain"].tolist(), [*chosen["low"], *chosen["high"]]))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.5)
    zero_line(axes, vertical=True)
    is_heading = [not row.by_scale for row in rows]
    if has_labels:
        for place, row in enumerate(rows):
            # Anchored at the figure's edge, not at the axis: headings and rows are aligned to the left.
            axes.annotate(
                row.label, (0, place), xytext=(8 * row.is_indented - _left_points(axes), 0),
                xycoords=("axes fraction", "data"), textcoords="offset points", va="center", ha="left", fontsize=7,
                fontweight="bold" if is_heading[place] else "normal", annotation_clip=False,
            )  # fmt: skip
    kinds = chosen["group_kind"].tolist()
    colours = [
        GREY if variant != "primary" else PALETTE[0] if kind == "headline" else INK
        for kind, variant in zip(kinds, chosen["variant"], strict=True)
    ]
    y = np.array(places, dtype=float)
    axes.hlines(y, chosen["low"], chosen["high"], colors=colours, linewidth=1.0, zorder=3)
    for marker, wanted in (("D", True), ("o", False)):
        finite = [math.isfinite(gain) for gain in chosen["gain"]]
        which = [i for i, kind in enumerate(kinds) if (kind == "headline") == wanted and finite[i]]
        if which:
            marks = axes.scatter(
                chosen["gain"].to_numpy(float)[which], y[which], s=16, c=[colours[i] for i in which], marker=marker,
                linewidths=0, zorder=4,
            )  # fmt: skip
            marks.set_urls([subject.evidence.slope(found[i]) for i in which])
    axes.set_xlabel(SCALES[scale])
    low, high = DIRECTIONS[scale]
    for end, text, side in ((0.0, f"← {low}", "left"), (1.0, f"{high} →", "right")):
        axes.text(end, 1.01, text, transform=axes.transAxes, ha=side, va="bottom", fontsize=6.5, color=GREY)


def _left_points(axes: Axes) -> float:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return float((axes.get_position().x0 * figure.get_figwidth() - 0.06) * 72)

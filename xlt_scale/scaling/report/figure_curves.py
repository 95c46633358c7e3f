"""Learning curves: loss over the share of a phase's steps, rows are what is trained, columns sizes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from xlt_scale.scaling.report.drawing import Drawing
from xlt_scale.scaling.report.numbers import ordered
from xlt_scale.scaling.report.style import (
    GRID,
    INK,
    Look,
    Margins,
    arm_handles,
    legend_above,
    looks,
    panels,
    shorten,
)
from xlt_scale.scaling.report.subject import Subject

MOST_LINES = 400  # in all: beyond that, medians and bands
MOST_ROWS = 6
MOST_COLUMNS = 6
FEWER_COLUMNS = 4  # where sizes fill several rows
MOST_PANELS = 48
BINS = 40
INTERMEDIATE = "intermediate phases"


@dataclass(frozen=True)
class CurveTables:
    """Curves of single runs, and their spread.

    Attributes:
        spread: size, arm, target, share, low (10 %), median, high (90 %), num_records.
        records: names by size, target and arm.
    """

    curves: pd.DataFrame
    spread: pd.DataFrame
    records: Mapping[tuple[str, str, str], Sequence[str]]


def curve_tables(subject: Subject) -> CurveTables:
    """Losses at equal shares of the steps; runs that differ in their number of steps can be compared so."""
    curves = subject.analysis.results.curves
    curves = curves[curves["loss"].notna() & curves["share"].notna()]
    if curves.empty:
        return CurveTables(curves, pd.DataFrame(), {})
    bins = np.clip(np.ceil(curves["share"].to_numpy(float) * BINS), 1, BINS) / BINS
    keys = ["size", "arm", "target", "share"]
    grouped = curves.assign(share=bins).groupby(keys, sort=False, observed=True)
    quantiles = grouped["loss"].quantile([0.1, 0.5, 0.9]).unstack()
    quantiles.columns = pd.Index(["low", "median", "high"])
    spread = quantiles.assign(num_records=grouped["record"].nunique()).reset_index().sort_values(keys)
    heads = curves.drop_duplicates(["record", "size", "target", "arm"])
    by_place = heads.groupby(["size", "target", "arm"], sort=False)["record"].agg(list)
    records = {(str(size), str(target), str(arm)): names for (size, target, arm), names in by_place.items()}
    return CurveTables(curves, spread, records)


def learning_curves(subject: Subject, tables: CurveTables) -> Drawing | None:
    """Where a run never left its first loss, or an intermediate task only started it better."""
    curves = tables.curves
    if curves.empty:
        return None
    facts = subject.analysis.results.facts
    targets = ordered(curves["target"], ["", *(target.name for target in facts.targets)])
    sizes = ordered(curves["size"], subject.sizes)
    columns = len(sizes) if len(sizes) <= MOST_COLUMNS else FEWER_COLUMNS
    num_rows = math.ceil(len(sizes) / columns)  # of each target
    most = MOST_ROWS if num_rows == 1 else max(1, MOST_PANELS // (num_rows * columns))
    shown = targets[:most]
    arms = ordered(curves["arm"], [arm.name for arm in facts.arms])
    style = {facts.baseline: Look(INK, "", "-"), **subject.style}
    style = {**looks(arms), **style}
    num_curves = len(curves[["record", "phase"]].drop_duplicates())
    margins = Margins(bottom=0.42, between_columns=0.18, between_rows=0.32)
    height = 1.3 if len(shown) < 3 else 0.95
    figure, all_axes = panels(len(shown) * num_rows * columns, columns, height, margins)
    row_of = [*sizes, *[""] * (num_rows * columns - len(sizes))]
    places = [(size, target) for target in shown for size in row_of]
    has_lines = num_curves <= MOST_LINES
    for position, (axes, place) in enumerate(zip(all_axes, places, strict=True)):
        size, target = place
        if not size:
            axes.remove()
            continue
        _panel(axes, subject, tables, place, style, has_lines)
        name = shorten(target or INTERMEDIATE, 24)
        axes.set_title(f"{name}, {shorten(size, 16)}" if columns > 1 else name)
        axes.set(xlim=(0, 1), ylim=_loss_limits(tables, target, has_lines))
        _share_axis(
            axes, position % columns == 0, position + columns >= len(places) or not places[position + columns][0]
        )
    labels = [subject.arm_label(arm) for arm in arms]
    handles = arm_handles(arms, style)
    for handle in handles:
        handle.set_marker("")
    legend_above(figure, (handles, labels))
    others = ", ".join(targets[most:])
    left_out = f" Not shown: {others}; they are in tables/curves.csv." if others else ""
    what = (
        "Each line is a run."
        if has_lines
        else f"Lines are medians, bands hold 80 % of the runs ({num_curves:,} curves in all)."
    )
    caption = f"Training loss over the share of a phase's steps, a scale for each row. {what}{left_out}"
    ends = tables.spread[tables.spread["share"] == 1.0].groupby("arm", sort=False)["median"].mean()
    described = "Median loss at the end: " + ", ".join(f"{arm} {value:.2f}" for arm, value in ends.items()) + "."
    return Drawing("curves", "Learning curves", caption, described, figure)


def _share_axis(axes: Axes, is_first: bool, is_last: bool) -> None:
    """Labels at the figure's left and lower edges only."""
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.grid(color=GRID, linewidth=0.5)
    axes.tick_params(labelleft=is_first, labelbottom=is_last)
    if is_first:
        axes.set_ylabel("loss")
    if is_last:
        axes.set_xlabel("share of steps")
        # Turned inwards: the ends of neighbouring panels would run into one another.
        first, _, last = axes.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")


def _loss_limits(tables: CurveTables, target: str, has_lines: bool) -> tuple[float, float]:
    """The same for all sizes of a target."""
    if has_lines:
        losses = tables.curves["loss"][tables.curves["target"] == target]
        # One spike at the start must not flatten what follows.
        return min(0.0, float(losses.min())), max(float(losses.quantile(0.995)) * 1.08, 1e-6)
    spread = tables.spread[tables.spread["target"] == target]
    return min(0.0, float(spread["low"].min())), max(float(spread["high"].max()) * 1.08, 1e-6)


def _panel(
    axes: Axes,
    subject: Subject,
    tables: CurveTables,
    place: tuple[str, str],
    style: dict[str, Look],
    has_lines: bool,
) -> None:
    table = tables.curves if has_lines else tables.spread
    rows = table[(table["size"] == place[0]) & (table["target"] == place[1])]
    for arm, of_arm in rows.groupby("arm", sort=False):
        look = style[str(arm)]
        if has_lines:
            _lines(axes, subject, of_arm, look)
            continue
        of_arm = of_arm.sort_values("share")
        axes.fill_between(of_arm["share"], of_arm["low"], of_arm["high"], color=look.colour, alpha=0.12, linewidth=0)
        (line,) = axes.plot(of_arm["share"], of_arm["median"], color=look.colour, linestyle=look.dash, linewidth=1.1)
        title = f"learning curves of {arm}, {place[1] or INTERMEDIATE}, {place[0]}"
        line.set_url(subject.evidence.set_of(title, records=tables.records[(*place, str(arm))]))


def _lines(axes: Axes, subject: Subject, rows: pd.DataFrame, look: Look) -> None:
    lines, anchors = [], []
    for (record, _), of_run in rows.groupby(["record", "phase"], sort=False):
        of_run = of_run.sort_values("share")
        lines.append(of_run[["share", "loss"]].to_numpy(float))
        anchors.append(subject.evidence.record(str(record)) or None)
    collection = LineCollection(lines, colors=look.colour, linewidths=0.6, linestyles=[look.dash], alpha=0.75)
    collection.set_urls(anchors)
    axes.add_collection(collection)

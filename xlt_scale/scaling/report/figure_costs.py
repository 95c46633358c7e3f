"""Cost next to gain."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from xlt_scale.scaling.report.drawing import Drawing
from xlt_scale.scaling.report.numbers import seeds_by_size, signed
from xlt_scale.scaling.report.style import (
    GREY,
    GRID,
    Margins,
    arm_handles,
    legend_above,
    limits,
    panels,
    shorten,
    text_width,
    widest,
    zero_line,
)
from xlt_scale.scaling.report.subject import Subject

MOST_LEVEL_NAMES = 6
"""Names of more sizes stand upright below the axis."""


def costs(subject: Subject) -> Drawing | None:
    """Gains against what the intermediate training took, and the points that an hour buys."""
    table = subject.analysis.costs.reset_index(drop=True)
    table = table[(table["gpu_hours"] > 0) & table["gain"].notna()]
    if table.empty:
        return None
    unit = str(table["unit"].iloc[0])
    is_upright = len(subject.sizes) > MOST_LEVEL_NAMES
    names = [
        shorten(subject.short_sizes[size], 16 if is_upright else 40 // len(subject.sizes)) for size in subject.sizes
    ]
    margins = Margins(top=0.12, bottom=widest(names, 7) + 0.3 if is_upright else 0.45, between_columns=0.65)
    figure, (left, right) = panels(2, 2, 2.2, margins)
    _against_hours(left, subject, table, unit)
    _per_hour(right, subject, table, unit)
    right.set_xticks(range(len(names)), names, rotation=90 if is_upright else 0)
    labels = [subject.arm_label(arm) for arm in subject.arms]
    legend_above(figure, (arm_handles(subject.arms, subject.style, False), labels))
    headline = subject.analysis.groups[subject.analysis.groups["group_kind"] == "headline"]
    caption = (
        f"Left: headline gain, with 95 % intervals, against {unit} of the arm, sizes in grey. Right: points of gain "
        f"per {_one(unit)}, by size. Hours of different machines are not the same hours. Intermediate "
        f"seeds / run pairs: {seeds_by_size(headline, subject.sizes)}."
    )
    described = "; ".join(
        f"{row.arm} at {row.size}: {signed(row.gain)} points for {row.gpu_hours:.3g} {unit}"
        for row in table.itertuples()
    )
    return Drawing("costs", "What the gain costs", caption, described + ".", figure)


def _one(unit: str) -> str:
    return unit[:-1] if unit.endswith("hours") else unit


def _anchors(subject: Subject, rows: pd.DataFrame) -> list[str | None]:
    """The headline's group of each row: costs are of arms, whose evidence is their headline."""
    groups = subject.analysis.groups.reset_index(drop=True)
    headline = groups[groups["group_kind"] == "headline"]
    places = dict(zip(zip(headline["size"], headline["arm"], strict=True), headline.index, strict=True))
    keys = zip(rows["size"], rows["arm"], strict=True)
    return [subject.evidence.group(places[key]) if key in places else None for key in keys]


def _against_hours(axes: Axes, subject: Subject, table: pd.DataFrame, unit: str) -> None:
    axes.set_xscale("log")
    low, high = math.log10(table["gpu_hours"].min()), math.log10(table["gpu_hours"].max())
    pad = max(0.08 * (high - low), 0.15)
    axes.set_xlim(10 ** (low - pad), 10 ** (high + pad))
    axes.set_ylim(*limits(table["gain"].tolist(), [*table["low"], *table["high"]]))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high - low > 1 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=f"{unit} (log scale)", ylabel="gain (points)")
    axes.grid(color=GRID, linewidth=0.5)
    zero_line(axes)
    for arm in subject.arms:
        rows = table[table["arm"] == arm]
        if rows.empty:
            continue
        look = subject.style[arm]
        axes.vlines(rows["gpu_hours"], rows["low"], rows["high"], color=look.colour, linewidth=0.9, zorder=3)
        marks = axes.scatter(
            rows["gpu_hours"], rows["gain"], s=18, c=look.colour, marker=look.marker, linewidths=0, zorder=4
        )
        marks.set_urls(_anchors(subject, rows))
    ends = table["high"].fillna(table["gain"])
    taken: list[tuple[float, float, float]] = []
    for size in subject.sizes:
        of_size = ends[table["size"] == size]
        if len(of_size):
            # Above all arms of the size, where nothing else is drawn; not over the name of another size.
            place = (float(table["gpu_hours"][of_size.idxmax()]), float(of_size.max()))
            if not _is_free(axes, place, subject.short_sizes[size], taken):
                continue
            axes.annotate(
                subject.short_sizes[size], place, xytext=(0, 3), textcoords="offset points", fontsize=6.5, color=GREY,
                ha="center", va="bottom", zorder=5,
            )  # fmt: skip


def _is_free(axes: Axes, place: tuple[float, float], text: str, taken: list[tuple[float, float, float]]) -> bool:
    """Whether a name fits there; those that do are remembered as centre and half width in inches."""
    box = axes.get_window_extent()
    figure = axes.get_figure()
    dots = figure.dpi if figure is not None else 100.0
    x, y = (axes.transData.transform(place) - (box.x0, box.y0)) / dots
    half = text_width(text, 6.5) / 2 + 0.02
    if any(abs(x - other) < half + width and abs(y - level) < 0.12 for other, level, width in taken):
        return False
    taken.append((float(x), float(y), half))
    return True


def _per_hour(axes: Axes, subject: Subject, table: pd.DataFrame, unit: str) -> None:
    values = table["points_per_gpu_hour"]
    finite = values[values.notna()]
    # Sizes differ by orders of magnitude; a log scale shows them unless some gain is a loss.
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 15:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(*limits(finite.tolist(), []))
        zero_line(axes)
    count = max(len(subject.arms), 1)
    for place, arm in enumerate(subject.arms):
        rows = table[(table["arm"] == arm) & values.notna()]
        if rows.empty:
            continue
        look = subject.style[arm]
        shift = (place - (count - 1) / 2) * min(0.12, 0.7 / count)
        x = [subject.sizes.index(size) + shift for size in rows["size"]]
        marks = axes.scatter(
            x, rows["points_per_gpu_hour"], s=18, c=look.colour, marker=look.marker, linewidths=0, zorder=4
        )
        marks.set_urls(_anchors(subject, rows))
    axes.set_xlabel("size")
    axes.set_xlim(-0.6, len(subject.sizes) - 0.4)
    axes.set_ylabel(f"points per {_one(unit)}")
    axes.grid(axis="y", color=GRID, linewidth=0.5)

"""Gains by arm and task: a heat map per size, values printed."""

import math
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from xlt_scale.scaling.report.drawing import Drawing
from xlt_scale.scaling.report.numbers import seeds_by_size, signed
from xlt_scale.scaling.report.style import GREY, GRID, Margins, grow_top, panels, shorten, widest
from xlt_scale.scaling.report.subject import Subject

# On coloured cells, whatever the page's own colours are: not the ink that the style sheet replaces.
DARK_TEXT, LIGHT_TEXT, HATCH = "#000001", "#fffffd", "#44444a"
COLOURS = matplotlib.colormaps["RdBu"]
STEPS = 20


@dataclass(frozen=True)
class HeatCell:
    """One square."""

    row: int
    column: int
    gain: float
    is_same_data: bool
    anchor: str


_Key = tuple[str, str, str]
"""Size, arm, task."""
_Gain = tuple[float, bool, str]
"""Gain, whether arm and target share data, anchor."""


def heat_maps(subject: Subject) -> Drawing | None:
    """Rows are arms and columns tasks; with a single arm, rows are sizes of one map."""
    is_by_size = len(subject.arms) == 1
    titles = [subject.arm_label(subject.arms[0])] if is_by_size else [subject.size_label(s) for s in subject.sizes]
    row_names = list(subject.sizes) if is_by_size else [subject.arm_label(arm) for arm in subject.arms]
    maps: list[list[HeatCell]] = [[] for _ in titles]
    gains = {**_left_out(subject), **_in_means(subject)}
    for s, size in enumerate(subject.sizes):
        for a, arm in enumerate(subject.arms):
            row, place = (s, 0) if is_by_size else (a, s)
            for column, task in enumerate(subject.tasks):
                if (size, arm, task) in gains:
                    gain, is_same_data, anchor = gains[(size, arm, task)]
                    maps[place].append(HeatCell(row, column, gain, is_same_data, anchor))
    known = [cell.gain for cells in maps for cell in cells if math.isfinite(cell.gain)]
    if not known:
        return None
    # One collapsed run must not bleach all other cells.
    bound = max(float(np.quantile(np.abs(known), 0.97)), 0.5)
    has_shared = any(cell.is_same_data for cells in maps for cell in cells)
    groups = subject.analysis.groups
    seeds = seeds_by_size(groups[groups["group_kind"] == "task"], subject.sizes)
    hatched = "Hatched: arm and target share data, so the cell is in no mean. " if has_shared else ""
    caption = (
        "Gain in points, the mean over zero-shot languages of a task. Colours are cut at "
        f"±{bound:.1f} points. {hatched}Empty: no runs. Intermediate seeds / run pairs: "
        f"{seeds}. Many cells are shown at once: read a single one with its corrected p in the tables."
    )
    described = f"{len(known)} gains by arm and task, from {signed(min(known))} to {signed(max(known))} points."
    figure = _drawn(subject, titles, row_names, maps, bound)
    return Drawing("gain-by-task", "Gain by intermediate task and target", caption, described, figure)


def _in_means(subject: Subject) -> dict[_Key, _Gain]:
    """Gains that the analysis averaged."""
    groups = subject.analysis.groups
    found: dict[_Key, _Gain] = {}
    for position in np.flatnonzero(groups["group_kind"] == "task"):
        row = groups.iloc[position]
        if math.isfinite(row["gain"]):
            anchor = subject.evidence.group(int(position))
            found[(row["size"], row["arm"], row["group"])] = (float(row["gain"]), False, anchor)
    return found


def _left_out(subject: Subject) -> dict[_Key, _Gain]:
    """Gains of cells that share data, by the same rule: zero-shot languages where there are any."""
    cells = subject.analysis.cells.reset_index(drop=True)
    shared = cells[cells["same_data"].fillna("") != ""]
    found: dict[_Key, _Gain] = {}
    for (size, arm, task), rows in shared.groupby(["size", "arm", "task"], sort=False):
        zero_shot = rows[~rows["is_trained_language"].astype(bool)]
        gain = float((zero_shot if len(zero_shot) else rows)["gain"].mean())
        why = f"arm and target share data ({rows['same_data'].iloc[0]})"
        anchor = subject.evidence.set_of(f"{arm}, {task}, {size}: {signed(gain)} points; {why}", cells=rows.index)
        found[(str(size), str(arm), str(task))] = (gain, True, anchor)
    return found


def _drawn(
    subject: Subject, titles: list[str], row_names: list[str], maps: list[list[HeatCell]], bound: float
) -> Figure:
    tasks = [shorten(task, 28) for task in subject.tasks]
    names = widest(row_names, 7) + 0.12
    columns = 2 if len(titles) > 1 and len(tasks) <= 10 else 1
    across = (7.0 - names - 0.1 - (columns - 1) * 0.25) / columns
    # Cells of a short row are no wider than they need be: a single task must not become a banner.
    least = 1.12 * widest([shorten(title, 40) for title in titles]) + 0.1 if columns > 1 else 0.0  # titles are bold
    square = min(across / len(tasks), max(0.8, least / len(tasks)))
    is_slanted = widest(tasks, 7) > square - 0.04
    below = (widest(tasks, 7) if is_slanted else 0.1) + 0.12
    high = 0.2
    margins = Margins(names, 7.0 - names - columns * square * len(tasks) - (columns - 1) * 0.25, 0.25, below, 0.25, 0.3)
    figure, all_axes = panels(len(titles), columns, high * len(row_names), margins)
    for position, (axes, title, cells) in enumerate(zip(all_axes, titles, maps, strict=True)):
        axes.set_title(shorten(title, 40))
        axes.set(xlim=(0, len(tasks)), ylim=(len(row_names), 0))
        for side in axes.spines.values():
            side.set_visible(False)
        is_last = position >= len(titles) - columns
        axes.set_xticks(np.arange(len(tasks)) + 0.5, tasks if is_last else [""] * len(tasks))
        axes.set_yticks(
            np.arange(len(row_names)) + 0.5, row_names if position % columns == 0 else [""] * len(row_names)
        )
        axes.tick_params(length=0)
        if is_slanted and is_last:
            axes.tick_params(axis="x", labelrotation=90)
        _squares(axes, cells, bound, square, (len(row_names), len(tasks)))
    _scale(figure, bound, any(cell.is_same_data for cells in maps for cell in cells))
    return figure


def _squares(axes: Axes, cells: list[HeatCell], bound: float, inches: float, shape: tuple[int, int]) -> None:
    frame = [_square(row, column) for row in range(shape[0]) for column in range(shape[1])]
    axes.add_collection(PolyCollection(frame, facecolors="none", edgecolors=GRID, linewidths=0.5))
    if not cells:
        return
    colours = [COLOURS(0.5 + 0.5 * max(-1.0, min(1.0, cell.gain / bound))) for cell in cells]
    squares = PolyCollection([_square(cell.row, cell.column) for cell in cells], facecolors=colours, linewidths=0)
    squares.set_urls([cell.anchor for cell in cells])
    axes.add_collection(squares)
    shared = [_square(cell.row, cell.column) for cell in cells if cell.is_same_data]
    if shared:
        axes.add_collection(
            PolyCollection(shared, facecolors="none", edgecolors=HATCH, hatch="////", linewidths=0, hatchcolors=[HATCH])
        )
    size = 6.5 if inches >= 0.34 else 5.5
    digits = 1 if inches >= 0.28 else 0
    for cell, colour in zip(cells, colours, strict=True):
        red, green, blue = colour[:3]
        is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        text = axes.text(
            cell.column + 0.5, cell.row + 0.53, signed(cell.gain, digits), ha="center", va="center", fontsize=size,
            color=LIGHT_TEXT if is_dark else DARK_TEXT,
        )  # fmt: skip
        if cell.is_same_data:
            text.set_bbox({"facecolor": colour, "linewidth": 0, "pad": 0.6})


def _square(row: int, column: int) -> list[tuple[float, float]]:
    edge = 0.02
    left, right, top, bottom = column + edge, column + 1 - edge, row + edge, row + 1 - edge
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _scale(figure: Figure, bound: float, has_shared: bool) -> None:
    """The colours' scale as a legend: steps, not a picture of pixels."""
    grow_top(figure, 0.3)
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0.9 / width, 1 - 0.2 / height, 1.6 / width, 0.1 / height))
    edges = np.linspace(-bound, bound, STEPS + 1)
    boxes = [[(a, 0.0), (b, 0.0), (b, 1.0), (a, 1.0)] for a, b in pairwise(edges)]
    colours = [COLOURS((step + 0.5) / STEPS) for step in range(STEPS)]
    axes.add_collection(PolyCollection(boxes, facecolors=colours, edgecolors=colours, linewidths=0.2))
    axes.set(xlim=(-bound, bound), ylim=(0, 1), yticks=[])
    axes.set_xticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    for x, text, place in ((0.0, f"{signed(-bound)} ", "right"), (1.0, f" {signed(bound)} points", "left")):
        axes.text(x, 0.45, text, ha=place, va="center", fontsize=7, transform=axes.transAxes)
    if not has_shared:
        return
    handle = [Patch(facecolor="none", edgecolor=GREY, hatch="//////", linewidth=0.5)]
    figure.legend(
        handle, ["shares data"], loc="upper left", bbox_to_anchor=(3.6 / width, 1 - 0.05 / height), borderpad=0.1
    )

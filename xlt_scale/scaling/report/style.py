"""How figures look: colours, markers, type, panels laid out in inches.

Colours are Okabe and Ito's; each arm and family has a marker of its own as well, so that nothing rests on colour. Ink,
grey, grid and paper are exact values that the page's style sheet replaces in the dark.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

INK, GREY, GRID, PAPER = "#1b1b1f", "#6a6a72", "#dcdce2", "#fffffe"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h", "*", "d", "H", "8")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
WIDTH = 7.0  # inches: the width of a page's text
SIZE = 8.0  # points

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.labelsize": SIZE,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,  # names of tasks may hold dollar signs
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.3,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and dash of one arm or family."""

    colour: str
    marker: str
    dash: Any


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look of its own for each name, always the same for the same list."""
    return {
        name: Look(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], DASHES[(i // len(PALETTE) + i) % len(DASHES)])
        for i, name in enumerate(names)
    }


def shorten(text: str, length: int = 30) -> str:
    """Cut in the middle, where names of tasks and arms differ least."""
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


@lru_cache(maxsize=4096)
def text_width(text: str, size: float = SIZE) -> float:
    """Inches."""
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "text.parse_math": False}):
        path = TextPath((0, 0), text.replace("$", "S"), size=size)
    return float(path.get_extents().x1) / 72 if len(path.vertices) else 0.0


def widest(texts: Sequence[str], size: float = SIZE) -> float:
    """Inches of the longest."""
    return max((text_width(text, size) for text in texts), default=0.0)


@dataclass(frozen=True)
class Margins:
    """Inches around all panels and between them."""

    left: float = 0.55
    right: float = 0.1
    top: float = 0.28
    bottom: float = 0.5
    between_columns: float = 0.45
    between_rows: float = 0.6


def panels(
    count: int, columns: int, height: float, margins: Margins, width: float = WIDTH
) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels in rows, left to right."""
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    across = (width - margins.left - margins.right - (columns - 1) * margins.between_columns) / columns
    total = margins.top + margins.bottom + rows * height + (rows - 1) * margins.between_rows
    figure = Figure(figsize=(width, total))
    axes = []
    for position in range(count):
        row, column = divmod(position, columns)
        left = margins.left + column * (across + margins.between_columns)
        bottom = total - margins.top - (row + 1) * height - row * margins.between_rows
        axes.append(figure.add_axes((left / width, bottom / total, across / width, height / total)))
    return figure, axes


def zero_line(axes: Axes, vertical: bool = False) -> None:
    """No gain: the line that everything is compared with."""
    draw = axes.axvline if vertical else axes.axhline
    draw(0, color=GREY, linewidth=0.8, zorder=1)


def legend_above(figure: Figure, *blocks: tuple[Sequence[Any], Sequence[str]]) -> None:
    """Legends in rows above the panels, each block on rows of its own; the figure grows by what they need."""
    placed: list[tuple[Sequence[Any], Sequence[str], int, int]] = []
    width = figure.get_size_inches()[0]
    for handles, labels in blocks:
        if handles:
            per_row = max(1, min(len(labels), int((width - 0.15) / (widest(labels, 7.5) + 0.48))))
            placed.append((handles, labels, per_row, math.ceil(len(labels) / per_row)))
    grow_top(figure, 0.17 * sum(rows for *_, rows in placed) + 0.05)
    height, above = figure.get_size_inches()[1], 0.0
    for handles, labels, per_row, rows in placed:
        # Matplotlib fills columns; readers read rows.
        order = [place for column in range(per_row) for place in range(column, len(labels), per_row)]
        figure.legend(
            [handles[place] for place in order], [labels[place] for place in order], loc="upper left",
            bbox_to_anchor=(0.03 / width, 1 - above / height), ncols=per_row, borderpad=0.1, borderaxespad=0.3,
            handlelength=2.2, columnspacing=1.2, labelspacing=0.35, handletextpad=0.5,
        )  # fmt: skip
        above += 0.17 * rows


def grow_top(figure: Figure, inches: float) -> None:
    """More room above the panels, which keep their size."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + inches)
    scale = height / (height + inches)
    for axes in figure.axes:
        box = axes.get_position()
        axes.set_position((box.x0, box.y0 * scale, box.width, box.height * scale))


def arm_handles(arms: Sequence[str], style: Mapping[str, Look], line: bool = True) -> list[Line2D]:
    """Legend entries of arms."""
    return [
        Line2D([], [], color=style[arm].colour, marker=style[arm].marker, markersize=4,
               linestyle=style[arm].dash if line else "none", linewidth=1.2)
        for arm in arms
    ]  # fmt: skip


def limits(values: Sequence[float], ends: Sequence[float], include: float | None = 0.0) -> tuple[float, float]:
    """Limits that show all values and their intervals, but no interval that would squeeze the values together.

    An interval with one degree of freedom can be a hundred times as wide as what it is about.
    """
    known = np.array([value for value in values if math.isfinite(value)])
    if include is not None:
        known = np.append(known, include)
    if not len(known):
        return -1.0, 1.0
    low, high = float(known.min()), float(known.max())
    reach = max(high - low, 1e-9 if include is None else 0.5)
    known_ends = [value for value in ends if math.isfinite(value)]
    low = max(min([low, *known_ends]), low - reach)
    high = min(max([high, *known_ends]), high + reach)
    pad = max(0.07 * (high - low), 1e-6)
    return low - pad, high + pad

"""Languages: what the baseline scores against what the intermediate task adds, a panel per size."""

from collections import Counter
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from xlt_scale.scaling.report.drawing import Drawing
from xlt_scale.scaling.report.numbers import seeds_by_size, signed
from xlt_scale.scaling.report.style import (
    GREY,
    GRID,
    PALETTE,
    Margins,
    legend_above,
    limits,
    panels,
    shorten,
    zero_line,
)
from xlt_scale.scaling.report.subject import Subject

MOST_MARKS = 1500
MOST_FAMILIES = 6  # colours that can be told apart, and one for the rest
LEVELS = (
    (["size", "arm", "target", "task", "language"], "A mark is a language of a task and arm."),
    (["size", "task", "language"], "A mark is a language of a task, the mean over arms."),
    (["size", "language"], "A mark is a language, the mean over arms and tasks."),
)
STATUSES = {
    "seen in pre-training": "o",
    "not seen": "^",
    "not known": "s",
    "trained in this language": "D",
}


@dataclass(frozen=True)
class Marks:
    """The points of the figure.

    Attributes:
        table: size, language, family, status, base, gain, anchor.
    """

    table: pd.DataFrame
    meaning: str


def languages(subject: Subject) -> Drawing | None:
    """Who profits: languages that the baseline does badly, or those that it knows."""
    cells = subject.analysis.cells.reset_index(drop=True)
    cells = cells[(cells["same_data"].fillna("") == "") & cells["gain"].notna() & cells["base"].notna()]
    if len(cells) < 3:
        return None
    marks = _marks(subject, cells)
    table = marks.table
    families = [name for name, _ in sorted(Counter(table["family"]).items(), key=lambda pair: (-pair[1], pair[0]))]
    named = families if len(families) <= MOST_FAMILIES else families[: MOST_FAMILIES - 1]
    colours = {name: PALETTE[place] for place, name in enumerate(named)}
    columns = min(len(subject.sizes), 4 if len(subject.sizes) in (4, 7, 8) else 3)
    margins = Margins(bottom=0.42, between_columns=0.15, between_rows=0.62)
    figure, all_axes = panels(len(subject.sizes), columns, 1.9 if columns > 2 else 2.4, margins)
    x_range = limits(table["base"].tolist(), [], include=None)
    y_range = limits(table["gain"].tolist(), [])
    for position, (axes, size) in enumerate(zip(all_axes, subject.sizes, strict=True)):
        axes.set_title(shorten(subject.size_label(size), 40))
        axes.set(xlim=x_range, ylim=y_range)
        axes.xaxis.set_major_locator(MaxNLocator(4))  # longer numbers would run into one another
        axes.grid(color=GRID, linewidth=0.5)
        if position % columns == 0:
            axes.set_ylabel("gain (points)")
        else:
            axes.tick_params(labelleft=False)
        if position >= len(subject.sizes) - columns:
            axes.set_xlabel("score of the baseline")
        zero_line(axes)
        _scatter(axes, table[table["size"] == size], colours)
    statuses = [status for status in STATUSES if (table["status"] == status).any()]
    family_keys = [_key(colours[name], "o") for name in named]
    family_names = [shorten(name, 24) for name in named]
    if len(named) < len(families):
        family_keys.append(_key(GREY, "o"))
        family_names.append(f"{len(families) - len(named)} other families")
    status_keys = [_key(GREY, STATUSES[status], False) for status in statuses]
    legend_above(figure, (family_keys, family_names), (status_keys, statuses))
    caption = (
        f"{marks.meaning} Cells whose arm and target share data are left out. Baseline and gain share the baseline's "
        "noise, which alone tilts such a cloud downwards. Intermediate seeds / run pairs: "
        f"{seeds_by_size(cells, subject.sizes)}. Languages are a fixed list, not a sample of all."
    )
    by_family = table.groupby("family")["gain"].mean()
    described = "Mean gain by family: " + ", ".join(f"{name} {signed(by_family[name])}" for name in families) + "."
    return Drawing("languages", "Gain by language against the baseline's score", caption, described, figure)


def _marks(subject: Subject, cells: pd.DataFrame) -> Marks:
    """Cells, or means over arms and tasks where cells are too many to be looked at."""
    keys, meaning = next(
        (level for level in LEVELS if len(cells[level[0]].drop_duplicates()) <= MOST_MARKS), LEVELS[-1]
    )
    is_single = keys is LEVELS[0][0]
    rows = []
    for key, chosen in cells.groupby(keys, sort=False):
        first = chosen.iloc[0]
        gain, base = float(chosen["gain"].mean()), float(chosen["base"].mean())
        if is_single:
            anchor = subject.evidence.cell(int(chosen.index[0]))
        else:
            title = f"{', '.join(map(str, key[1:]))}, {key[0]}: {signed(gain)} points over {len(chosen)} cells"
            anchor = subject.evidence.set_of(title, cells=chosen.index)
        is_trained = bool(chosen["is_trained_language"].astype(bool).all())
        status = _status(first["is_seen"], is_trained)
        rows.append((first["size"], first["language"], first["language_family"], status, base, gain, anchor))
    columns = ["size", "language", "family", "status", "base", "gain", "anchor"]
    return Marks(pd.DataFrame(rows, columns=columns), meaning)


def _status(is_seen: object, is_trained: bool) -> str:
    if is_trained:
        return "trained in this language"
    if is_seen is None or pd.isna(is_seen):  # type: ignore[call-overload]
        return "not known"
    return "seen in pre-training" if is_seen else "not seen"


def _scatter(axes: Axes, rows: pd.DataFrame, colours: dict[str, str]) -> None:
    for status, marker in STATUSES.items():
        chosen = rows[rows["status"] == status]
        if len(chosen):
            edges = [colours.get(family, GREY) for family in chosen["family"]]
            # Hollow marks show each other where they lie close, as languages do.
            marks = axes.scatter(
                chosen["base"], chosen["gain"], s=15, marker=marker, facecolors=[f"{edge}59" for edge in edges],
                edgecolors=edges, linewidths=0.7, zorder=3,
            )  # fmt: skip
            marks.set_urls(chosen["anchor"].tolist())


def _key(colour: str, marker: str, is_filled: bool = True) -> Line2D:
    face = colour if is_filled else "none"
    return Line2D([], [], linestyle="none", marker=marker, markersize=4.5, markerfacecolor=face, markeredgecolor=colour)

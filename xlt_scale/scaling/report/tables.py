"""Tables as the page shows them, as CSV with all digits, as LaTeX for a paper."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xlt_scale.scaling.report.numbers import MINUS, significant

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    MINUS: "$-$",
    "\N{NO-BREAK SPACE}": "~",
    "\N{EN DASH}": "--",
    "→": r"$\rightarrow$",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
}
MOST_TABULAR_ROWS = 45  # more do not fit on a page
MOST_SHOWN_ROWS = 400


@dataclass(frozen=True)
class Cell:
    """Text, and the anchor of what is behind it."""

    text: str
    anchor: str = ""
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        name: of its files.
        rows: as shown.
        anchors: ids of rows, where the page has such places without its script.
        raw: what the CSV holds, with all digits; the shown rows where None.
        is_open: whether it is unfolded at first.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    anchors: tuple[str, ...] = ()
    raw: pd.DataFrame | None = field(default=None, repr=False)
    is_open: bool = True

    @property
    def shown_rows(self) -> tuple[tuple[Cell, ...], ...]:
        return self.rows[:MOST_SHOWN_ROWS]

    @property
    def is_number_column(self) -> tuple[bool, ...]:
        """Columns that are aligned to the right."""
        return tuple(
            bool(self.rows) and all(row[place].is_number for row in self.rows) for place in range(len(self.columns))
        )


def table_of_frame(name: str, title: str, caption: str, frame: pd.DataFrame, is_open: bool = True) -> Table:
    """A data frame as it is, numbers shortened."""
    rows = tuple(tuple(cell_of(value) for value in row) for row in frame.itertuples(index=False, name=None))
    columns = tuple(str(column).replace("_", " ") for column in frame.columns)
    return Table(name, title, caption, columns, rows, raw=frame, is_open=is_open)


def cell_of(value: Any) -> Cell:
    """Any value of a data frame in a reader's form."""
    if isinstance(value, bool | np.bool_):
        return Cell("yes" if value else "no")
    if isinstance(value, int | float | np.number):
        return Cell(significant(float(value)), is_number=True)
    if value is None or value is pd.NA or value is pd.NaT:
        return Cell("")
    if isinstance(value, list | tuple | set | np.ndarray):
        return Cell(", ".join(str(part) for part in value))
    return Cell(str(value))


def write_table(table: Table, folder: Path) -> None:
    """Writes `<name>.csv` and `<name>.tex`."""
    folder.mkdir(parents=True, exist_ok=True)
    if table.raw is not None:
        write_csv(table.raw, folder / f"{table.name}.csv")
    else:
        with (folder / f"{table.name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(table.columns)
            writer.writerows([cell.text for cell in row] for row in table.rows)
    (folder / f"{table.name}.tex").write_text(latex(table), encoding="utf-8", newline="\n")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """A data frame as CSV; lists of a cell joined by spaces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = frame.copy(deep=False)
    for column in flat.columns:
        values = flat[column]
        if values.dtype == object and len(values) and isinstance(values.iloc[0], list | tuple | np.ndarray):
            flat[column] = [_joined(value) for value in values]
    flat.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def _joined(values: Sequence[Any]) -> str:
    return " ".join("/".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values)


def latex(table: Table) -> str:
    """A booktabs table; a longtable where it does not fit on a page."""
    columns = "".join("r" if is_number else "l" for is_number in table.is_number_column) or "l"
    head = " & ".join(rf"\textbf{{{latex_text(column)}}}" for column in table.columns) + r" \\"
    body = [" & ".join(latex_text(cell.text) for cell in row) + r" \\" for row in table.rows]
    caption = rf"\caption{{{latex_text(f'{table.title}. {table.caption}'.strip())}}}"
    label = rf"\label{{tab:{table.name}}}"
    if len(body) > MOST_TABULAR_ROWS:
        start = [r"% needs: booktabs, longtable", rf"\begin{{longtable}}{{{columns}}}", caption, label + r"\\"]
        repeat = [r"\toprule", head, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"]
        return "\n".join([*start, *repeat, *body, r"\end{longtable}", ""])
    start = [r"% needs: booktabs", r"\begin{table}", r"\centering", caption, label, rf"\begin{{tabular}}{{{columns}}}"]
    end = [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join([*start, r"\toprule", head, r"\midrule", *body, *end])


def latex_text(text: str) -> str:
    """Text as it looks; a bracket at the start of a row would be an option of the line break before it."""
    escaped = "".join(LATEX_SPECIAL.get(character, character) for character in text)
    return "{[}" + escaped[1:] if escaped.startswith("[") else escaped


def number(text: str, anchor: str = "") -> Cell:
    """A cell that is aligned as a number."""
    return Cell(text, anchor, True)


def whole(value: float) -> Cell:
    """A count."""
    return number(f"{round(value):,}" if math.isfinite(value) else "")

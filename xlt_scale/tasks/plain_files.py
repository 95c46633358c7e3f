"""Formats of plain lines: raw text, text with its translation, and HellaSwag as text."""

from pathlib import Path
from typing import Any

from xlt_scale.errors import UserError
from xlt_scale.tasks.layouts import Columns
from xlt_scale.tasks.records import ColumnRecords, Records
from xlt_scale.tasks.text_files import lines_of

TEXT_COLUMNS = Columns(text="text")
TEXT_PAIR_COLUMNS = Columns(text="text", text_pair="pair")
HELLASWAG_COLUMNS = Columns(text="context", choices="endings", label="label")

_LINES_PER_ITEM = 6


def read_text(path: Path) -> Records:
    """The lines of a file that are not blank, in the column text."""
    lines = lines_of(path)
    numbers = [number for number, line in enumerate(lines, start=1) if line and not line.isspace()]
    return ColumnRecords(str(path), "line", numbers, {"text": [lines[number - 1] for number in numbers]})


def read_text_pair(path: Path, pair_path: Path) -> Records:
    """The lines of two files that translate each other, in the columns text and pair.

    Raises:
        UserError: the files differ in their number of lines.
    """
    lines, pairs = lines_of(path), lines_of(pair_path)
    if len(lines) != len(pairs):
        raise UserError(
            f"{path} has {len(lines)} lines but {pair_path.name} has {len(pairs)}: "
            "line i of one must translate line i of the other"
        )
    return ColumnRecords(str(path), "line", range(1, len(lines) + 1), {"text": lines, "pair": pairs})


def read_hellaswag_text(path: Path) -> Records:
    """Items of six lines: activity and context, the number of the right ending from 0, and four endings.

    The activity, which the text puts before the context with a colon, stays: it is part of what is asked.

    Raises:
        UserError: the number of lines is no multiple of six, or a second line is no number from 0 to 3.
    """
    lines = lines_of(path)
    if len(lines) % _LINES_PER_ITEM:
        raise UserError(f"{path}: {len(lines)} lines are no whole number of items of six lines; is the file whole?")
    labels = lines[1::_LINES_PER_ITEM]
    for number, label in enumerate(labels):
        if label not in ("0", "1", "2", "3"):
            line = number * _LINES_PER_ITEM + 2
            raise UserError(f"{path}, line {line}: {label!r} is no number of an ending from 0 to 3; is a line missing?")
    endings = [list(four) for four in zip(*(lines[place::_LINES_PER_ITEM] for place in range(2, 6)), strict=True)]
    columns: dict[str, list[Any]] = {"context": lines[0::_LINES_PER_ITEM], "endings": endings, "label": labels}
    return ColumnRecords(str(path), "line", range(1, len(lines) + 1, _LINES_PER_ITEM), columns)

"""Records: the rows of one file or hub data set, read column by column, because that is fast."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from xlt_scale.errors import UserError, nearest
from xlt_scale.tasks.layouts import Column


class Records(ABC):
    """Rows of one origin.

    Attributes:
        source: the file, or "hub dataset <name>"; errors begin with it.
        unit: what a row is called ("line", "question").
        marks: each row's line number or name.
        class_names: the names of the classes of a column, where the origin knows them.
    """

    class_names: Mapping[str, Sequence[str]] = {}

    def __init__(self, source: str, unit: str, marks: Sequence[Any]) -> None:
        self.source, self.unit, self.marks = source, unit, marks

    def __len__(self) -> int:
        return len(self.marks)

    def place(self, number: int) -> str:
        """Where a row is, for an error."""
        return f"{self.source}, {self.unit} {self.marks[number]!r}"

    @abstractmethod
    def column(self, name: str | int) -> list[Any]:
        """One whole column; a row that lacks it is a `UserError`."""


class LineRecords(Records):
    """Rows that are lists of texts, with or without names for their columns."""

    def __init__(self, source: str, rows: list[list[str]], marks: Sequence[Any], names: Sequence[str] | None) -> None:
        super().__init__(source, "line", marks)
        self.rows, self.names = rows, names

    def column(self, name: str | int) -> list[str]:
        place = self._number(name)
        try:
            return [row[place] for row in self.rows]
        except IndexError:
            number = next(n for n, row in enumerate(self.rows) if not -len(row) <= place < len(row))
        if self.names is None:
            problem = f"column {name!r} is missing; the row has {len(self.rows[number])} columns"
        else:
            there = ", ".join(self.names[: len(self.rows[number])])
            problem = f"no column {name!r}; the row has: {there}"
        raise UserError(f"{self.place(number)}: {problem}")

    def _number(self, name: str | int) -> int:
        if self.names is not None and name in self.names:
            return self.names.index(str(name))
        if isinstance(name, int):
            return name
        if self.names is not None:
            raise UserError(f"{self.source}: no column {name!r}; {nearest(name, self.names)}")
        if name.lstrip("-").isdecimal():
            return int(name)
        raise UserError(f"{self.source}: no column {name!r}; number the columns from 0, or set header = true")


class ObjectRecords(Records):
    """Rows that are objects, as JSON has them."""

    def __init__(self, source: str, unit: str, rows: list[dict[str, Any]], marks: Sequence[Any]) -> None:
        super().__init__(source, unit, marks)
        self.rows = rows

    def column(self, name: str | int) -> list[Any]:
        key = str(name)
        try:
            return [row[key] for row in self.rows]
        except KeyError:
            path = key.split(".")
        values = []
        for number, row in enumerate(self.rows):
            try:
                values.append(row[key] if key in row else descend(row, path))
            except KeyError:
                raise UserError(f"{self.place(number)}: no column {key!r}; the row has: {', '.join(row)}") from None
        return values


class ColumnRecords(Records):
    """Rows that are kept as columns already."""

    def __init__(self, source: str, unit: str, marks: Sequence[Any], columns: Mapping[str, list[Any]]) -> None:
        super().__init__(source, unit, marks)
        self.columns = columns

    def column(self, name: str | int) -> list[Any]:
        return self.columns[str(name)]


def descend(value: Any, path: Sequence[str]) -> Any:
    """What lies at a path of keys in nested JSON; through a list, the list of what lies there in each item.

    Raises:
        KeyError: there is no such key.
    """
    for position, key in enumerate(path):
        if isinstance(value, list):
            return [descend(item, path[position:]) for item in value]
        if not isinstance(value, dict):
            raise KeyError(key)
        value = value[key]
    return value


def spelling(value: Any) -> str:
    """A value as text, as it would stand in a file: numbers in decimal, true and false, nothing as ''."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def texts_of(records: Records, column: Column, replaced: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A column as texts, one per row.

    Args:
        column: by name or number; a list of them is joined by a space, empty ones left out.
        replaced: column -> {value: text that stands for it}.

    Raises:
        UserError: a row lacks the column, or holds something there that is no text.
    """
    if isinstance(column, list):
        parts = [texts_of(records, part, replaced) for part in column]
        return [" ".join(filter(None, row)) for row in zip(*parts, strict=True)]
    values = records.column(column)
    if not set(map(type, values)) <= {str}:
        values = [_text(records, column, number, value) for number, value in enumerate(values)]
    meanings = replaced.get(str(column))
    return values if meanings is None else [meanings.get(value, value) for value in values]


def _text(records: Records, column: str | int, number: int, value: Any) -> str:
    if isinstance(value, list | dict):
        raise UserError(
            f"{records.place(number)}: column {column!r} holds a {'list' if isinstance(value, list) else 'table'}, "
            "not a text; name what is in it, as in 'question.stem'"
        )
    return spelling(value)

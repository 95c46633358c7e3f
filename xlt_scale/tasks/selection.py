"""The rows of some records that count: what a declaration keeps and drops."""

from collections.abc import Sequence
from typing import Any

from xlt_scale.tasks.layouts import Column, Columns
from xlt_scale.tasks.records import Records, spelling, texts_of


class Selection:
    """Some rows of records, in their order, and how many a rule has dropped.

    Attributes:
        columns: the declaration by which they are read.
        num_dropped: rows that `drop_where`, or a call of `keep`, left out.
    """

    def __init__(self, records: Records, columns: Columns, code: str = "") -> None:
        """Rows that the declaration keeps; `code` stands for {language} in it."""
        self.records, self.columns = records, columns
        self.num_dropped = 0
        self._numbers: list[int] | None = None
        for column, value in columns.where.items():
            wanted = value.replace("{language}", code)
            self._narrow([spelling(item) == wanted for item in self.values(column)])
        for column, value in columns.where_prefix.items():
            prefix = value.replace("{language}", code)
            self._narrow([spelling(item).startswith(prefix) for item in self.values(column)])
        for column, values in columns.drop_where.items():
            dropped = set(values)
            self.keep([spelling(item) not in dropped for item in self.values(column)])

    def __len__(self) -> int:
        return len(self.records) if self._numbers is None else len(self._numbers)

    def place(self, number: int) -> str:
        """Where a row is, for an error."""
        return self.records.place(number if self._numbers is None else self._numbers[number])

    def values(self, column: str | int) -> list[Any]:
        """A column as the file has it."""
        return self._chosen(self.records.column(column))

    def texts(self, column: Column) -> list[str]:
        """A column, or several joined, as texts."""
        return self._chosen(texts_of(self.records, column, self.columns.values))

    def keep(self, kept: Sequence[bool]) -> None:
        """Leave out the other rows and count them as dropped."""
        self.num_dropped += len(kept) - sum(kept)
        self._narrow(kept)

    def _narrow(self, kept: Sequence[bool]) -> None:
        if not all(kept):
            numbers = range(len(self.records)) if self._numbers is None else self._numbers
            self._numbers = [number for number, keeps in zip(numbers, kept, strict=True) if keeps]

    def _chosen(self, values: list[Any]) -> list[Any]:
        return values if self._numbers is None else [values[number] for number in self._numbers]

"""A study's runs as arrays: scores of one arm by seeds and languages, and its item values, asked for once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xlt_scale.scaling.results import ItemSource
from xlt_scale.scaling.statistics.effects import Pair


@dataclass(frozen=True)
class RunArrays:
    """Columns of runs as arrays [rows]: a table's own groups and strings are slow, row by row."""

    codes: Mapping[str, np.ndarray]
    names: Mapping[str, Sequence[str]]
    numbers: Mapping[str, np.ndarray]

    @staticmethod
    def read(runs: pd.DataFrame) -> "RunArrays":
        codes, names = {}, {}
        for column in ("size", "arm", "target", "task", "language", "record"):
            codes[column], found = pd.factorize(runs[column])
            names[column] = [str(name) for name in found]
        numbers = {column: runs[column].to_numpy() for column in ("intermediate_seed", "target_seed", "score")}
        return RunArrays(codes, names, numbers)

    def groups(self) -> dict[tuple[str, str, str], dict[str, np.ndarray]]:
        """Rows of each size, target and task by arm, in the order of the table."""
        order = ("size", "target", "task", "arm")
        shape = tuple(max(1, len(self.names[column])) for column in order)
        keys = np.ravel_multi_index(tuple(self.codes[column] for column in order), shape)
        by_key = np.argsort(keys, kind="stable")
        found, starts = np.unique(keys[by_key], return_index=True)
        groups: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
        for key, rows in zip(found, np.split(by_key, starts[1:]), strict=True):
            size, target, task, arm = (
                self.names[column][code] for column, code in zip(order, np.unravel_index(key, shape), strict=True)
            )
            groups.setdefault((size, target, task), {})[arm] = rows
        return groups


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one arm: float64 [pairs, languages], nan where there is none."""

    pairs: list[Pair]
    languages: list[str]
    records: list[str]
    scores: np.ndarray

    @staticmethod
    def read(table: RunArrays, rows: np.ndarray) -> "ScoreTable":
        records, first, codes = np.unique(table.codes["record"][rows], return_index=True, return_inverse=True)
        languages, columns = np.unique(table.codes["language"][rows], return_inverse=True)
        scores = np.full((len(records), len(languages)), np.nan)
        scores[codes, columns] = table.numbers["score"][rows]
        seeds = (table.numbers[name][rows][first].tolist() for name in ("intermediate_seed", "target_seed"))
        pairs = [(int(one), int(other)) for one, other in zip(*seeds, strict=True)]
        names = [table.names["record"][code] for code in records]
        if len(set(pairs)) < len(pairs):
            twice = next(pair for pair in pairs if pairs.count(pair) > 1)
            same = ", ".join(name for name, pair in zip(names, pairs, strict=True) if pair == twice)
            raise ValueError(f"several records of one run: {same}")
        return ScoreTable(pairs, [table.names["language"][code] for code in languages], names, scores)

    def row_for(self, pair: Pair) -> int | None:
        """The baseline's row for a pair of the arm's."""
        for candidate in (pair, (-1, pair[1]), (-1, -1)):
            if candidate in self.pairs:
                return self.pairs.index(candidate)
        return None


class ItemCache:
    """Item values of one task: the baseline's are asked for once, however many arms there are."""

    def __init__(self, source: ItemSource, task: str) -> None:
        self.task, self._source = task, source
        self._kept: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}

    def both(
        self, base_records: Sequence[str], arm_records: Sequence[str], languages: Sequence[str]
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Of the baseline and of the arm by language; both empty where some run has no outcomes of the same items."""
        try:
            base = tuple(self._values(base_records, language, keep=True) for language in languages)
            arm = tuple(self._values(arm_records, language, keep=False) for language in languages)
        except KeyError:
            return (), ()
        if any(one.shape != other.shape for one, other in zip(base, arm, strict=True)):
            return (), ()
        return base, arm

    def _values(self, records: Sequence[str], language: str, keep: bool) -> np.ndarray:
        """float32 [records, items]; a record may come several times."""
        names = tuple(dict.fromkeys(records))
        found = self._kept.get((language, names))
        if found is None:
            found = self._source.values(names, self.task, language)
            if keep:
                self._kept[language, names] = found
        if len(names) == len(records):
            return found
        return found[[names.index(record) for record in records]]

"""A task's gains averaged over what its intermediate seeds share, once, so that any set of languages costs little."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from xlt_scale.scaling.statistics.differences import TaskDifferences
from xlt_scale.scaling.statistics.effects import Effect, Pair, Scale, unit_means


@dataclass(frozen=True)
class CompactTask:
    """Gains of one size, arm, target and task on one scale, by unit (`unit_means`).

    Attributes:
        gains: float64 [units, languages].
        items: where items are the same in every language one array, else one per language; each
            float32 [units, languages, items]. Empty where there are no outcomes item by item.
    """

    size: str
    task: str
    languages: tuple[str, ...]
    units: tuple[Pair, ...]
    gains: np.ndarray
    items: tuple[np.ndarray, ...]
    is_parallel: bool

    def effect(self, shares: Collection[tuple[str, float]]) -> Effect:
        """The weighted sum over languages. Its run pairs are the units: summaries of it are those of all run pairs."""
        columns = [self.languages.index(language) for language, _ in shares]
        weights = np.array([share for _, share in shares])
        gains = self.gains[:, columns] @ weights
        if not self.items:
            return Effect(self.size, self.units, gains, {})
        if self.is_parallel:
            every = np.zeros(len(self.languages), np.float32)
            every[columns] = weights
            return Effect(self.size, self.units, gains, {self.task: every @ self.items[0]})
        items = {
            f"{self.task}/{self.languages[column]}": np.float32(weight) * self.items[column][:, 0]
            for column, weight in zip(columns, weights, strict=True)
        }
        return Effect(self.size, self.units, gains, items)


def compact(unit: TaskDifferences, scale: Scale) -> CompactTask:
    """The task's gains on a scale."""
    names, average = unit_means(unit.pairs)
    of_units = average.astype(np.float32)
    values = unit.items(scale)
    is_parallel = unit.is_parallel and bool(values)
    blocks = [of_units @ one for one in values]
    items = (np.stack(blocks, axis=1),) if is_parallel else tuple(block[:, None] for block in blocks)
    return CompactTask(unit.size, unit.task, unit.languages, names, average @ unit.gains(scale), items, is_parallel)


def keep_pairs(unit: TaskDifferences, kept: Collection[Pair]) -> TaskDifferences | None:
    """The task over some of its run pairs; None where none is left."""
    rows = [row for row, pair in enumerate(unit.pairs) if pair in kept]
    if len(rows) == len(unit.pairs):
        return unit
    if not rows:
        return None
    return replace(
        unit,
        pairs=tuple(unit.pairs[row] for row in rows),
        base_records=tuple(unit.base_records[row] for row in rows),
        arm_records=tuple(unit.arm_records[row] for row in rows),
        base=unit.base[rows],
        with_arm=unit.with_arm[rows],
        base_items=tuple(values[rows] for values in unit.base_items),
        with_arm_items=tuple(values[rows] for values in unit.with_arm_items),
    )

"""From a study's records to gains: run pairs of an arm and its baseline on one scored task, language by language."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from xlt_scale.scaling.results import StudyResults
from xlt_scale.scaling.statistics.effects import (
    Effect,
    Estimate,
    Pair,
    Scale,
    p_values,
    quantile,
    total_degrees_of_freedom,
    unit_means,
)
from xlt_scale.scaling.statistics.score_tables import ItemCache, RunArrays, ScoreTable


@dataclass(frozen=True)
class TaskDifferences:
    """Run pairs of one size, arm, target and scored task.

    Attributes:
        is_parallel: whether items are the same in every language and there are as many.
        base_records: by pair the name of the baseline's record.
        base: scores, float64 [pairs, languages], in points.
        with_arm: the same of the arm.
        base_items: by language, float32 [pairs, items]; empty where there are no outcomes item by item.
        left_out: seeds of pairs that lack some of the languages.
    """

    size: str
    arm: str
    target: str
    task: str
    is_parallel: bool
    pairs: tuple[Pair, ...]
    languages: tuple[str, ...]
    base_records: tuple[str, ...]
    arm_records: tuple[str, ...]
    base: np.ndarray
    with_arm: np.ndarray
    base_items: tuple[np.ndarray, ...]
    with_arm_items: tuple[np.ndarray, ...]
    left_out: tuple[Pair, ...] = ()

    def items(self, scale: Scale = "points") -> tuple[np.ndarray, ...]:
        """Gains item by item: by language, float32 [pairs, items]; log errors linearised (`linear_log_errors`).

        Made anew at each call: kept, they would double the memory that a study's items take.
        """
        both = enumerate(zip(self.with_arm_items, self.base_items, strict=True))
        if scale == "points":
            return tuple(arm - base for _, (arm, base) in both)
        return tuple(
            linear_log_errors(arm, self.with_arm[:, column]) - linear_log_errors(base, self.base[:, column])
            for column, (arm, base) in both
        )

    @property
    def records(self) -> list[tuple[str, str]]:
        """By pair the names of the baseline's record and of the arm's."""
        return list(zip(self.base_records, self.arm_records, strict=True))

    @cached_property
    def base_means(self) -> np.ndarray:
        """Mean score of the baseline, float64 [languages]: over target seeds, then over intermediate seeds."""
        return (self._average @ self.base).mean(axis=0)

    @cached_property
    def arm_means(self) -> np.ndarray:
        """The same of the arm."""
        return (self._average @ self.with_arm).mean(axis=0)

    @cached_property
    def log_error_ratios(self) -> np.ndarray:
        """Mean gain on the scale of log errors, float64 [languages]; negative = fewer errors."""
        return (self._average @ self.gains("log error")).mean(axis=0)

    def cell_estimates(self, scale: Scale = "points") -> list[Estimate]:
        """The estimate of each language alone (`cell_estimates`)."""
        cells = cell_estimates(self, scale)
        return [cells.estimate(language) for language in self.languages]

    def gains(self, scale: Scale = "points") -> np.ndarray:
        """float64 [pairs, languages]: arm - baseline, in points or of the log of the error (negative = better)."""
        if scale == "points":
            return self.with_arm - self.base
        smallest = self._smallest_errors
        return np.log(errors(self.with_arm, smallest)) - np.log(errors(self.base, smallest))

    def effect(self, language_weights: Mapping[str, float], scale: Scale = "points") -> Effect:
        """The weighted sum over languages.

        Raises:
            KeyError: a language that was not scored.
        """
        missing = sorted(set(language_weights) - set(self.languages))
        if missing:
            raise KeyError(f"{self.task} was not scored in {', '.join(missing)}")
        weights = np.array([language_weights.get(language, 0.0) for language in self.languages])
        used = np.flatnonzero(weights)
        values = self._chosen(used).items(scale)
        weighted = [
            (self.languages[column], np.float32(weights[column]) * own)
            for column, own in zip(used[: len(values)], values, strict=True)
        ]
        if self.is_parallel and weighted:
            items = {self.task: np.sum([own for _, own in weighted], axis=0)}
        else:
            items = {f"{self.task}/{language}": own for language, own in weighted}
        return Effect(self.size, self.pairs, self.gains(scale) @ weights, items)

    @cached_property
    def _average(self) -> np.ndarray:
        return unit_means(self.pairs)[1]

    def _chosen(self, columns: np.ndarray) -> "TaskDifferences":
        """Of some languages only."""
        if len(columns) == len(self.languages):
            return self
        return replace(
            self,
            languages=tuple(self.languages[column] for column in columns),
            base=self.base[:, columns],
            with_arm=self.with_arm[:, columns],
            base_items=tuple(self.base_items[column] for column in columns if self.base_items),
            with_arm_items=tuple(self.with_arm_items[column] for column in columns if self.with_arm_items),
        )

    @cached_property
    def _smallest_errors(self) -> np.ndarray:
        """Half an item, in points, by language; a tenth of a point where items are not known."""
        if not self.base_items:
            return np.full(len(self.languages), 0.1)
        return np.array([50.0 / own.shape[1] for own in self.base_items])


@dataclass(frozen=True)
class CellEstimates:
    """Estimates of single languages at once, each array [languages] (`Estimate`)."""

    languages: tuple[str, ...]
    value: np.ndarray
    seed_variance: np.ndarray
    item_variance: np.ndarray
    seed_degrees_of_freedom: np.ndarray
    item_degrees_of_freedom: np.ndarray
    num_clusters: int
    num_pairs: int

    def estimate(self, language: str) -> Estimate:
        row = self.languages.index(language)
        return Estimate(
            float(self.value[row]),
            float(self.seed_variance[row]),
            float(self.item_variance[row]),
            float(self.seed_degrees_of_freedom[row]),
            self.num_clusters,
            self.num_pairs,
            float(self.item_degrees_of_freedom[row]),
        )

    def columns(self, level: float = 0.95) -> dict[str, np.ndarray]:
        """Columns of `results.ESTIMATE_COLUMNS`, each [languages], without the permutation's p."""
        seeds = np.nan_to_num(self.seed_variance)
        standard_error = np.sqrt(seeds + self.item_variance)
        degrees = total_degrees_of_freedom(
            self.seed_variance, self.item_variance, self.seed_degrees_of_freedom, self.item_degrees_of_freedom
        )
        reach = quantile(0.5 + level / 2, degrees) * standard_error
        total = self.seed_variance + self.item_variance
        return {
            "gain": self.value,
            "standard_error": standard_error,
            "degrees_of_freedom": degrees,
            "low": self.value - reach,
            "high": self.value + reach,
            "p": p_values(self.value, standard_error, degrees),
            "seed_share": np.where(total > 0.0, self.seed_variance, np.nan) / np.where(total > 0.0, total, 1.0),
            "num_intermediate_seeds": np.full(len(self.languages), self.num_clusters),
            "num_pairs": np.full(len(self.languages), self.num_pairs),
        }


def cell_estimates(differences: TaskDifferences, scale: Scale = "points") -> CellEstimates:
    """What `combine` of each single language gives, for all languages at once."""
    units, average = unit_means(differences.pairs)
    gains = average @ differences.gains(scale)
    means, num_units, num_languages = gains.mean(axis=0), len(units), len(differences.languages)
    if num_units > 1:
        seed_variance = np.square(gains - means).sum(axis=0) / (num_units * (num_units - 1))
    else:
        seed_variance = np.full(num_languages, np.nan)
    item_variance, item_degrees = np.zeros(num_languages), np.full(num_languages, np.inf)
    values = differences.items(scale)
    if differences.is_parallel and values:
        blocks = [np.stack(values, axis=1)]  # [pairs, languages, items]
    else:
        blocks = [own[:, None] for own in values]
    start = 0
    for block in blocks:
        stop = start + block.shape[1]
        item_variance[start:stop] = _item_variances(np.tensordot(average.astype(np.float32), block, axes=1))
        item_degrees[start:stop] = max(1.0, block.shape[2] - 1.0)
        start = stop
    item_degrees[item_variance <= 0.0] = np.inf
    clusters = len({intermediate for intermediate, _ in differences.pairs})
    seed_degrees = np.full(num_languages, float(max(1, num_units - 1)))
    return CellEstimates(
        differences.languages,
        means,
        seed_variance,
        item_variance,
        seed_degrees,
        item_degrees,
        clusters,
        len(differences.pairs),
    )


def _item_variances(unit_values: np.ndarray) -> np.ndarray:
    """Items' variance of the mean, float64 [languages], from values of units [units, languages, items]."""
    num_units, _, num_items = unit_values.shape
    if num_items < 2:
        return np.zeros(unit_values.shape[1])
    centred = unit_values - unit_values.mean(axis=2, keepdims=True)
    mean = centred.mean(axis=0)
    variance = np.einsum("lk,lk->l", mean, mean).astype(np.float64)
    if num_units > 1:
        # Squares about the mean over units: those of all units less those of their mean.
        squares = np.einsum("ulk,ulk->l", centred, centred).astype(np.float64)
        variance -= (squares - num_units * variance) / (num_units * (num_units - 1))
    return np.maximum(variance, 0.0) / ((num_items - 1) * num_items)


def errors(scores: np.ndarray, smallest: np.ndarray | float) -> np.ndarray:
    """100 - score, at least `smallest`: no run is taken to be without error for want of items."""
    return np.maximum(100.0 - scores, smallest)


def linear_log_errors(items: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Item values on the scale of log errors, float32 [pairs, items]: their mean is the log of the run's error.

    The delta method (van der Vaart 1998, chapter 3): log(error) plus each item's influence on it, -(value - score) /
    error.
    """
    error = errors(scores, 50.0 / items.shape[1])
    start = (np.log(error) + scores / error).astype(np.float32)
    return start[:, None] - items * (1.0 / error).astype(np.float32)[:, None]


def study_differences(results: StudyResults, rule: str = "") -> Iterator[TaskDifferences]:
    """Differences of every size, arm, target and task, one at a time: only one task's items are in memory.

    A pair needs a run in both arms; a baseline row with intermediate seed -1 stands for all pairs (with target seed -1;
    else for those of its target seed). Arms without any pair are passed over.

    Args:
        rule: checkpoint rule; '' where records have a single one.

    Raises:
        ValueError: several rules and none chosen; several records of one run.
    """
    runs = results.runs
    rules = sorted(set(runs["rule"]))
    if rule:
        runs = runs[runs["rule"] == rule]
    elif len(rules) > 1:
        raise ValueError(f"the records follow several checkpoint rules: choose one of {', '.join(rules)}")
    is_parallel = {task.name: task.is_parallel for task in results.facts.tasks}
    table = RunArrays.read(runs)
    for (size, target, task), by_arm in table.groups().items():
        tables = {arm: ScoreTable.read(table, rows) for arm, rows in by_arm.items()}
        base = tables.pop(results.facts.baseline, None)
        if base is None:
            continue
        cache = ItemCache(results.items, task)
        for arm, scores in tables.items():
            found = _differences(size, arm, target, base, scores, cache, is_parallel.get(task, False))
            if found is not None:
                yield found


def _differences(
    size: str, arm_name: str, target: str, base: ScoreTable, arm: ScoreTable, cache: ItemCache, is_parallel: bool
) -> TaskDifferences | None:
    """None where no run has its counterpart."""
    languages = [language for language in arm.languages if language in base.languages]
    order = sorted(range(len(arm.pairs)), key=lambda row: arm.pairs[row])
    matched = [(row, other) for row in order if (other := base.row_for(arm.pairs[row])) is not None]
    if not languages or not matched:
        return None
    arm_rows, base_rows = (list(rows) for rows in zip(*matched, strict=True))
    arm_scores = arm.scores[np.ix_(arm_rows, [arm.languages.index(language) for language in languages])]
    base_scores = base.scores[np.ix_(base_rows, [base.languages.index(language) for language in languages])]
    is_there = np.isfinite(arm_scores) & np.isfinite(base_scores)
    # Pairs that have all languages; where there is none, the languages that every pair has.
    columns = np.arange(len(languages)) if is_there.all(axis=1).any() else np.flatnonzero(is_there.all(axis=0))
    rows = np.flatnonzero(is_there[:, columns].all(axis=1))
    if not len(columns) or not len(rows):
        return None
    kept = tuple(languages[column] for column in columns)
    arm_records = tuple(arm.records[arm_rows[row]] for row in rows)
    base_records = tuple(base.records[base_rows[row]] for row in rows)
    base_items, arm_items = cache.both(base_records, arm_records, kept)
    pairs = [arm.pairs[row] for row in arm_rows]
    return TaskDifferences(
        size=size,
        arm=arm_name,
        target=target,
        task=cache.task,
        is_parallel=is_parallel and len({own.shape[1] for own in base_items}) <= 1,
        pairs=tuple(pairs[row] for row in rows),
        languages=kept,
        base_records=base_records,
        arm_records=arm_records,
        base=base_scores[np.ix_(rows, columns)],
        with_arm=arm_scores[np.ix_(rows, columns)],
        base_items=base_items,
        with_arm_items=arm_items,
        left_out=tuple(pair for row, pair in enumerate(pairs) if row not in rows),
    )

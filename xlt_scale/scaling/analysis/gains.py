"""Gains of a study: any weighted sum of cells, as effects, summaries, scores and estimates."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from xlt_scale.scaling.analysis.collapse import RunKey, sound_pairs
from xlt_scale.scaling.analysis.compact import CompactTask, compact, keep_pairs
from xlt_scale.scaling.analysis.grouping import Cell, CellId, GroupKey, Members, group_keys, members
from xlt_scale.scaling.results import SizeFacts, StudyResults
from xlt_scale.scaling.statistics.differences import TaskDifferences, study_differences
from xlt_scale.scaling.statistics.effects import Effect, Pair, Scale, SizeSummary, summarise

Place = tuple[str, CellId]
"""Arm, cell: what a weight stands on at one size."""


class StudyGains:
    """Differences between arms and the baseline, wherever both have run.

    Attributes:
        sizes: those with any gain, smallest first.
        arms: those with any gain, in the study's order, without the baseline.
    """

    def __init__(self, results: StudyResults, collapsed: frozenset[RunKey] = frozenset()) -> None:
        self.results = results
        self._collapsed = collapsed
        self._units: dict[tuple[str, str], dict[tuple[str, str], TaskDifferences]] = defaultdict(dict)
        for unit in study_differences(results) if len(results.runs) else ():
            self._units[unit.size, unit.arm][unit.target, unit.task] = unit
        self._cells = _cells(results, self._units)
        facts = results.facts
        sizes = sorted(facts.sizes, key=lambda size: size.num_parameters)
        self.sizes: list[SizeFacts] = [size for size in sizes if any(size.name == name for name, _ in self._units)]
        arms = [arm.name for arm in facts.arms if arm.name != facts.baseline]
        self.arms: list[str] = [arm for arm in arms if any(arm == name for _, name in self._units)]
        self._compacts: dict[tuple[object, ...], CompactTask | None] = {}
        self._members: dict[tuple[object, ...], Members | None] = {}
        self._summaries: dict[tuple[object, ...], SizeSummary | None] = {}

    def units(self, size: str, arm: str) -> Mapping[tuple[str, str], TaskDifferences]:
        """By target and task; none where the arm has not run at that size."""
        return self._units.get((size, arm), {})

    def cells(self, size: str, arm: str) -> Sequence[Cell]:
        """All scored languages of an arm at a size, those of shared data with them."""
        return self._cells.get((size, arm), ())

    def group_keys(self, sizes: Iterable[str] | None = None, arms: Iterable[str] | None = None) -> list[GroupKey]:
        """Groups that have a cell at any of these sizes and arms."""
        names = [size.name for size in self.sizes] if sizes is None else list(sizes)
        found = [
            cell for size in names for arm in (self.arms if arms is None else arms) for cell in self.cells(size, arm)
        ]
        return group_keys(dict.fromkeys(found))

    def members(self, size: str, arm: str, key: GroupKey, only: Iterable[CellId] | None = None) -> Members | None:
        """Cells and weights of a group."""
        # Sizes and arms with the same cells share the answer.
        cells = self.cells(size, arm)
        name = (id(cells), key, None if only is None else frozenset(only))
        if name not in self._members:
            self._members[name] = members(cells, key, only)
        return self._members[name]

    def shared_cells(self, arm: str, key: GroupKey, sizes: Sequence[str]) -> frozenset[CellId]:
        """Cells of a group that all these sizes have: a slope must not be one of which tasks were run where."""
        found = [self.members(size, arm, key) for size in sizes]
        return frozenset.intersection(*(frozenset(one.weights) if one else frozenset() for one in found))

    def terms(
        self, size: str, weights: Mapping[Place, float], scale: Scale = "points", *, is_sound: bool = False
    ) -> list[tuple[float, Effect]]:
        """The weighted sum of gains as effects of units (`CompactTask`); [] where a part of it has no run pair.

        Args:
            is_sound: without pairs of which either run collapsed.
        """
        found = []
        for (arm, target, task), languages in _by_unit(weights).items():
            own = self._compact(self._units[size, arm][target, task], scale, is_sound)
            if own is None:
                return []
            found.append((1.0, own.effect(languages.items())))
        return found

    def summary(
        self, size: str, weights: Mapping[Place, float], scale: Scale = "points", *, is_sound: bool = False
    ) -> SizeSummary | None:
        """Their sum, computed once; None where a part of it has no run pair."""
        is_sound = is_sound and self.has_collapsed(size, {arm for arm, _ in weights})
        key = (size, tuple(weights.items()), scale, is_sound)
        if key not in self._summaries:
            terms = self.terms(size, weights, scale, is_sound=is_sound)
            self._summaries[key] = self._counted(summarise(terms), size, weights, is_sound) if terms else None
        return self._summaries[key]

    def _counted(self, summary: SizeSummary, size: str, weights: Mapping[Place, float], is_sound: bool) -> SizeSummary:
        """With the number of run pairs, which the compact effects no longer show."""
        units = [self._units[size, arm][target, task] for arm, target, task in _by_unit(weights)]
        return replace(
            summary, num_pairs=max(len(self._sound_pairs(unit) if is_sound else unit.pairs) for unit in units)
        )

    def has_collapsed(self, size: str, arms: Iterable[str]) -> bool:
        """Whether any run of these arms or of the baseline collapsed at that size."""
        named = {self.results.facts.baseline, *arms}
        return any(key[0] == size and key[1] in named for key in self._collapsed)

    def num_collapsed(self, unit: TaskDifferences) -> int:
        """Run pairs of which either run collapsed."""
        return len(unit.pairs) - len(self._sound_pairs(unit))

    def levels(self, size: str, weights: Mapping[Place, float]) -> tuple[float, float]:
        """Weighted sums of mean scores, the baseline's and the arms'."""
        base = with_arm = 0.0
        for (arm, target, task), languages in _by_unit(weights).items():
            unit = self._units[size, arm][target, task]
            for language, weight in languages.items():
                column = unit.languages.index(language)
                base += weight * float(unit.base_means[column])
                with_arm += weight * float(unit.arm_means[column])
        return base, with_arm

    def _sound_pairs(self, unit: TaskDifferences) -> list[Pair]:
        arms = (self.results.facts.baseline, unit.arm)
        return sound_pairs(unit.pairs, self._collapsed, unit.size, arms, unit.target)

    def _compact(self, unit: TaskDifferences, scale: Scale, is_sound: bool) -> CompactTask | None:
        """The task's gains by unit, computed once; None where no run pair is left."""
        is_sound = is_sound and self.num_collapsed(unit) > 0
        key = (unit.size, unit.arm, unit.target, unit.task, scale, is_sound)
        if key not in self._compacts:
            kept = keep_pairs(unit, self._sound_pairs(unit)) if is_sound else unit
            self._compacts[key] = None if kept is None else compact(kept, scale)
        return self._compacts[key]


def one_arm(arm: str, found: Members) -> dict[Place, float]:
    """Weights of a group of one arm."""
    return {(arm, identity): weight for identity, weight in found.weights.items()}


def blend(parts: Sequence[tuple[float, Mapping[Place, float]]]) -> dict[Place, float]:
    """Weighted sum of weights; places whose weights cancel are left out."""
    total: dict[Place, float] = defaultdict(float)
    for factor, weights in parts:
        for place, weight in weights.items():
            total[place] += factor * weight
    return {place: weight for place, weight in total.items() if abs(weight) > 1e-12}


def _by_unit(weights: Mapping[Place, float]) -> dict[tuple[str, str, str], dict[str, float]]:
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for (arm, (target, task, language)), weight in weights.items():
        found[arm, target, task][language] = weight
    return found


def _cells(
    results: StudyResults, units: Mapping[tuple[str, str], Mapping[tuple[str, str], TaskDifferences]]
) -> dict[tuple[str, str], tuple[Cell, ...]]:
    """Cells of which there are gains, with what the rows of the arm's runs say about them."""
    groups = {target.name: target.group for target in results.facts.targets}
    runs = results.runs.assign(same_data=results.runs["same_data"].fillna(""))
    columns = ["size", "arm", "target", "task", "language"]
    facts = runs.groupby(columns, sort=False).agg(
        is_trained=("is_trained_language", "any"), same_data=("same_data", "max")
    )
    known = {name: (bool(row[0]), str(row[1])) for name, row in zip(facts.index, facts.to_numpy(), strict=True)}
    known_lists: dict[tuple[Cell, ...], tuple[Cell, ...]] = {}
    cells = {}
    for (size, arm), found in units.items():
        own = tuple(
            Cell(target, task, language, groups.get(target, ""), *known[size, arm, target, task, language])
            for (target, task), unit in found.items()
            for language in unit.languages
        )
        cells[size, arm] = known_lists.setdefault(own, own)
    return cells

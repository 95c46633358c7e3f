"""Which cells a group averages and with which weights.

Means are nested: over languages within a task of a target, over the targets that score the task, over tasks within a
target group, over target groups. A target group with many tasks or a task with many languages counts no more than
another one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xlt_scale.tasks.languages import describe

CellId = tuple[str, str, str]
"""Target, task, language."""

ALL = "all"


@dataclass(frozen=True)
class Cell:
    """A scored language of a task of a target, at one size and arm.

    Attributes:
        group: the target's.
        is_trained: whether the runs were trained in this language.
        same_data: why it is left out of means; '' = it is not.
    """

    target: str
    task: str
    language: str
    group: str
    is_trained: bool
    same_data: str

    @property
    def identity(self) -> CellId:
        return self.target, self.task, self.language

    @property
    def family(self) -> str:
        return describe(self.language).family

    @property
    def is_seen(self) -> bool | None:
        return describe(self.language).seen


@dataclass(frozen=True, order=True)
class GroupKey:
    """A row of the table of groups, whatever its size and arm (`GROUP_COLUMNS`)."""

    kind: str
    group: str
    task: str = ""


HEADLINE = GroupKey("headline", ALL)


@dataclass(frozen=True)
class Members:
    """Cells of a group with weights: those of `plus` add up to 1, those of `minus` to -1 or there are none."""

    plus: Mapping[CellId, float]
    minus: Mapping[CellId, float]
    num_excluded: int = 0

    @property
    def weights(self) -> Mapping[CellId, float]:
        return {**self.plus, **self.minus}


def zero_shot(cells: Sequence[Cell]) -> list[Cell]:
    """Without the trained languages of each task of a target, wherever others remain."""
    others = {(cell.target, cell.task) for cell in cells if not cell.is_trained}
    return [cell for cell in cells if not cell.is_trained or (cell.target, cell.task) not in others]


def group_keys(cells: Iterable[Cell]) -> list[GroupKey]:
    """All groups that have a cell, in the order of the report."""
    cells = [cell for cell in cells if not cell.same_data]
    if not cells:
        return []
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    found = [HEADLINE]
    found += [GroupKey("target group", group) for group in dict.fromkeys(cell.group for cell in cells)]
    found += [GroupKey("task", task, task) for task in tasks]
    untrained = [cell for cell in cells if not cell.is_trained]
    for scope in (ALL, *tasks):
        here = [cell for cell in untrained if scope in (ALL, cell.task)]
        trained = [cell for cell in cells if cell.is_trained and scope in (ALL, cell.task)]
        found += [GroupKey("family", family, scope) for family in sorted({cell.family for cell in here})]
        for name, is_seen in (("seen", True), ("unseen", False)):
            if any(cell.is_seen is is_seen for cell in here):
                found.append(GroupKey("seen", name, scope))
        if trained:
            found.append(GroupKey("trained", ALL, scope))
        if _task_names(trained, True) & _task_names(here, False):
            found.append(GroupKey("gap", ALL, scope))
    return found


def members(cells: Sequence[Cell], key: GroupKey, only: Iterable[CellId] | None = None) -> Members | None:
    """Cells and weights of a group at one size and arm; None where it has no cell.

    Args:
        only: cells that may be used, as those that every size has.
    """
    in_scope = [cell for cell in cells if _is_in_scope(cell, key)]
    trained = [cell for cell in in_scope if cell.is_trained]
    untrained = [cell for cell in in_scope if not cell.is_trained]
    chosen: Mapping[str, Callable[[], list[Cell]]] = {
        "trained": lambda: trained,
        "gap": lambda: in_scope,
        "family": lambda: [cell for cell in untrained if cell.family == key.group],
        "seen": lambda: [cell for cell in untrained if cell.is_seen is (key.group == "seen")],
    }
    selected = chosen.get(key.kind, lambda: zero_shot(in_scope))()
    allowed = None if only is None else set(only)
    usable = [cell for cell in selected if not cell.same_data and (allowed is None or cell.identity in allowed)]
    num_excluded = sum(bool(cell.same_data) for cell in selected)
    if key.kind == "gap":
        both = _task_names(usable, True) & _task_names(usable, False)
        usable = [cell for cell in usable if cell.identity[:2] in both]
        minus = nested_weights([cell for cell in usable if not cell.is_trained])
        plus = nested_weights([cell for cell in usable if cell.is_trained])
        return Members(plus, {name: -weight for name, weight in minus.items()}, num_excluded) if both else None
    return Members(nested_weights(usable), {}, num_excluded) if usable else None


def _task_names(cells: Iterable[Cell], is_trained: bool) -> set[tuple[str, str]]:
    """Tasks of targets that have a cell of a trained language, or of another one."""
    return {(cell.target, cell.task) for cell in cells if cell.is_trained is is_trained}


def nested_weights(cells: Sequence[Cell]) -> dict[CellId, float]:
    """Weights of the mean over groups of means over tasks of means over targets of means over languages."""
    levels: list[Callable[[Cell], str]] = [lambda c: c.group, lambda c: c.task, lambda c: c.target]
    return dict(_nested(list(cells), levels, 1.0))


def _nested(cells: list[Cell], levels: list[Callable[[Cell], str]], weight: float) -> list[tuple[CellId, float]]:
    if not levels:
        return [(cell.identity, weight / len(cells)) for cell in cells]
    parts: dict[str, list[Cell]] = {}
    for cell in cells:
        parts.setdefault(levels[0](cell), []).append(cell)
    return [found for part in parts.values() for found in _nested(part, levels[1:], weight / len(parts))]


def _is_in_scope(cell: Cell, key: GroupKey) -> bool:
    if key.kind == "target group":
        return cell.group == key.group
    if key.kind == "headline":
        return True
    return key.task in (ALL, cell.task)

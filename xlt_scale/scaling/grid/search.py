"""The learning-rate search: the same trials for every arm, and the rate that each cell's trials choose."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SearchCell:
    """What one learning rate is chosen for; arm '' = all arms together."""

    size: str
    arm: str
    target: str


@dataclass(frozen=True)
class Trial:
    """A trained and scored trial: the headline score on the source language's dev set."""

    cell: SearchCell
    learning_rate: float
    seed: int
    score: float


@dataclass(frozen=True)
class Choice:
    """The chosen rate, and the mean dev score of every rate that was tried."""

    learning_rate: float
    scores: Mapping[float, float]
    num_trials: int


def choose(trials: Iterable[Trial], num_expected: Mapping[SearchCell, int]) -> dict[SearchCell, Choice]:
    """The rate with the best mean dev score of each cell whose trials are all there; of equal ones the lower rate.

    Args:
        num_expected: trials that each cell will have.
    """
    of_cells: dict[SearchCell, list[Trial]] = defaultdict(list)
    for trial in trials:
        of_cells[trial.cell].append(trial)
    found = {}
    for cell, members in of_cells.items():
        if len(members) < num_expected.get(cell, 1):
            continue
        by_rate: dict[float, list[float]] = defaultdict(list)
        for trial in members:
            by_rate[trial.learning_rate].append(trial.score)
        scores = {rate: statistics.mean(values) for rate, values in sorted(by_rate.items())}
        found[cell] = Choice(max(scores, key=lambda rate: (scores[rate], -rate)), scores, len(members))
    return found

"""What a scorer is and what it returns."""

from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np

COUNTS = ("missing", "unexpected")
"""Keys of `Score.values` that are numbers of items, which have no mean over languages."""


@dataclass(frozen=True)
class Score:
    """Numbers of one task in one language.

    Attributes:
        values: metric -> number, the headline first. Shares are in percent; counts (`COUNTS`) and thresholds are
            as they are.
        items: outcomes item by item in the order of the label file, for paired tests and resampling: `correct` uint8
            [items], `exact_match` uint8 [questions], `f1` float32 [questions], `average_precision` float64 [queries],
            or `counts` int32 [items, 3] (correct, predicted, gold), whose column sums give the F1.
    """

    values: dict[str, float]
    items: dict[str, np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """One metric.

    Attributes:
        version: written beside every number; another text whenever the same files can give another number.
        headline: the key of `values` that tables show.
        score: (predictions, labels, language) -> Score; raises ValueError, with a sentence, on what cannot be scored.
    """

    version: str
    headline: str
    score: Callable[[Any, Any, str], Score]


def check_lengths(predictions: Sized, labels: Sized) -> None:
    """Scores of items in file order need as many predictions as labels, and at least one."""
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    if not len(labels):
        raise ValueError("no items to score")


def precision_recall_f1(correct: int, predicted: int, gold: int) -> tuple[float, float, float]:
    """Precision, recall and their harmonic mean in percent; 0 where a quotient is undefined."""
    precision = 100.0 * correct / predicted if predicted else 0.0
    recall = 100.0 * correct / gold if gold else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if correct else 0.0

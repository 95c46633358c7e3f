"""Correlation of predicted with given numbers: of the values (Pearson) and of their ranks (Spearman)."""

from collections.abc import Sequence

import numpy as np

from xlt_scale.evaluation.scorers.score import Score, check_lengths

CORRELATION_VERSION = "correlation-1"


def score_correlation(predictions: Sequence[float], labels: Sequence[float], language: str = "") -> Score:
    """Pearson's and Spearman's coefficient times 100; 0 where one side is constant, which leaves both undefined."""
    check_lengths(predictions, labels)
    if len(labels) < 2:
        raise ValueError("a correlation needs at least two items")
    predicted, gold = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    for values, side in ((predicted, "prediction"), (gold, "label")):
        if not np.isfinite(values).all():
            raise ValueError(f"{side} {int(np.flatnonzero(~np.isfinite(values))[0]) + 1} is not a finite number")
    pearson, spearman = _coefficient(predicted, gold), _coefficient(_ranks(predicted), _ranks(gold))
    return Score({"pearson": 100.0 * pearson, "spearman": 100.0 * spearman}, {"predicted": predicted, "gold": gold})


def _coefficient(left: np.ndarray, right: np.ndarray) -> float:
    # A constant's differences from its computed mean are rounding errors, whose quotient would be noise.
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    left, right = left - left.mean(), right - right.mean()
    quotient = (left / np.linalg.norm(left)) @ (right / np.linalg.norm(right))
    return float(np.clip(quotient, -1.0, 1.0))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]

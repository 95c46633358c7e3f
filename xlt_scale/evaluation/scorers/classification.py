"""Accuracy, and with it the F1 of one class."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from xlt_scale.evaluation.scorers.score import Score, check_lengths, precision_recall_f1

ACCURACY_VERSION = "accuracy-1"
ACCURACY_AND_F1_VERSION = "accuracy_and_f1-1"
POSITIVE_LABELS = ("1", "duplicate", "paraphrase")
"""Spellings of the class whose F1 GLUE reports for QQP: the questions ask the same."""


def score_accuracy(predictions: Sequence[Any], labels: Sequence[Any], language: str = "") -> Score:
    """The share of items whose predicted label is the label, in percent."""
    check_lengths(predictions, labels)
    correct = _equal(predictions, labels)
    return Score({"accuracy": 100.0 * float(correct.mean())}, {"correct": correct})


def score_accuracy_and_f1(
    predictions: Sequence[str], labels: Sequence[str], language: str = "", positive: Collection[str] = POSITIVE_LABELS
) -> Score:
    """Accuracy, and the F1 of the positive class as GLUE reports it for QQP.

    Args:
        positive: every spelling of the positive class.
    """
    check_lengths(predictions, labels)
    if len({*labels, *predictions}) > 1 and not any(label in positive for label in labels):
        raise ValueError(f"no label is of the positive class ({', '.join(positive)}), whose F1 is asked for")
    correct = _equal(predictions, labels)
    predicted = np.array([label in positive for label in predictions])
    gold = np.array([label in positive for label in labels])
    counts = np.stack([predicted & gold, predicted, gold], axis=1).astype(np.int32)
    precision, recall, f1 = precision_recall_f1(*(int(number) for number in counts.sum(axis=0)))
    values = {"accuracy": 100.0 * float(correct.mean()), "f1": f1, "precision": precision, "recall": recall}
    return Score(values, {"correct": correct, "counts": counts})


def _equal(predictions: Sequence[Any], labels: Sequence[Any]) -> np.ndarray:
    return np.array([prediction == label for prediction, label in zip(predictions, labels, strict=True)], np.uint8)

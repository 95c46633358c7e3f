"""Exact match and token F1 of answer texts: what the question-answering scorers have in common."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xlt_scale.evaluation.scorers.score import Score

Tokens = Callable[[str], list[str]]
"""The tokens of an answer after normalisation. Two answers match exactly if these are equal."""


def token_f1(predicted: list[str], gold: list[str]) -> float:
    """The harmonic mean of precision and recall of tokens, each counted as often as it occurs; 0..1."""
    common = (Counter(predicted) & Counter(gold)).total()
    return 2.0 * common / (len(predicted) + len(gold)) if common else 0.0


def score_answers(predictions: Mapping[str, str], labels: Mapping[str, Sequence[str]], tokens: Tokens) -> Score:
    """Exact match and F1 in percent over all questions, the best reference counting.

    Questions without a prediction score 0 and are counted as `missing`; predictions for other questions count as
    `unexpected` and change nothing.
    """
    if not labels:
        raise ValueError("no items to score")
    exact, overlap = np.zeros(len(labels), np.uint8), np.zeros(len(labels), np.float64)
    for number, (name, references) in enumerate(labels.items()):
        if not references:
            raise ValueError(f"question {name!r} has no reference answer, which only the metric squad_v2 allows")
        if name in predictions:
            predicted = tokens(predictions[name])
            golds = [tokens(reference) for reference in references]
            exact[number] = predicted in golds
            overlap[number] = max(token_f1(predicted, gold) for gold in golds)
    values = {"f1": 100.0 * float(overlap.mean()), "exact_match": 100.0 * float(exact.mean())}
    return Score(values | count_ids(predictions, labels), {"exact_match": exact, "f1": overlap.astype(np.float32)})


def count_ids(predictions: Mapping[str, object], labels: Mapping[str, object]) -> dict[str, float]:
    """How many labels have no prediction (`missing`) and how many predictions have no label (`unexpected`)."""
    return {
        "missing": float(sum(name not in predictions for name in labels)),
        "unexpected": float(sum(name not in labels for name in predictions)),
    }

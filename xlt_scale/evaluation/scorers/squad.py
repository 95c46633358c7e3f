"""SQuAD v1.1 and v2.0, after the rules of the official evaluation scripts."""

import re
import string
from collections.abc import Mapping, Sequence

import numpy as np

from xlt_scale.evaluation.scorers.score import Score
from xlt_scale.evaluation.scorers.text_answers import count_ids, score_answers, token_f1

SQUAD_VERSION = "squad-1 (v1.1 rules)"
SQUAD_V2_VERSION = "squad_v2-1 (v2.0 rules)"

_NO_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ENGLISH_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def squad_tokens(text: str) -> list[str]:
    """Lower case, ASCII punctuation removed, then English articles, then split at white space; in every language."""
    return _ENGLISH_ARTICLES.sub(" ", text.lower().translate(_NO_ASCII_PUNCTUATION)).split()


def score_squad(predictions: Mapping[str, str], labels: Mapping[str, Sequence[str]], language: str = "") -> Score:
    """Exact match and F1 of SQuAD v1.1; XTREME scores XQuAD and TyDiQA with it in every language.

    Args:
        predictions: question id -> answer.
        labels: question id -> reference answers, at least one.
    """
    return score_answers(predictions, labels, squad_tokens)


def score_squad_v2(
    predictions: Mapping[str, str],
    labels: Mapping[str, Sequence[str]],
    language: str = "",
    no_answer_scores: Mapping[str, float] | None = None,
) -> Score:
    """Exact match and F1 of SQuAD v2.0, where no reference means that the passage has no answer.

    References that normalise to nothing do not count; where none is left the empty answer is right. Exact match and F1
    are also given over the questions with an answer and over those without. Questions without a prediction score 0,
    whereas the official script leaves them out of the mean.

    Args:
        no_answer_scores: question id -> how much speaks for "no answer". With it come the best scores that some
            threshold on it could give (`best_f1`, `best_exact_match`) and those thresholds; the predictions should then
            be the best spans, whatever was decided.
    """
    if not labels:
        raise ValueError("no items to score")
    exact, overlap = np.zeros(len(labels), np.uint8), np.zeros(len(labels), np.float64)
    has_answer = np.array([bool(references) for references in labels.values()])
    for number, (name, references) in enumerate(labels.items()):
        if name not in predictions:
            continue
        predicted = squad_tokens(predictions[name])
        golds = [gold for reference in references if (gold := squad_tokens(reference))] or [[]]
        exact[number] = predicted in golds
        overlap[number] = max(token_f1(predicted, gold) if predicted and gold else predicted == gold for gold in golds)
    values = {"f1": 100.0 * float(overlap.mean()), "exact_match": 100.0 * float(exact.mean())}
    for name, chosen in (("has_answer", has_answer), ("no_answer", ~has_answer)):
        if chosen.any():
            values[f"{name}_f1"] = 100.0 * float(overlap[chosen].mean())
            values[f"{name}_exact_match"] = 100.0 * float(exact[chosen].mean())
    if no_answer_scores is not None:
        for name, outcome in (("f1", overlap), ("exact_match", exact.astype(np.float64))):
            outcomes = dict(zip(labels, outcome.tolist(), strict=True))
            values[f"best_{name}"], values[f"best_{name}_threshold"] = _best_threshold(
                outcomes, predictions, labels, no_answer_scores
            )
    return Score(
        values | count_ids(predictions, labels),
        {"exact_match": exact, "f1": overlap.astype(np.float32), "has_answer": has_answer.astype(np.uint8)},
    )


def _best_threshold(
    outcomes: Mapping[str, float],
    predictions: Mapping[str, str],
    labels: Mapping[str, Sequence[str]],
    no_answer_scores: Mapping[str, float],
) -> tuple[float, float]:
    """The best mean score in percent, and the no-answer score up to which the prediction is then given.

    Starting from "no answer" everywhere, predictions are admitted one by one, lowest no-answer score first, as the
    official script does; questions of one and the same no-answer score are so admitted in the order of that mapping.
    """
    total = best = float(sum(not references for references in labels.values()))
    threshold = 0.0
    for name in sorted(no_answer_scores, key=no_answer_scores.__getitem__):
        if name not in predictions or name not in labels:
            continue
        if labels[name]:
            total += outcomes[name]
        elif predictions[name]:
            total -= 1
        if total > best:
            best, threshold = total, no_answer_scores[name]
    return 100.0 * best / len(labels), threshold

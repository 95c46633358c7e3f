"""Scores of what was found among candidates: translations (Tatoeba, BUCC), answers (LAReQA), entities (Mewsli-X)."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from xlt_scale.evaluation.scorers.classification import score_accuracy
from xlt_scale.evaluation.scorers.score import Score, precision_recall_f1
from xlt_scale.evaluation.scorers.text_answers import count_ids

RETRIEVAL_VERSION = "tatoeba-accuracy-1"
BITEXT_MINING_VERSION = "bitext_mining-1"
MAP_AT_20_VERSION = "map_at_20-1"

Pair = tuple[str, str]
_NUM_RANKS = 20


def score_bitext_accuracy(predictions: Sequence[int], labels: Sequence[int], language: str = "") -> Score:
    """The share of sentences whose nearest neighbour is their translation, in percent.

    Args:
        predictions, labels: for each sentence of the source language, the number of the other language's sentence.
    """
    return score_accuracy(predictions, labels, language)


def score_bitext_mining(predictions: Collection[Pair], labels: Collection[Pair], language: str = "") -> Score:
    """F1, precision and recall of mined pairs by set overlap, in percent; a pair that is given twice counts once.

    `counts` has one row for each gold pair (whether it was found, the pairs predicted for its first sentence, 1) and a
    last one for what was predicted for other sentences, so that two systems have the same rows.
    """
    gold, predicted = list(dict.fromkeys(labels)), set(predictions)
    if not gold:
        raise ValueError("no items to score")
    left = Counter(pair[0] for pair in predicted)
    counts = np.array([(pair in predicted, left.pop(pair[0], 0), 1) for pair in gold] + [(0, 0, 0)], np.int32)
    counts[-1, 1] = left.total()
    precision, recall, f1 = precision_recall_f1(*(int(number) for number in counts.sum(axis=0)))
    return Score({"f1": f1, "precision": precision, "recall": recall}, {"counts": counts})


def score_map_at_20(
    predictions: Mapping[str, Sequence[str]], labels: Mapping[str, Collection[str]], language: str = ""
) -> Score:
    """Mean average precision over the first 20 ranks, in percent; with one gold id each, the mean reciprocal rank.

    Queries without a prediction score 0 and are counted as `missing`.

    Args:
        predictions: query id -> candidate ids, best first.
        labels: query id -> ids of the candidates that answer it, at least one.
    """
    if not labels:
        raise ValueError("no items to score")
    precisions = np.zeros(len(labels))
    for number, (name, gold) in enumerate(labels.items()):
        if not gold:
            raise ValueError(f"query {name!r} has no gold candidate")
        precisions[number] = average_precision(predictions.get(name, ()), set(gold))
    values = {"map_at_20": 100.0 * float(precisions.mean())}
    return Score(values | count_ids(predictions, labels), {"average_precision": precisions})


def average_precision(ranked: Sequence[str], gold: set[str], num_ranks: int = _NUM_RANKS) -> float:
    """Average precision of a ranking, 0..1.

    The sum of the precision at each rank that holds a gold id, divided by how many could be there: the smaller of the
    number of gold ids and of ranks (LAReQA). An id that is given again keeps its rank but counts no second time.
    """
    found: set[str] = set()
    total = 0.0
    for rank, name in enumerate(ranked[:num_ranks], start=1):
        if name in gold and name not in found:
            found.add(name)
            total += len(found) / rank
    return total / min(len(gold), num_ranks)

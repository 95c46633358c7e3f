"""Tasks that are answered by comparing vectors: translations by an encoder's own states, and dual encoders."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xlt_scale.errors import UserError
from xlt_scale.evaluation.answers import Answers
from xlt_scale.evaluation.bitext import (
    best_threshold,
    centred,
    mine,
    nearest_neighbours,
    ratio_margin_candidates,
    top_k,
)
from xlt_scale.evaluation.scorers.score import precision_recall_f1
from xlt_scale.tasks.examples import BitextExamples, TextExamples

Vectors = np.ndarray
Embed = Callable[[Sequence[str], Sequence[int]], Vectors]
"""Texts and layers -> fp32 [texts, layers, hidden size]; collective."""

NUM_RANKED = 20
_SWEEP_BYTES = 2 << 30


@dataclass(frozen=True)
class Layers:
    """Which layers' states are compared.

    Attributes:
        chosen: the layer of the headline score.
        all: every layer, for a sweep; () without one. The oracle among them is marked as such.
        hidden_size: numbers of one state.
    """

    chosen: int
    all: Sequence[int]
    hidden_size: int


def retrieve(examples: TextExamples, layers: Layers, embed: Embed) -> Answers:
    """For each source-language sentence its nearest one of the other language, by cosine; collective.

    Beside the chosen layer's answers stand the accuracy of centred vectors (each side minus its mean) and, on request,
    of every layer.
    """
    assert examples.text_pairs is not None
    labels = list(range(len(examples)))
    chosen: list[int] = []
    facts: dict[str, float] = {}
    for layer, foreign, source in _layer_by_layer(layers, embed, examples.texts, examples.text_pairs):
        raw = nearest_neighbours(source, foreign)
        shifted = nearest_neighbours(centred(source), centred(foreign))
        raw_score, shifted_score = (100.0 * float(np.mean(found == labels)) for found in (raw, shifted))
        if layer == layers.chosen:
            chosen = raw.tolist()
            facts["accuracy_centred"] = shifted_score
        if layers.all:
            facts |= {f"accuracy@layer-{layer}": raw_score, f"accuracy_centred@layer-{layer}": shifted_score}
    if layers.all:
        facts |= _oracle(facts, "accuracy", layers)
    facts |= {"layer": float(layers.chosen), "num_items": float(len(labels)), "chance": 100.0 / len(labels)}
    return Answers(chosen, labels, facts)


def mine_bitext(examples: BitextExamples, tuning: BitextExamples, layers: Layers, embed: Embed) -> Answers:
    """Pairs of translations among two collections: ratio margin, threshold tuned on `tuning`; collective.

    Artetxe & Schwenk 2019 (margin-based mining), as XTREME scores BUCC. A sweep over all layers also gives the score of
    the layer that is best on `tuning`.

    Raises:
        UserError: there are no gold pairs in either.
    """
    for part, where in ((tuning, "to set a threshold by"), (examples, "to score")):
        if not part.gold_pairs:
            raise UserError(
                f"bitext mining: among {len(part)} sentences there are no gold pairs {where}; raise evaluate_examples, "
                "or fetch the gold files"
            )
    chosen: list[tuple[str, str]] = []
    facts: dict[str, float] = {}
    best_on_dev = -1.0
    tuned = _layer_by_layer(layers, embed, tuning.texts, tuning.source_texts)
    tested = _layer_by_layer(layers, embed, examples.texts, examples.source_texts)
    tuning_gold, gold = _numbers(tuning), set(_numbers(examples))
    for (layer, tuned_foreign, tuned_source), (_, foreign, source) in zip(tuned, tested, strict=True):
        for name, shift in (("f1", False), ("f1_centred", True)):
            if shift:
                tuned_foreign, tuned_source = centred(tuned_foreign), centred(tuned_source)
                foreign, source = centred(foreign), centred(source)
            threshold, dev_value = best_threshold(ratio_margin_candidates(tuned_foreign, tuned_source), tuning_gold)
            pairs = mine(ratio_margin_candidates(foreign, source), threshold)
            found = sum(pair in gold for pair in pairs)
            _, _, value = precision_recall_f1(found, len(pairs), len(examples.gold_pairs))
            if layers.all:
                facts[f"{name}@layer-{layer}"] = value
                if not shift and dev_value > best_on_dev:
                    best_on_dev = dev_value
                    facts |= {"f1_by_dev_layer": value, "dev_layer": float(layer)}
            if layer == layers.chosen and shift:
                facts["f1_centred"] = value
            elif layer == layers.chosen:
                chosen = [(examples.ids[left], examples.source_ids[right]) for left, right in pairs]
                facts["threshold"] = threshold
    if layers.all:
        facts |= _oracle(facts, "f1", layers)
    facts |= {"layer": float(layers.chosen), "num_items": float(len(examples.gold_pairs))}
    return Answers(chosen, list(examples.gold_pairs), facts)


def rank(
    query_ids: Sequence[str],
    gold: Sequence[Sequence[str]],
    queries: Vectors,
    candidate_ids: Sequence[str],
    candidates: Vectors,
    device: str = "cpu",
) -> Answers:
    """For each query the 20 candidates with the largest dot product, best first.

    Args:
        gold: ids of the candidates that answer each query.
        queries, candidates: fp32 [items, size].
    """
    found, _ = top_k(queries, candidates, NUM_RANKED, device)
    ranked = {
        name: [candidate_ids[number] for number in row] for name, row in zip(query_ids, found.tolist(), strict=True)
    }
    facts = {"num_items": float(len(query_ids)), "num_candidates": float(len(candidate_ids))}
    return Answers(ranked, {name: list(ids) for name, ids in zip(query_ids, gold, strict=True)}, facts)


def _layer_by_layer(
    layers: Layers, embed: Embed, foreign: Sequence[str], source: Sequence[str]
) -> Iterator[tuple[int, Vectors, Vectors]]:
    """(layer, vectors of the foreign side, vectors of the source side) for each layer that is looked at.

    Several layers are kept of one pass over the texts, as many as fit the memory set aside for it.
    """
    wanted = list(layers.all) or [layers.chosen]
    bytes_per_layer = 4 * layers.hidden_size * (len(foreign) + len(source))
    at_once = max(1, _SWEEP_BYTES // bytes_per_layer)
    for start in range(0, len(wanted), at_once):
        part = wanted[start : start + at_once]
        foreign_vectors, source_vectors = embed(foreign, part), embed(source, part)
        for number, layer in enumerate(part):
            yield layer, foreign_vectors[:, number], source_vectors[:, number]


def _oracle(facts: Mapping[str, float], metric: str, layers: Layers) -> dict[str, float]:
    """The best layer by the test data themselves: an upper bound, never a score to report as the model's."""
    best = max(layers.all, key=lambda layer: facts[f"{metric}@layer-{layer}"])
    return {f"{metric}_oracle": facts[f"{metric}@layer-{best}"], "oracle_layer": float(best)}


def _numbers(examples: BitextExamples) -> list[tuple[int, int]]:
    """The gold pairs by the numbers of their sentences; without those that cannot be found, because a sentence was
    there twice and its second copy was dropped.
    """
    left = {name: number for number, name in enumerate(examples.ids)}
    right = {name: number for number, name in enumerate(examples.source_ids)}
    return [(left[one], right[other]) for one, other in examples.gold_pairs if one in left and other in right]

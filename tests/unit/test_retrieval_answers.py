"""Retrieval by an encoder's own states: the chosen layer, every layer on request, raw and centred; mining; ranking."""

from collections.abc import Sequence

import numpy as np
import pytest

from xlt_scale.errors import UserError
from xlt_scale.evaluation.retrieval import Layers, mine_bitext, rank, retrieve
from xlt_scale.tasks.examples import BitextExamples, TextExamples

TEXTS = [f"foreign {i}" for i in range(6)]
SOURCES = [f"source {i}" for i in range(6)]
LAYERS = Layers(chosen=1, all=range(3), hidden_size=6)


class Encoder:
    """Layer 2 tells all sentences apart, layer 1 takes the last two for each other, layer 0 knows nothing; a common
    direction is added on one side.
    """

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        self.calls.append(list(layers))
        numbers = [int(text.split()[-1]) for text in texts]
        swapped = {4: 5, 5: 4} if texts[0].startswith("foreign") else {}
        by_layer = {
            0: [np.ones(6)] * len(texts),
            1: [np.eye(6)[swapped.get(number, number)] for number in numbers],
            2: [np.eye(6)[number] for number in numbers],
        }
        vectors = np.stack([np.stack(by_layer[layer]) for layer in layers], axis=1)
        return vectors.astype(np.float32) + (0.1 if texts[0].startswith("foreign") else 0.0)


def test_the_chosen_layer_answers() -> None:
    encoder = Encoder()
    found = retrieve(TextExamples(TEXTS, SOURCES), Layers(1, (), 6), encoder)
    assert found.predictions == [0, 1, 2, 3, 5, 4]
    assert found.labels == [0, 1, 2, 3, 4, 5]
    assert found.facts["layer"] == 1
    assert found.facts["accuracy_centred"] == pytest.approx(400 / 6)
    assert encoder.calls == [[1], [1]]


def test_a_sweep_scores_every_layer_in_one_pass_and_marks_the_oracle() -> None:
    encoder = Encoder()
    facts = retrieve(TextExamples(TEXTS, SOURCES), LAYERS, encoder).facts
    assert facts["accuracy@layer-2"] == facts["accuracy_oracle"] == 100.0
    assert facts["oracle_layer"] == 2
    assert facts["accuracy@layer-0"] == pytest.approx(100 / 6)
    assert {f"accuracy_centred@layer-{layer}" for layer in range(3)} <= set(facts)
    assert encoder.calls == [[0, 1, 2], [0, 1, 2]]


def bitext(prefix: str) -> BitextExamples:
    return BitextExamples(
        ids=[f"{prefix}-de-{i}" for i in range(6)],
        texts=TEXTS,
        source_ids=[f"{prefix}-en-{i}" for i in range(6)],
        source_texts=SOURCES,
        gold_pairs=[(f"{prefix}-de-{i}", f"{prefix}-en-{i}") for i in range(6)],
    )


def test_pairs_are_mined_by_the_threshold_of_the_other_set() -> None:
    found = mine_bitext(bitext("test"), bitext("dev"), Layers(2, (), 6), Encoder())
    assert sorted(found.predictions) == sorted(found.labels)
    assert found.facts["num_items"] == 6
    assert found.facts["threshold"] > 0


def test_a_sweep_gives_the_score_of_the_layer_that_is_best_on_the_other_set() -> None:
    facts = mine_bitext(bitext("test"), bitext("dev"), LAYERS, Encoder()).facts
    assert facts["dev_layer"] == facts["oracle_layer"] == 2
    assert facts["f1_by_dev_layer"] == facts["f1@layer-2"] == 100.0
    assert facts["f1@layer-1"] < 100.0


def test_a_gold_pair_whose_sentence_was_dropped_as_a_copy_counts_as_not_found() -> None:
    with_lost_pair = bitext("test")
    with_lost_pair.gold_pairs.append(("test-de-copy", "test-en-0"))
    found = mine_bitext(with_lost_pair, bitext("dev"), LAYERS, Encoder())
    assert len(found.predictions) == 6
    assert found.facts["f1@layer-2"] == pytest.approx(200 * 6 / 13)


def test_a_part_without_any_gold_pair_cannot_be_scored_and_says_so() -> None:
    empty = bitext("dev")
    empty.gold_pairs = []
    with pytest.raises(UserError, match="among 6 sentences there are no gold pairs to set a threshold by"):
        mine_bitext(bitext("test"), empty, LAYERS, Encoder())


def test_a_part_of_a_collection_has_the_gold_pairs_of_its_sentences() -> None:
    part = bitext("test").take(range(2))
    assert part.gold_pairs == [("test-de-0", "test-en-0"), ("test-de-1", "test-en-1")]
    assert len(part.source_ids) == 6


def test_the_best_candidates_come_first() -> None:
    queries = np.eye(3, dtype=np.float32)
    found = rank(["a", "b", "c"], [["x"], ["y"], ["z"]], queries, ["z", "x", "y"], queries[[2, 0, 1]])
    assert {name: ids[0] for name, ids in found.predictions.items()} == {"a": "x", "b": "y", "c": "z"}
    assert found.labels == {"a": ["x"], "b": ["y"], "c": ["z"]}
    assert found.facts["num_candidates"] == 3

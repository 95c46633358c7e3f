"""Chunk F1 of tags, with and without prefixes; the probes of both seqeval versions were taken from the packages."""

import hashlib
import random
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from xlt_scale.evaluation.scorers import SCORERS
from xlt_scale.evaluation.scorers.chunks import find_chunks, type_after_last_hyphen, type_after_prefix

OTHER = "f1_seqeval_1.2.2"


def _bare(predictions: list[list[str]], labels: list[list[str]]) -> dict[str, float]:
    return SCORERS["tagging_f1"].score(predictions, labels, "en").values


def test_one_wrong_part_of_speech_of_three_costs_a_third() -> None:
    values = _bare([["PRON", "CCONJ", "VERB"]], [["PRON", "SCONJ", "VERB"]])
    assert values["f1"] == pytest.approx(200 / 3)


def test_seqeval_1_2_2_takes_two_conjunctions_for_one_type() -> None:
    values = _bare([["PRON", "CCONJ", "VERB"]], [["PRON", "SCONJ", "VERB"]])
    assert values[OTHER] == pytest.approx(100.0)
    assert values["token_accuracy"] == pytest.approx(200 / 3)


def test_neighbours_of_one_part_of_speech_are_one_chunk() -> None:
    # gold: NOUN 1-3, VERB; predicted: NOUN, ADJ, NOUN, VERB: one of four is right, one of two is found
    values = _bare([["NOUN", "ADJ", "NOUN", "VERB"]], [["NOUN", "NOUN", "NOUN", "VERB"]])
    assert values["precision"] == pytest.approx(25.0)
    assert values["recall"] == pytest.approx(50.0)
    assert values["f1"] == values[OTHER] == pytest.approx(100 / 3)
    assert values["token_accuracy"] == pytest.approx(75.0)


def test_a_chunk_ends_with_its_sentence() -> None:
    values = _bare([["NOUN"], ["NOUN"]], [["NOUN"], ["NOUN"]])
    assert values["f1"] == 100.0
    score = SCORERS["tagging_f1"].score([["NOUN"], ["VERB"]], [["NOUN"], ["NOUN"]], "en")
    assert score.items["counts"].tolist() == [[1, 1, 1], [0, 1, 1]]


def test_entities_count_when_type_and_both_ends_are_right() -> None:
    labels = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"]]
    predictions = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG"]]
    score = SCORERS["entity_f1"].score(predictions, labels, "en")
    assert score.values["f1"] == pytest.approx(100 / 3)
    assert score.values["token_accuracy"] == pytest.approx(50.0)
    assert score.items["counts"].tolist() == [[1, 2, 2], [0, 1, 1]]


def test_an_inside_tag_without_a_beginning_opens_an_entity() -> None:
    assert SCORERS["entity_f1"].score([["O", "I-PER"]], [["O", "B-PER"]], "en").values["f1"] == 100.0


def test_two_entities_of_one_type_can_touch() -> None:
    assert len(find_chunks([["B-PER", "B-PER", "I-PER"]], type_after_prefix)) == 2


def test_nothing_but_outside_scores_0_without_a_warning() -> None:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        values = SCORERS["entity_f1"].score([["O", "O"]], [["O", "O"]], "en").values
    assert (values["f1"], values["token_accuracy"]) == (0.0, 100.0)


def test_an_empty_sentence_is_an_item_without_chunks() -> None:
    score = SCORERS["tagging_f1"].score([["NOUN"], [], ["VERB"]], [["NOUN"], [], ["VERB"]], "en")
    assert score.items["counts"].tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]


def test_sentences_of_different_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="sentence 2 has 2 predicted tags for 1 labels"):
        _bare([["NOUN"], ["NOUN", "VERB"]], [["NOUN"], ["NOUN"]])


def random_sentences() -> Iterator[list[list[str]]]:
    """500 times three sentences of random tags, with prefixes and without, valid sequences and others."""
    generator = random.Random(0)
    tags = "O B-PER I-PER E-PER S-PER B-LOC I-LOC NOUN PRON SCONJ CCONJ X INTJ SYM PUNCT AUX . _ B I B-A-B I-A-B"
    for _ in range(500):
        some = generator.sample(tags.split(), generator.choice([3, 8, 22]))
        yield [[generator.choice(some) for _ in range(generator.randint(0, 8))] for _ in range(3)]


def digest(chunks: Iterable[set[tuple[str, int, int]]]) -> str:
    return hashlib.sha256(repr([sorted(found) for found in chunks]).encode()).hexdigest()[:16]


CHUNKS_OF_SEQEVAL = "0c351d3730bc0ad0"  # what seqeval 1.2.2's get_entities gives for these sentences


def test_chunks_are_those_of_seqeval() -> None:
    assert digest(find_chunks(sentences, type_after_prefix) for sentences in random_sentences()) == CHUNKS_OF_SEQEVAL


def test_that_is_what_the_package_gives_where_it_is_installed() -> None:
    sequence_labeling = pytest.importorskip("seqeval.metrics.sequence_labeling", reason="seqeval is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [set(sequence_labeling.get_entities(sentences)) for sentences in random_sentences()]
    assert digest(found) == CHUNKS_OF_SEQEVAL


def test_the_older_rule_knows_whole_tags_as_types() -> None:
    assert find_chunks([["SCONJ", "CCONJ", "X", "X"]], type_after_last_hyphen) == {
        ("SCONJ", 0, 0),
        ("CCONJ", 1, 1),
        ("X", 2, 3),
    }

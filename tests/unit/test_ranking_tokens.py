"""Training examples of ranking tasks: groups of a query and a candidate."""

import logging
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from small_tokenizers import FAMILIES, QUESTIONS, TEXT, closing, metaspace

from xlt_scale.data.tokenizing import tokenize
from xlt_scale.data.tokens import TokenizedData, concatenate
from xlt_scale.tasks.examples import RankingExamples

EXAMPLES = RankingExamples(
    query_ids=["a", "b", "c"],
    queries=[QUESTIONS[i][0] for i in (0, 1, 2)],
    gold=[["y"], ["x", "z"], ["y"]],
    candidate_ids=["x", "y", "z"],
    candidates=[QUESTIONS[i][2] for i in (1, 0, 3)],
    candidate_contexts=[QUESTIONS[i][1] for i in (1, 0, 3)],
)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of each kind."""
    return FAMILIES[request.param]()


def rows(data: TokenizedData) -> list[list[int]]:
    return [data.input_ids[start:end].tolist() for start, end in pairwise(data.offsets)]


def test_an_example_is_a_query_and_its_candidate_with_its_context(family: Any) -> None:
    data = tokenize(EXAMPLES, family, 256)
    expected = []
    for query, place in zip(EXAMPLES.queries, (1, 0, 1), strict=True):
        expected.append(family(query)["input_ids"])
        expected.append(family(EXAMPLES.candidates[place], EXAMPLES.candidate_contexts[place])["input_ids"])
    assert rows(data) == expected
    assert data.groups.tolist() == [0, 2, 4, 6]


def test_candidates_may_have_no_context(family: Any) -> None:
    data = tokenize(replace(EXAMPLES, candidate_contexts=None), family, 256)
    assert rows(data)[1] == family(EXAMPLES.candidates[1])["input_ids"]


def test_equal_candidates_have_equal_labels() -> None:
    labels = tokenize(EXAMPLES, metaspace(), 256).labels.tolist()
    assert labels[0] == labels[2] != labels[1]


def test_a_candidate_has_the_same_label_in_every_data_set() -> None:
    other = replace(EXAMPLES, candidate_ids=["y", "z", "x"], gold=[["x"], ["z"], ["y"]])
    parts = [tokenize(examples, metaspace(), 256) for examples in (EXAMPLES, other)]
    labels = concatenate(parts).labels.tolist()
    assert labels[5] == labels[0] and labels[3] == labels[1] and labels[4] not in labels[:4]


def test_a_query_takes_the_first_of_its_candidates_that_is_there() -> None:
    absent = replace(EXAMPLES, gold=[["elsewhere", "y"], ["x"], ["y"]])
    assert tokenize(absent, metaspace(), 256).fingerprint == tokenize(EXAMPLES, metaspace(), 256).fingerprint


def test_queries_without_a_candidate_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = tokenize(replace(EXAMPLES, gold=[["y"], ["elsewhere"], []]), metaspace(), 256)
    assert len(data) == 1
    assert caplog.messages == ["2 of 3 queries have no candidate here; they are left out"]


def test_queries_and_candidates_have_lengths_of_their_own() -> None:
    long = replace(EXAMPLES, queries=[" ".join(TEXT)] * 3, candidates=[" ".join(TEXT)] * 3)
    for max_length, query_max_length, expected in ((256, 96, (96, 256)), (64, 96, (64, 64)), (64, 20, (20, 64))):
        data = tokenize(long, metaspace(), max_length, query_max_length=query_max_length)
        assert {tuple(map(len, rows(data)[i : i + 2])) for i in (0, 2, 4)} == {expected}


def test_token_types_are_those_of_single_texts_and_pairs() -> None:
    data = tokenize(EXAMPLES, closing(), 256, token_types=True)
    kinds = [data.token_type_ids[start:end].tolist() for start, end in pairwise(data.offsets)]
    assert set(kinds[0]) == {0, 2}
    assert set(kinds[1]) == {0, 1, 2}

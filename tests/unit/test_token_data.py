"""Several tokenised data sets as one, and the fingerprint of their arrays."""

from typing import Any

import numpy as np
import pytest
from small_examples import FORMATS, LABELLED, TEXT, same

from xlt_scale.data.tokenizing import tokenize
from xlt_scale.data.tokens import TokenizedData, concatenate
from xlt_scale.tasks.examples import TextExamples as Examples


def test_concatenated_data_are_the_sequences_and_labels_of_all(tokenizer: Any) -> None:
    parts = [
        tokenize(Examples(TEXT[:2], labels=[0, 1]), tokenizer, 24),
        tokenize(Examples(TEXT[2:], labels=[2] * 4), tokenizer, 24),
    ]
    whole = tokenize(Examples(TEXT, labels=[0, 1, 2, 2, 2, 2]), tokenizer, 24)
    assert same(concatenate(parts), whole)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("token_types", [False, True])
def test_data_of_every_format_are_joined_example_by_example(tokenizer: Any, name: str, token_types: bool) -> None:
    # Candidates of a ranking are not per example: `take` leaves them all.
    halves = [FORMATS[name].take(range(2)), FORMATS[name].take(range(2, 6))]
    parts = [tokenize(half, tokenizer, 40, stride=5, token_types=token_types) for half in halves]
    assert same(concatenate(parts), tokenize(FORMATS[name], tokenizer, 40, stride=5, token_types=token_types))


def test_an_array_that_one_part_lacks_is_left_out(tokenizer: Any) -> None:
    parts = [tokenize(Examples(TEXT, TEXT, labels), tokenizer, 24) for labels in ([0] * 6, None)]
    assert concatenate(parts).labels is None


def test_one_data_set_alone_stays_as_it_is(tokenizer: Any) -> None:
    data = tokenize(LABELLED, tokenizer, 24)
    assert concatenate([data]) is data


def test_the_fingerprint_tells_every_array_apart() -> None:
    ids, offsets = np.array([1, 2, 3], dtype=np.int32), np.array([0, 1, 3])
    variants = [
        TokenizedData.from_arrays(ids, None, offsets, None),
        TokenizedData.from_arrays(ids[::-1], None, offsets, None),
        TokenizedData.from_arrays(ids, None, np.array([0, 2, 3]), None),
        TokenizedData.from_arrays(ids, np.array([0, 0, 1], dtype=np.uint8), offsets, None),
        TokenizedData.from_arrays(ids, None, offsets, np.array([0, 1])),
        TokenizedData.from_arrays(ids, None, offsets, None, owners=np.array([0, 1])),
        TokenizedData.from_arrays(ids, None, offsets, None, groups=np.array([0, 1])),
        TokenizedData.from_arrays(ids, None, offsets, None, token_labels=np.array([0, 1, 2], dtype=np.int16)),
        TokenizedData.from_arrays(ids, None, offsets, None, char_offsets=np.zeros((3, 2), dtype=np.int32)),
    ]
    assert len({data.fingerprint for data in variants}) == len(variants)


def test_the_fingerprint_of_plain_texts_stays_what_it_was() -> None:
    data = TokenizedData.from_arrays(
        np.array([0, 5, 2], dtype=np.int32), None, np.array([0, 3]), np.array([1], dtype=np.int64)
    )
    assert data.fingerprint == "01cd9168da16a16c7022eb58abedf420"

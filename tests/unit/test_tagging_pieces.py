"""Tagged sentences as tokens: every word has one target, in pieces no longer than the model reads."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_tokenizers import FAMILIES, TEXT, byte_level, metaspace, word_piece

from xlt_scale.data.masking import IGNORED
from xlt_scale.data.tokenizing import tokenize
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import TaggedExamples

SENTENCES = [text.split() for text in TEXT]
HARD_WORDS = ["\u200b", "\x07", "", " ", "\u3000", "👩🏽‍🚀", "ు", "x" * 300, "กรุงเทพมหานคร", "<s>", "می\u200cروم"]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of each kind."""
    return FAMILIES[request.param]()


def tagged(sentences: list[list[str]]) -> TaggedExamples:
    """Sentences whose tags count their words through the data set."""
    numbers = iter(range(10**6))
    return TaggedExamples(sentences, [[next(numbers) for _ in words] for words in sentences])


def targets(data: TokenizedData) -> list[int]:
    return data.token_labels[data.token_labels != IGNORED].tolist()


def rows(data: TokenizedData) -> list[list[int]]:
    return [data.input_ids[start:end].tolist() for start, end in pairwise(data.offsets)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sentences=st.lists(
        st.lists(st.sampled_from(HARD_WORDS + [word for words in SENTENCES for word in words]), max_size=40),
        min_size=1,
        max_size=5,
    ),
    max_length=st.integers(5, 60),
)
def test_every_word_has_exactly_one_target_in_order(family: Any, sentences: list[list[str]], max_length: int) -> None:
    data = tokenize(tagged(sentences), family, max_length)
    assert targets(data) == list(range(sum(len(words) for words in sentences)))
    assert not len(data) or data.lengths.max() <= max_length
    assert all((data.token_labels[start:end] != IGNORED).any() for start, end in pairwise(data.offsets))


def test_owners_are_the_sentences_that_pieces_come_from(family: Any) -> None:
    data = tokenize(tagged(SENTENCES), family, 12)
    words = [0] * len(SENTENCES)
    for owner, (start, end) in zip(data.owners, pairwise(data.offsets), strict=True):
        words[owner] += int((data.token_labels[start:end] != IGNORED).sum())
    assert words == [len(sentence) for sentence in SENTENCES]
    assert data.owners.tolist() == sorted(data.owners.tolist())


@pytest.mark.parametrize("name", ["metaspace", "closing", "word_piece"])
def test_a_sentence_has_the_tokens_of_the_tokenizers_own_way_with_words(name: str) -> None:
    tokenizer = FAMILIES[name]()
    data = tokenize(tagged(SENTENCES), tokenizer, 500)
    for row, (start, end), words in zip(rows(data), pairwise(data.offsets), SENTENCES, strict=True):
        encoded = tokenizer(words, is_split_into_words=True)
        assert row == encoded["input_ids"]
        numbers = encoded.word_ids()
        first = [
            i for i, number in enumerate(numbers) if number is not None and number != (numbers[i - 1] if i else None)
        ]
        assert np.flatnonzero(data.token_labels[start:end] != IGNORED).tolist() == first


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_words_of_a_byte_level_tokenizer_have_the_space_before_them(add_prefix_space: bool) -> None:
    tokenizer, words = byte_level(add_prefix_space), ["The", "crew", "raised", "the", "moon"]
    (row,) = rows(tokenize(tagged([words]), tokenizer, 64))
    assert row == tokenizer("The crew raised the moon")["input_ids"]


def test_pieces_end_at_ends_of_words_and_are_as_full_as_can_be() -> None:
    tokenizer = word_piece()
    words = [word for sentence in SENTENCES for word in sentence]
    counts = [max(1, len(tokenizer(word, add_special_tokens=False)["input_ids"])) for word in words]
    data = tokenize(tagged([words]), tokenizer, 2 + 20)
    pieces, used = [[]], 0
    for number, count in enumerate(counts):
        if used + count > 20:
            pieces.append([])
            used = 0
        pieces[-1].append(number)
        used += count
    found = [data.token_labels[start:end] for start, end in pairwise(data.offsets)]
    assert [labels[labels != IGNORED].tolist() for labels in found] == pieces


def test_a_word_without_sub_words_is_the_unknown_token() -> None:
    tokenizer = word_piece()
    assert tokenizer("\u200b", add_special_tokens=False)["input_ids"] == []
    (row,) = rows(tokenize(tagged([["\u200b"]]), tokenizer, 8))
    assert row == [tokenizer.cls_token_id, tokenizer.unk_token_id, tokenizer.sep_token_id]


def test_a_word_longer_than_a_sequence_keeps_its_label_and_loses_its_end() -> None:
    tokenizer, long = metaspace(), "unbelievablyslow" * 9
    tokens = tokenizer(long, add_special_tokens=False)["input_ids"]
    data = tokenize(tagged([["how", long, "now"]]), tokenizer, 12)
    assert [tokenizer.cls_token_id, *tokens[:10], tokenizer.sep_token_id] in rows(data)
    assert targets(data) == [0, 1, 2]


def test_without_gold_tags_all_classes_are_0(family: Any) -> None:
    data = tokenize(TaggedExamples(SENTENCES), family, 64)
    assert targets(data) == [0] * sum(len(words) for words in SENTENCES)


def test_a_sentence_without_words_has_no_sequence_but_its_number(family: Any) -> None:
    data = tokenize(tagged([["a"], [], ["moon"]]), family, 64)
    assert data.owners.tolist() == [0, 2]


def test_no_sentence_at_all_is_no_sequence(family: Any) -> None:
    assert len(tokenize(tagged([[]]), family, 64)) == 0


def test_token_types_are_those_of_one_text() -> None:
    tokenizer = FAMILIES["closing"]()
    data = tokenize(tagged([["moon", "crew"]]), tokenizer, 64, token_types=True)
    assert data.token_type_ids.tolist() == [0] * (len(data.input_ids) - 1) + [2]


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.max_length = 2 leaves no room beside 2 special tokens"):
        tokenize(tagged([["moon"]]), metaspace(), 2)

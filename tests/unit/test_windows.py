"""Questions about passages as windows: what each holds, and where the answer lies in it, in any script."""

import json
import logging
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_tokenizers import FAMILIES, QUESTIONS, byte_level, closing, metaspace, word_piece

from xlt_scale.data.answers import find_answer
from xlt_scale.data.tokenizing import tokenize
from xlt_scale.data.tokens import TokenizedData, concatenate
from xlt_scale.data.window_tokens import MAX_QUESTION_LENGTH, NO_ANSWER_POSITION
from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import QuestionExamples

LONG = " ".join(passage for _, passage, _ in QUESTIONS)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of each kind."""
    return FAMILIES[request.param]()


def asked(*questions: tuple[str, str, str | None]) -> QuestionExamples:
    """Questions with the place of the answer's first occurrence; no answer where it is None."""
    examples = QuestionExamples()
    for number, (question, passage, answer) in enumerate(questions):
        examples.ids.append(str(number))
        examples.questions.append(question)
        examples.contexts.append(passage)
        examples.answers.append([] if answer is None else [(answer, passage.index(answer))])
    return examples


def passage_part(data: TokenizedData, window: int) -> tuple[list[int], np.ndarray]:
    """The passage's tokens of a window, and their characters."""
    tokens = slice(data.offsets[window], data.offsets[window + 1])
    inside = data.char_offsets[tokens, 0] >= 0
    return data.input_ids[tokens][inside].tolist(), data.char_offsets[tokens][inside]


def labelled_text(data: TokenizedData, window: int, passage: str) -> str:
    """The characters of the passage from the first to the last labelled token."""
    first, last = data.offsets[window] + data.labels[window]
    return passage[data.char_offsets[first, 0] : data.char_offsets[last, 1]]


def plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# Where the answer lies


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_the_labelled_tokens_hold_the_answer_and_no_token_too_many(family: Any, number: int) -> None:
    _, passage, answer = QUESTIONS[number]
    data = tokenize(asked(QUESTIONS[number]), family, 512)
    first, last = (data.labels[0] + data.offsets[0]).tolist()
    assert answer.strip("\u00ad\ufeff\u200b") in labelled_text(data, 0, passage)
    start, end = passage.index(answer), passage.index(answer) + len(answer)
    for token in (first, last):
        token_start, token_end = data.char_offsets[token]
        assert token_start < end and token_end > start


@pytest.mark.parametrize("tokenizer", [word_piece(), byte_level()], ids=["word_piece", "byte_level"])
@pytest.mark.parametrize("number", [0, 1, 2, 5, 8, 10, 13])
def test_an_answer_of_whole_words_is_found_to_the_character(tokenizer: Any, number: int) -> None:
    question, passage, answer = QUESTIONS[number]
    if answer == "서울특별시":
        passage = passage.replace("이며", " 이며")
    data = tokenize(asked((question, passage, answer)), tokenizer, 512)
    assert labelled_text(data, 0, passage) == answer


def test_an_answer_inside_a_sub_word_takes_the_whole_sub_word(family: Any) -> None:
    _, spans = passage_part(tokenize(asked(("x", LONG, None)), family, 2000), 0)
    token = next(number for number, (start, end) in enumerate(spans) if end - start >= 3)
    start, end = spans[token].tolist()
    examples = asked(("x", LONG, None))
    examples.answers = [[(LONG[start + 1 : end - 1], start + 1)]]
    data = tokenize(examples, family, 2000)
    first, last = data.labels[0].tolist()
    assert first == last
    assert labelled_text(data, 0, LONG) == LONG[start:end]


def test_a_mark_that_the_tokenizer_drops_stays_with_its_letter() -> None:
    passage = "le cafe\u0301 noir, గోదావరి నదిలో."
    for answer in ("cafe\u0301", "నదిలో"):
        assert labelled_text(tokenize(asked(("x", passage, answer)), word_piece(), 64), 0, passage) == answer


def test_a_character_of_several_tokens_is_labelled_from_the_first_to_the_last() -> None:
    tokenizer, passage = byte_level(), "a 𒀭 b"
    num_tokens = len(plain(tokenizer, " 𒀭"))
    data = tokenize(asked(("x", passage, "𒀭")), tokenizer, 64)
    first, last = data.labels[0].tolist()
    assert num_tokens > 2
    assert labelled_text(data, 0, passage) == "𒀭"
    assert last - first + 1 in (num_tokens, num_tokens - 1)  # a token of the space alone is none of the answer's


def test_spaces_at_the_ends_of_an_answer_are_not_counted(family: Any) -> None:
    passage = "over the moon"
    with_spaces, without = (tokenize(asked(("x", passage, text)), family, 64) for text in (" the ", "the"))
    assert with_spaces.labels.tolist() == without.labels.tolist()


def test_characters_of_tokens_have_no_spaces_at_their_ends(family: Any) -> None:
    passage = "  two\u3000 words\u00a0here \t"
    _, spans = passage_part(tokenize(asked(("x", passage, None)), family, 64), 0)
    texts = [passage[start:end] for start, end in spans]
    assert texts == [text.strip() for text in texts]
    assert {"two", "words", "here"} <= {passage[a:b] for a in spans[:, 0] for b in spans[:, 1]}


def test_only_the_first_answer_is_trained_on(family: Any) -> None:
    examples = asked(("x", "the moon and the crew", "the moon"))
    one = tokenize(examples, family, 64)
    examples.answers[0].append(("the crew", 13))
    assert tokenize(examples, family, 64).labels.tolist() == one.labels.tolist()


def test_of_equal_texts_the_one_at_the_given_character_is_meant(family: Any) -> None:
    passage = "the hen, the moon, the hen"
    examples = asked(("x", passage, "the hen"))
    examples.answers = [[("the hen", 19)]]
    data = tokenize(examples, family, 64)
    first = data.offsets[0] + data.labels[0, 0]
    assert data.char_offsets[first, 0] == 19


@pytest.mark.parametrize(("start", "expected"), [(2, 0), (17, 19), (25, 19), (-3, 0)])
def test_a_wrong_character_is_mended_by_the_nearest_occurrence(start: int, expected: int) -> None:
    passage = "the hen, the moon, the hen"
    spans = np.array([[i, i + 1] for i in range(len(passage))])
    assert find_answer("the hen", start, passage, spans) == (expected, expected + 6)


def test_an_answer_that_the_passage_has_not_is_none() -> None:
    assert find_answer("the cock", 0, "the hen", np.array([[0, 3], [4, 7]])) is None


def test_a_blank_answer_is_none() -> None:
    assert find_answer("  ", 0, "the hen", np.array([[0, 3], [4, 7]])) is None


def test_a_question_without_answer_points_at_the_first_token(family: Any) -> None:
    data = tokenize(asked(("Which flag?", "over the moon", None)), family, 64)
    assert data.labels.tolist() == [[NO_ANSWER_POSITION] * 2]
    assert data.char_offsets[NO_ANSWER_POSITION].tolist() == [-1, -1]


def test_the_first_token_is_never_of_the_passage(family: Any) -> None:
    data = tokenize(asked(("", "over the moon", "over")), family, 64)
    assert data.char_offsets[0].tolist() == [-1, -1]
    assert data.labels[0, 0] > 0


# What windows hold


def test_a_short_passage_is_framed_as_the_tokenizer_frames_a_pair(family: Any) -> None:
    examples = asked(*QUESTIONS)
    data = tokenize(examples, family, 512, token_types=True)
    for window, (question, passage, _) in enumerate(QUESTIONS):
        encoded = family(question, passage, return_token_type_ids=True)
        tokens = slice(data.offsets[window], data.offsets[window + 1])
        assert data.input_ids[tokens].tolist() == encoded["input_ids"]
        assert data.token_type_ids[tokens].tolist() == encoded["token_type_ids"]
    assert data.owners.tolist() == list(range(len(QUESTIONS)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(max_length=st.integers(30, 120), stride=st.integers(0, 10), question=st.sampled_from(QUESTIONS))
def test_windows_cover_the_passage_and_neighbours_share_the_stride(
    family: Any, max_length: int, stride: int, question: tuple[str, str, str]
) -> None:
    data = tokenize(asked((question[0], LONG, question[2])), family, max_length, stride=stride)
    parts = [passage_part(data, window)[0] for window in range(len(data))]
    whole = list(parts[0])
    for before, part in pairwise(parts):
        assert not stride or before[-stride:] == part[:stride]
        assert len(part) > stride
        whole += part[stride:]
    assert whole == plain(family, LONG)
    assert data.lengths.max() <= max_length
    assert (data.lengths[:-1] == max_length).all()
    assert set(data.owners.tolist()) == {0}


def test_each_window_that_holds_the_whole_answer_is_labelled_and_no_other() -> None:
    tokenizer = word_piece()
    data = tokenize(asked(("Which?", LONG, "Kilimanjaro")), tokenizer, 60, stride=25)
    start = LONG.index("Kilimanjaro")
    for window in range(len(data)):
        _, spans = passage_part(data, window)
        holds = spans[:, 0].min() <= start and spans[:, 1].max() >= start + len("Kilimanjaro")
        assert holds == bool(data.labels[window].any())
        if holds:
            assert labelled_text(data, window, LONG) == "Kilimanjaro"
    assert (data.labels[:, 0] > 0).sum() >= 1


def test_an_answer_cut_by_a_window_is_no_answer_there() -> None:
    tokenizer = word_piece()
    data = tokenize(asked(("Which?", LONG, LONG[: len(LONG) // 2])), tokenizer, 60, stride=25)
    assert not data.labels.any()


def test_answers_that_no_window_holds_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    examples = asked(("a?", LONG, LONG[:500]), ("b?", LONG, LONG[500:]), ("c?", LONG, "moon"), ("d?", LONG, None))
    with caplog.at_level(logging.INFO):
        tokenize(examples, word_piece(), 60, stride=25)
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 answers are in no window whole (too long, or not in the passage); they count as no answer"
    ]


def test_a_long_question_loses_its_end(family: Any) -> None:
    data = tokenize(asked((LONG, "over the moon", "moon")), family, 384)
    tokens = data.input_ids.tolist()
    kept = plain(family, LONG)[:MAX_QUESTION_LENGTH]
    assert any(tokens[i : i + len(kept)] == kept for i in range(4))
    assert len(tokens) <= MAX_QUESTION_LENGTH + len(plain(family, "over the moon")) + 4
    assert labelled_text(data, 0, "over the moon") != ""


def test_in_a_short_window_the_question_has_half_of_the_room() -> None:
    data = tokenize(asked((LONG, LONG, None)), metaspace(), 4 + 20, stride=3)
    assert len(passage_part(data, 0)[0]) == 10


def test_windows_without_new_text_are_refused_with_the_mend() -> None:
    with pytest.raises(UserError) as error:
        tokenize(asked((LONG, LONG, None)), metaspace(), 4 + 20, stride=10)
    assert str(error.value) == (
        "stride = 10 is too large: a window of max_length = 24 holds as few as 10 tokens of a passage; "
        "set the task's stride lower, or max_length higher"
    )


def test_the_stride_does_not_matter_where_passages_fit() -> None:
    assert len(tokenize(asked(("a", "over the moon", None)), metaspace(), 64, stride=500)) == 1


def test_an_empty_passage_is_one_window(family: Any) -> None:
    data = tokenize(asked(("Which?", "", None), ("Which?", "", None)), family, 64)
    assert len(data) == 2
    assert (data.char_offsets == -1).all()


def test_questions_about_one_passage_have_the_windows_they_have_alone(family: Any) -> None:
    questions = [(question, LONG, answer) for question, _, answer in QUESTIONS]
    together = tokenize(asked(*questions), family, 90, stride=20)
    alone = concatenate([tokenize(asked(question), family, 90, stride=20) for question in questions])
    assert together.fingerprint == alone.fingerprint


def test_token_types_are_those_of_the_family() -> None:
    data = tokenize(asked(("a", "over the moon", None)), closing(), 64, token_types=True)
    question, passage = len(plain(closing(), "a")), len(plain(closing(), "over the moon"))
    assert data.token_type_ids.tolist() == [0] * (question + 1) + [1] * (passage + 1) + [2]


# Published files


@pytest.mark.parametrize("language", ["ar", "de", "en", "es", "hi", "zh"])
def test_every_answer_of_xquad_is_found(language: str) -> None:
    path = Path(os.environ.get("XLT_SCALE_DATA", "")) / "targets" / "xquad" / f"xquad.{language}.json"
    if not os.environ.get("XLT_SCALE_DATA") or not path.is_file():
        pytest.skip("XLT_SCALE_DATA has no XQuAD in this language")
    examples = QuestionExamples()
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for item in paragraph["qas"]:
                examples.ids.append(item["id"])
                examples.questions.append(item["question"])
                examples.contexts.append(paragraph["context"])
                examples.answers.append([(found["text"], found["answer_start"]) for found in item["answers"]])
    data = tokenize(examples, byte_level(), 1000)
    labelled = np.flatnonzero(data.labels[:, 0])
    assert set(data.owners[labelled].tolist()) == set(range(len(examples)))
    num_exact = 0
    for window in labelled:
        passage, [(answer, start), *_] = examples.contexts[data.owners[window]], examples.answers[data.owners[window]]
        text = labelled_text(data, window, passage)
        assert answer.strip() in text
        if text == answer.strip():
            num_exact += 1
            continue
        # More than the answer only where a sub-word straddles one of its ends.
        first, last = data.offsets[window] + data.labels[window]
        assert data.char_offsets[first, 1] > start and data.char_offsets[last, 0] < start + len(answer)
    assert num_exact >= 0.99 * len(labelled)

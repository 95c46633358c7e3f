"""Questions about passages as windows: the question with a stretch of the passage's tokens that fits."""

import logging
from typing import Any

import numpy as np

from xlt_scale.data.answers import characters_of_tokens, find_answer
from xlt_scale.data.encoded_texts import EncodedTexts, distinct, encode_texts, ranges
from xlt_scale.data.frames import find_frame, frame_sequences
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import QuestionExamples

logger = logging.getLogger(__name__)

NO_ANSWER_POSITION = 0
"""Place in every window, whatever the tokenizer, that stands for "no answer here": its first token. That is <s> or
[CLS] where sequences begin with it, and the question's first token where they do not (XLNet, T5); it is never one of
the passage, so no answer can claim it."""

MAX_QUESTION_LENGTH = 64


def tokenize_questions(
    examples: QuestionExamples, tokenizer: Any, max_length: int, stride: int, token_types: bool
) -> TokenizedData:
    """Windows of each question in order: special tokens, question, a stretch of the passage.

    A question has at most 64 tokens, and at most half of the room, and loses its end. The windows of a question begin
    at the passage's start, neighbours share exactly `stride` tokens of the passage, and the last one ends where the
    passage ends. `owners` are numbers of questions. Each distinct passage and question is tokenised once.

    `labels` are of the first answer only: the smallest range of tokens that covers it, in windows that hold all of it;
    `NO_ANSWER_POSITION` twice in the others, and in all windows of a question without answer. Answers that no window
    holds are counted and told.

    `char_offsets` leave out the spaces at a token's ends; a token of spaces only covers no characters.

    Raises:
        UserError: `max_length` leaves no room for text, or not more than `stride` tokens of a passage that needs
            several windows.
    """
    frame = find_frame(tokenizer, pair=True)
    room = frame.room(max_length)
    question_texts, question_numbers = distinct(examples.questions)
    passage_texts, passage_numbers = distinct(examples.contexts)
    questions = encode_texts(tokenizer, question_texts)
    passages = encode_texts(tokenizer, passage_texts, with_characters=True)
    spans = characters_of_tokens(passage_texts, passages)

    question_lengths = np.minimum(questions.lengths, min(MAX_QUESTION_LENGTH, room // 2))[question_numbers]
    passage_lengths = passages.lengths[passage_numbers]
    window_rooms = room - question_lengths
    num_windows = _count_windows(passage_lengths, window_rooms, stride, max_length)
    owners = np.repeat(np.arange(len(examples)), num_windows)
    # The how-manieth window of its question each one is.
    orders = ranges(np.zeros(len(examples), dtype=np.int64), num_windows)
    starts = orders * (window_rooms[owners] - stride)
    lengths = np.minimum(window_rooms[owners], passage_lengths[owners] - starts)

    framed = frame_sequences(
        frame,
        [
            EncodedTexts(questions.tokens, questions.starts[question_numbers][owners], question_lengths[owners]),
            EncodedTexts(passages.tokens, passages.starts[passage_numbers][owners] + starts, lengths),
        ],
    )
    answers = _answer_tokens(examples, passages, spans, passage_numbers)
    passage_places = len(frame.specials[0]) + question_lengths[owners] + len(frame.specials[1])
    labels = _window_labels(answers[owners], starts, lengths, passage_places)
    _tell_lost_answers(examples, owners, labels)
    return TokenizedData.from_arrays(
        framed.input_ids,
        framed.token_type_ids if token_types else None,
        framed.offsets,
        labels,
        char_offsets=np.where((framed.origins >= 0)[:, None], spans[framed.origins], -1).astype(np.int32)
        if len(spans)
        else np.full((len(framed.input_ids), 2), -1, dtype=np.int32),
        owners=owners,
    )


def _count_windows(passage_lengths: np.ndarray, rooms: np.ndarray, stride: int, max_length: int) -> np.ndarray:
    """Windows of each question, int64 [questions]; at least one."""
    too_long = passage_lengths > rooms
    if too_long.any() and rooms[too_long].min() <= stride:
        raise UserError(
            f"stride = {stride} is too large: a window of max_length = {max_length} holds as few as "
            f"{rooms[too_long].min()} tokens of a passage; set the task's stride lower, or max_length higher"
        )
    steps = np.maximum(rooms - stride, 1)
    return np.where(too_long, 1 + -(-(passage_lengths - rooms) // steps), 1)


def _answer_tokens(
    examples: QuestionExamples, passages: EncodedTexts, spans: np.ndarray, passage_numbers: np.ndarray
) -> np.ndarray:
    """First and last token of each question's first answer in its passage, -1 where there is none, int64 [., 2]."""
    found = np.full((len(examples), 2), -1, dtype=np.int64)
    for number, answers in enumerate(examples.answers):
        if answers:
            passage = passage_numbers[number]
            own = slice(passages.starts[passage], passages.starts[passage] + passages.lengths[passage])
            place = find_answer(*answers[0], examples.contexts[number], spans[own])
            if place is not None:
                found[number] = place
    return found


def _window_labels(
    answers: np.ndarray, starts: np.ndarray, lengths: np.ndarray, passage_places: np.ndarray
) -> np.ndarray:
    """From places in the passage to places in each window, int64 [windows, 2].

    Args:
        answers: first and last token in the passage, -1 for none, int64 [windows, 2].
        starts, lengths: the passage's tokens that the window has, int64 [windows].
        passage_places: where in the window they begin, int64 [windows].
    """
    is_inside = (answers[:, 0] >= starts) & (answers[:, 1] < starts + lengths)
    return np.where(is_inside[:, None], answers + (passage_places - starts)[:, None], NO_ANSWER_POSITION)


def _tell_lost_answers(examples: QuestionExamples, owners: np.ndarray, labels: np.ndarray) -> None:
    has_answer = np.array([bool(answers and answers[0][0].strip()) for answers in examples.answers], dtype=bool)
    has_window = np.zeros(len(examples), dtype=bool)
    has_window[owners[labels[:, 0] != NO_ANSWER_POSITION]] = True
    num_lost = int((has_answer & ~has_window).sum())
    if num_lost:
        logger.info(
            "%d of %d answers are in no window whole (too long, or not in the passage); they count as no answer",
            num_lost,
            has_answer.sum(),
        )

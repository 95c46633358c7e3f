"""Answers from start and end scores of windows: the n best spans of each question.

A long passage is read in windows that overlap, so the same span can have several scores: the best one counts, as in the
public SQuAD script for BERT; where in a window the span lies ("maximum context") is not considered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Span:
    """A possible answer: `text` is `context[start:end]`; `score` is the sum of its start and its end score."""

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Answer:
    """What is predicted for one question.

    Attributes:
        text: the answer; "" for none.
        n_best: the best spans, best first, each with another text range; empty if no span is possible.
        no_answer_score: score of "no answer" minus that of the best span; infinite if no span is possible.
    """

    text: str
    n_best: list[Span] = field(default_factory=list)
    no_answer_score: float = float("inf")


def decode_spans(
    start_scores: np.ndarray,
    end_scores: np.ndarray,
    offsets: np.ndarray,
    owners: np.ndarray,
    char_offsets: np.ndarray,
    contexts: Sequence[str],
    n_best: int = 20,
    max_answer_tokens: int = 30,
    no_answer: bool = False,
    no_answer_threshold: float = 0.0,
) -> list[Answer]:
    """The answer to every question.

    A span begins and ends with a token of the context and has at most `max_answer_tokens` tokens. Its text is cut from
    the context as it stands, without white space around it; spans of nothing else are left out. Equal scores are
    decided by the earliest start, then by the shortest text. The score of "no answer" is that of a window's first token
    as start and end, the smallest over the windows.

    Args:
        start_scores, end_scores: float32 [tokens], windows one after another.
        offsets: where each window begins among the tokens, int64 [windows + 1].
        owners: the question of each window, int64 [windows].
        char_offsets: first character of each token in its context and the one after its last, int32 [tokens, 2]; -1, -1
            for tokens that are not of the context.
        contexts: the passage of each question.
        no_answer: predict "" where `no_answer_score` exceeds `no_answer_threshold`.
    """
    if n_best < 1 or max_answer_tokens < 1:
        raise ValueError("n_best and max_answer_tokens must be at least 1")
    if not (np.isfinite(start_scores).all() and np.isfinite(end_scores).all()):
        raise ValueError("start or end scores are not finite numbers")
    windows: list[list[int]] = [[] for _ in contexts]
    for window, owner in enumerate(owners.tolist()):
        windows[owner].append(window)
    answers = []
    for context, mine in zip(contexts, windows, strict=True):
        trimmed = _Trimmed(context)
        candidates, null_score = [], float("inf")
        for window in mine:
            tokens = slice(int(offsets[window]), int(offsets[window + 1]))
            if tokens.start == tokens.stop:
                continue
            null_score = min(null_score, float(start_scores[tokens.start] + end_scores[tokens.start]))
            candidates.append(
                _best_of_window(
                    start_scores[tokens], end_scores[tokens], char_offsets[tokens], trimmed, n_best, max_answer_tokens
                )
            )
        best = _best_of_question(candidates, context, n_best)
        if not best:
            answers.append(Answer(""))
            continue
        difference = null_score - best[0].score
        is_empty = no_answer and difference > no_answer_threshold
        answers.append(Answer("" if is_empty else best[0].text, best, difference))
    return answers


class _Trimmed:
    """Where a range of a context begins and ends without the white space around it."""

    def __init__(self, context: str) -> None:
        length = len(context)
        is_text = np.fromiter((not character.isspace() for character in context), bool, length)
        places = np.arange(length)
        # first[i]: the first character of text from i on; last[i]: one after the last one before i.
        self.first = np.full(length + 1, length, np.int64)
        self.first[:-1] = np.minimum.accumulate(np.where(is_text, places, length)[::-1])[::-1]
        self.last = np.zeros(length + 1, np.int64)
        self.last[1:] = np.maximum.accumulate(np.where(is_text, places + 1, 0))


def _best_of_window(
    start_scores: np.ndarray,
    end_scores: np.ndarray,
    char_offsets: np.ndarray,
    trimmed: _Trimmed,
    n_best: int,
    max_answer_tokens: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, first and last character (exclusive) of the best spans of one window, each [spans], in no order.

    Ties at the end of the list are all kept, for they can only be decided once the windows are together.
    """
    inside = np.flatnonzero(char_offsets[:, 0] >= 0)
    if not len(inside):
        return np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64)
    # Question and special tokens stand before and after the context; between them every token may be in a span.
    tokens = slice(int(inside[0]), int(inside[-1]) + 1)
    is_context = char_offsets[tokens, 0] >= 0
    first = trimmed.first[np.where(is_context, char_offsets[tokens, 0], 0)]
    last = trimmed.last[np.where(is_context, char_offsets[tokens, 1], 0)]
    width = min(max_answer_tokens, len(is_context))
    starts = np.where(is_context, start_scores[tokens], -np.inf)
    padding = np.full(width - 1, -np.inf, np.float32)
    ends = np.concatenate([np.where(is_context, end_scores[tokens], -np.inf), padding])
    scores = starts[:, None] + np.lib.stride_tricks.sliding_window_view(ends, width)
    ends_at = np.concatenate([last, np.zeros(width - 1, np.int64)])
    scores[np.lib.stride_tricks.sliding_window_view(ends_at, width) <= first[:, None]] = -np.inf
    # Neighbouring tokens can share their characters (a word's blank and the word), hence more than are asked for.
    number = min(4 * n_best, scores.size)
    least = np.partition(scores, scores.size - number, axis=None)[scores.size - number]
    row, column = np.nonzero((scores >= least) & (scores > -np.inf))
    return scores[row, column], first[row], last[row + column]


def _best_of_question(
    candidates: list[tuple[np.ndarray, np.ndarray, np.ndarray]], context: str, n_best: int
) -> list[Span]:
    if not candidates:
        return []
    scores, first, last = (np.concatenate(column) for column in zip(*candidates, strict=True))
    order = np.lexsort((last - first, first, -scores))
    best: dict[tuple[int, int], Span] = {}
    for score, start, end in zip(scores[order].tolist(), first[order].tolist(), last[order].tolist(), strict=True):
        if (start, end) not in best:
            best[start, end] = Span(context[start:end], score, start, end)
            if len(best) == n_best:
                break
    return list(best.values())

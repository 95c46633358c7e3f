"""Answers from start and end scores: windows, limits, ties, and scripts of all kinds."""

import time

import numpy as np
import pytest

from xlt_scale.evaluation.spans import Answer, decode_spans


def _decode(context: str, windows: list[list[tuple[float, float, int, int]]], **options: int | bool | float) -> Answer:
    """One question; a window is a list of tokens (start score, end score, first character, one after the last)."""
    tokens = np.array([token for window in windows for token in window], np.float64).reshape(-1, 4)
    return decode_spans(
        tokens[:, 0].astype(np.float32),
        tokens[:, 1].astype(np.float32),
        np.cumsum([0, *map(len, windows)]),
        np.zeros(len(windows), np.int64),
        tokens[:, 2:].astype(np.int32),
        [context],
        **options,  # type: ignore[arg-type]
    )[0]


def _words(context: str, starts: dict[str, float], ends: dict[str, float]) -> list[tuple[float, float, int, int]]:
    """A window: a special token, then every word of the context."""
    window, place = [(0.0, 0.0, -1, -1)], 0
    for word in context.split():
        place = context.index(word, place)
        window.append((starts.get(word, -5.0), ends.get(word, -5.0), place, place + len(word)))
        place += len(word)
    return window


@pytest.mark.parametrize(
    ("context", "first", "last", "expected"),
    [
        ("The  Nile flows north.", "Nile", "flows", "Nile flows"),
        ("نهر النيل يجري شمالا", "النيل", "يجري", "النيل يجري"),
        ("העיר ירושלים היא הבירה", "ירושלים", "היא", "ירושלים היא"),
        ("हिन्दी भाषा में", "हिन्दी", "भाषा", "हिन्दी भाषा"),
        ("un cafe\u0301 noir", "cafe\u0301", "noir", "cafe\u0301 noir"),
        ("река\u00a0Нил течёт", "река", "Нил", "река\u00a0Нил"),
        ("👩‍🚀 flog 🚀 hoch", "🚀", "hoch", "🚀 hoch"),
    ],
)
def test_the_answer_is_cut_from_the_context_as_it_stands(context: str, first: str, last: str, expected: str) -> None:
    assert _decode(context, [_words(context, {first: 5.0}, {last: 5.0})]).text == expected


def test_scripts_without_blanks_are_cut_within_the_run() -> None:
    context = "北京是中国的首都。"
    window = [(0.0, 0.0, -1, -1), *((-5.0, -5.0, place, place + 1) for place in range(len(context)))]
    window[1] = (5.0, -5.0, 0, 1)
    window[2] = (-5.0, 5.0, 1, 2)
    assert _decode(context, [window]).text == "北京"


def test_white_space_around_the_answer_goes() -> None:
    # Thai: the token before carries the blank
    context = "เมือง กรุงเทพ ไทย"
    answer = _decode(context, [[(5.0, 5.0, 5, 14), (0.0, 0.0, 14, 17)]], n_best=1)
    assert (answer.text, answer.n_best[0].start, answer.n_best[0].end) == ("กรุงเทพ", 6, 13)


def test_tokens_outside_the_context_cannot_answer() -> None:
    window = [(9.0, 9.0, -1, -1), (9.0, 9.0, -1, -1), (1.0, 1.0, 0, 1), (0.0, 0.0, 2, 3), (9.0, 9.0, -1, -1)]
    assert _decode("a b", [window]).text == "a"


def test_an_answer_ends_where_it_begins_or_later() -> None:
    assert _decode("a b", [[(0.0, 9.0, 0, 1), (9.0, 0.0, 2, 3)]]).n_best[0].text in ("a", "b", "a b")
    texts = [span.text for span in _decode("a b", [[(0.0, 9.0, 0, 1), (9.0, 0.0, 2, 3)]]).n_best]
    assert sorted(texts) == ["a", "a b", "b"]


def test_an_answer_has_no_more_tokens_than_allowed() -> None:
    window = [(float(place == 0) * 9, float(place == 3) * 9, 2 * place, 2 * place + 1) for place in range(4)]
    assert _decode("a b c d", [window], max_answer_tokens=4).text == "a b c d"
    assert _decode("a b c d", [window], max_answer_tokens=3).text != "a b c d"


def test_the_best_score_over_the_windows_counts() -> None:
    low, high = [(1.0, 1.0, 0, 1), (0.5, 0.5, 2, 3)], [(0.0, 0.0, 0, 1), (3.0, 2.0, 2, 3)]
    answer = _decode("a b", [low, high])
    assert [(span.text, span.score) for span in answer.n_best] == [("b", 5.0), ("a", 2.0), ("a b", 2.0)]


def test_equal_scores_go_to_the_earliest_then_the_shortest() -> None:
    window = [(0.0, 0.0, place, place + 1) for place in (0, 2, 4)]
    texts = [span.text for span in _decode("a b c", [window]).n_best]
    assert texts == ["a", "a b", "a b c", "b", "b c", "c"]


def test_equal_scores_beyond_the_list_are_cut_in_the_same_order() -> None:
    window = [(0.0, 0.0, place, place + 1) for place in range(200)]
    texts = [(span.start, span.end) for span in _decode("x" * 200, [window], n_best=3).n_best]
    assert texts == [(0, 1), (0, 2), (0, 3)]


def test_tokens_of_white_space_are_no_answer_but_may_begin_one() -> None:
    window = [(9.0, 9.0, 0, 1), (0.0, 5.0, 1, 2)]
    answer = _decode(" a", [window])
    assert [(span.text, span.score) for span in answer.n_best] == [("a", 14.0)]


def test_no_answer_wins_by_the_smallest_null_score_of_the_windows() -> None:
    first, second = [(5.0, 5.0, -1, -1), (1.0, 1.0, 0, 1)], [(2.0, 1.0, -1, -1), (0.0, 0.0, 0, 1)]
    answer = _decode("a", [first, second], no_answer=True)
    assert (answer.text, answer.no_answer_score) == ("", 1.0)
    assert answer.n_best[0].text == "a"
    assert _decode("a", [first, second]).text == "a"
    assert _decode("a", [first, second], no_answer=True, no_answer_threshold=1.0).text == "a"


def test_questions_without_windows_or_context_are_answered_by_silence() -> None:
    nothing = np.empty(0, np.float32)
    answers = decode_spans(
        nothing, nothing, np.zeros(1, np.int64), np.empty(0, np.int64), np.empty((0, 2), np.int32), ["", "a"]
    )
    assert answers == [Answer(""), Answer("")]
    assert _decode("", [[(1.0, 1.0, -1, -1)]]).n_best == []


def test_windows_go_to_their_questions() -> None:
    scores = np.array([1.0, 0.0, 0.0, 1.0], np.float32)
    places = np.array([[0, 1], [2, 3], [0, 1], [2, 3]], np.int32)
    answers = decode_spans(scores, scores, np.array([0, 2, 4]), np.array([1, 0]), places, ["a b", "c d"])
    assert [answer.text for answer in answers] == ["b", "c"]


def test_scores_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        _decode("a", [[(float("nan"), 0.0, 0, 1)]])


def test_two_thousand_windows_take_seconds() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 2000 * 384)).astype(np.float32)
    places = np.stack([np.arange(384) * 3, np.arange(384) * 3 + 2], axis=1).astype(np.int32)
    begin = time.perf_counter()
    decode_spans(
        scores[0], scores[1], np.arange(2001) * 384, np.arange(2000), np.tile(places, (2000, 1)), ["ab " * 384] * 2000
    )
    assert time.perf_counter() - begin < 20

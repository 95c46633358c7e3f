"""Answers to questions about passages: read in any published form, and checked against the passage."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import QuestionExamples
from xlt_scale.tasks.selection import Selection
from xlt_scale.tasks.spec import TaskSpec

logger = logging.getLogger(__name__)

Answer = tuple[str, int]


def build_questions(spec: TaskSpec, selection: Selection) -> QuestionExamples:
    """Questions with their passages and answers.

    A file in which every answer is blank is a copy without gold answers, as XTREME prepares its test sets: such
    questions can be asked, not scored.

    Raises:
        UserError: an answer is not where its passage should have it, or there is none although the task says that
            every question has one.
    """
    columns = selection.columns
    assert columns.text_pair is not None
    size = len(selection)
    ids = [str(number) for number in range(size)] if columns.id is None else selection.texts(columns.id)
    contexts = selection.texts(columns.text_pair)
    assert columns.answers is not None
    if size and all(_is_blank(value) for value in selection.values(_single(columns.answers))):
        logger.info("%s: the answers are blank in this copy; it can be predicted, not scored", selection.records.source)
        none: list[list[Answer]] = [[] for _ in range(size)]
        return QuestionExamples(ids, selection.texts(columns.text), contexts, none, num_dropped=selection.num_dropped)
    answers = checked_answers(selection, ids, contexts)
    if not spec.no_answer and not all(answers):
        place = _place(selection, next(number for number, found in enumerate(answers) if not found), ids)
        raise UserError(
            f"{place}: no answer; declare no_answer = true in [tasks.{spec.name}] if questions may have none"
        )
    return QuestionExamples(ids, selection.texts(columns.text), contexts, answers, num_dropped=selection.num_dropped)


def checked_answers(selection: Selection, ids: Sequence[str], contexts: Sequence[str]) -> list[list[Answer]]:
    """For each question its answers, each once: (text, character of the passage it begins at).

    Raises:
        UserError: an answer is not where its passage should have it.
    """
    columns = selection.columns
    assert columns.answers is not None
    values = selection.values(_single(columns.answers))
    starts = None if columns.answer_start is None else selection.values(_single(columns.answer_start))
    answers: list[list[Answer]] = []
    num_found = 0
    for number, (context, value) in enumerate(zip(contexts, values, strict=True)):
        try:
            found = _answers(context, value, None if starts is None else starts[number])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{_place(selection, number, ids)}: answers are no {{text, answer_start}}, no list of them, and no text"
            ) from None
        for position, (text, begin) in enumerate(found):
            if text and begin >= 0 and context.startswith(text, begin):
                continue
            nearest = nearest_occurrence(text, begin, context) if columns.find_answers and text else None
            if nearest is None:
                raise UserError(f"{_place(selection, number, ids)}: {_mend(context, text, begin)}")
            found[position] = text, nearest
            num_found += 1
        answers.append(found)
    if num_found:
        source = selection.records.source
        logger.info("%s: %d answers stand elsewhere than the file says; the nearest place is taken", source, num_found)
    return answers


def nearest_occurrence(text: str, start: int, context: str) -> int | None:
    """Where a text begins in a context nearest to a character, the earlier of two; None where it does not occur."""
    before = context.rfind(text, 0, max(start, 0) + len(text))
    behind = context.find(text, max(start, 0))
    places = [place for place in (before, behind) if place >= 0]
    return min(places, key=lambda place: abs(place - start), default=None)


def _is_blank(value: Any) -> bool:
    """Whether there is a gold answer and nothing in it."""
    texts = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(texts, list) or not texts:
        return False
    return all((item.get("text") if isinstance(item, Mapping) else item) == "" for item in texts)


def _single(column: Any) -> str | int:
    if isinstance(column, list):
        raise UserError(f"columns {column}: answers are in one column")
    return column


def _answers(context: str, value: Any, start: Any) -> list[Answer]:
    """The (text, first character) of every answer, each once, in their order."""
    if isinstance(value, Mapping):
        pairs = list(zip(value["text"], value["answer_start"], strict=True))
    elif isinstance(value, list):
        pairs = [(answer["text"], answer["answer_start"]) for answer in value]
    elif isinstance(value, str):
        if not value and (start is None or str(start) in ("", "-1")):
            return []
        pairs = [(value, int(start) if start not in (None, "") else context.find(value))]
    elif value is None:
        return []
    else:
        raise TypeError
    if len(pairs) == 1:
        text, begin = pairs[0]
        if type(text) is str and type(begin) is int:
            return pairs
    return list(dict.fromkeys((str(text), int(begin)) for text, begin in pairs))


def _place(selection: Selection, number: int, ids: Sequence[str]) -> str:
    place = selection.place(number)
    return place if f"question {ids[number]!r}" in place else f"{place}, question {ids[number]!r}"


def _mend(context: str, text: str, begin: int) -> str:
    if not text:
        return "the answer is empty: this copy has had its answers removed; fetch the publisher's file"
    there = context[begin : begin + len(text)] if begin >= 0 else ""
    elsewhere = context.find(text)
    if elsewhere < 0:
        return f"the answer {text[:60]!r} is not in the passage; mend the file, or drop the question"
    return (
        f"the passage has {there[:60]!r} at character {begin}, not the answer {text[:60]!r}, "
        f"which first occurs at {elsewhere}; mend answer_start"
    )

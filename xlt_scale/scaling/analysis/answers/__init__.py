"""Answers to a study's question: one module per kind of question."""

from collections.abc import Callable, Mapping

from xlt_scale.scaling.analysis.answers import alignment, compare, grid, rank, size
from xlt_scale.scaling.analysis.answers.context import Answered, Context
from xlt_scale.scaling.results import QuestionKind

ANSWERS: Mapping[QuestionKind, Callable[[Context], Answered]] = {
    "size": size.answer,
    "compare": compare.answer,
    "rank": rank.answer,
    "alignment": alignment.answer,
    "grid": grid.answer,
}

__all__ = ["ANSWERS", "Answered", "Context"]

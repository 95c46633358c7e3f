"""A few examples of every format, and when tokenised data are the same."""

import numpy as np

from xlt_scale.data.tokens import TokenizedData
from xlt_scale.tasks.examples import (
    ChoiceExamples,
    Examples,
    QuestionExamples,
    RankingExamples,
    TaggedExamples,
    TextExamples,
)

TEXT = [
    "the old man reads a long letter in the morning",
    "seven children walk to the market",
    "the grey cat sleeps near the window at night",
    "nobody knows a short story about fish",
    "my sister sells cold water",
    "a young woman writes where the red ball is",
]
LABELLED = TextExamples(TEXT, list(reversed(TEXT)), [0, 1, 2, 0, 1, 2])
FORMATS: dict[str, Examples] = {
    "texts": LABELLED,
    "numbers": TextExamples(TEXT, TEXT, [0.0, 2.5, 5.0, 1.0, 3.2, 4.0]),
    "choices": ChoiceExamples(TEXT, [["the cat", "a fish"], ["cold water"]] * 3, [0, 0] * 3),
    "tags": TaggedExamples([text.split() for text in TEXT], [[3] * len(text.split()) for text in TEXT]),
    "questions": QuestionExamples(list("abcdef"), ["who reads"] * 6, TEXT, [[("the", 0)], [], [], [], [], []]),
    "rankings": RankingExamples(list("abcdef"), TEXT, [["1"], ["2"]] * 3, ["1", "2"], ["the cat", "a fish"], TEXT[:2]),
}


def same(one: TokenizedData, other: TokenizedData) -> bool:
    """Equal in every array, its type included."""

    if one.fingerprint != other.fingerprint or one.arrays.keys() != other.arrays.keys():
        return False
    pairs = ((one.arrays[name], other.arrays[name]) for name in one.arrays)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)

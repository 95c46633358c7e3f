"""MLQA: exact match and F1 with rules that depend on the language of the answer."""

import re
import string
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

from xlt_scale.errors import UserError, nearest
from xlt_scale.evaluation.scorers.score import Score
from xlt_scale.evaluation.scorers.text_answers import score_answers

MLQA_VERSION = "mlqa-1 (v1 rules)"

_FUNCTION_WORDS = {
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "vi": "của là cái chiếc những",
}
_REMOVED = {code: re.compile(rf"\b(?:{words.replace(' ', '|')})\b") for code, words in _FUNCTION_WORDS.items()}
# The published rule means the Arabic article but takes its two letters away wherever they stand, also within a word.
_REMOVED["ar"] = re.compile("\u0627\u0644")
_LANGUAGES = (*_REMOVED, "hi", "zh")
_HAN = re.compile("([\u4e00-\u9fa5])")


def mlqa_tokens(text: str, language: str) -> list[str]:
    """The tokens of an answer after MLQA's normalisation.

    Lower case; punctuation of all scripts removed; articles of the language removed (none in Hindi and Chinese); split
    at white space, and in Chinese around each character of U+4E00 to U+9FA5.
    """
    if language not in _LANGUAGES:
        raise UserError(
            f"MLQA has no rules for the language {language!r}; {nearest(language, _LANGUAGES)} "
            "(score other languages by the metric squad)"
        )
    text = text.lower().translate(_without_punctuation())
    if language in _REMOVED:
        text = _REMOVED[language].sub(" ", text)
    return (_HAN.sub(r" \1 ", text) if language == "zh" else text).split()


@lru_cache(maxsize=1)
def _without_punctuation() -> dict[int, None]:
    """A translation table that removes every character of a Unicode category P, and ASCII's other signs."""
    unicode = (number for number in range(sys.maxunicode + 1) if unicodedata.category(chr(number)).startswith("P"))
    return dict.fromkeys((*unicode, *map(ord, string.punctuation)))


def score_mlqa(predictions: Mapping[str, str], labels: Mapping[str, Sequence[str]], language: str) -> Score:
    """Exact match and F1 of MLQA.

    Args:
        predictions: question id -> answer.
        labels: question id -> reference answers, at least one.
        language: of the answers.
    """
    return score_answers(predictions, labels, partial(mlqa_tokens, language=language))

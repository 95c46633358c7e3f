"""Where the answers of questions lie among the tokens of their passages, by characters, in any script."""

from functools import lru_cache
from unicodedata import category

import numpy as np

from xlt_scale.data.encoded_texts import EncodedTexts
from xlt_scale.tasks.answers import nearest_occurrence


def characters_of_tokens(passages: list[str], encoded: EncodedTexts) -> np.ndarray:
    """The characters of each token, less the spaces at its ends, int32 [total tokens, 2].

    Some tokenizers count the space before a word as part of its first token. A token of spaces only covers no
    characters: it is empty and lies where the next word begins.
    """
    assert encoded.characters is not None
    spans, table = encoded.characters.copy(), _space_table()
    for passage, start, length in zip(passages, encoded.starts.tolist(), encoded.lengths.tolist(), strict=True):
        own = spans[start : start + length]
        codes = np.frombuffer(passage.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        is_space = table[np.minimum(codes, len(table) - 1)]
        numbers = np.arange(len(passage))
        # For each character the first one from it on that is no space, and for each end the end less spaces before.
        next_word = np.minimum.accumulate(np.append(np.where(is_space, len(passage), numbers), len(passage))[::-1])[
            ::-1
        ]
        word_end = np.maximum.accumulate(np.append(0, np.where(is_space, 0, numbers + 1)))
        first = np.where(own[:, 0] < own[:, 1], next_word[own[:, 0]], own[:, 0])
        end = np.maximum(word_end[own[:, 1]], first)
        # All of the token was spaces.
        empty = first >= own[:, 1]
        own[:, 0] = np.where(empty, own[:, 1], first)
        own[:, 1] = np.where(empty, own[:, 1], end)
        _take_dropped_marks(own, passage, is_space)
    return spans


def _take_dropped_marks(spans: np.ndarray, passage: str, is_space: np.ndarray) -> None:
    """Lengthen tokens, in place, by the accents and vowel signs behind them that the tokenizer dropped.

    No token would cover them, and an answer that ends with one would be read without it.
    """
    changes = np.zeros(len(passage) + 1, dtype=np.int64)
    np.add.at(changes, spans[:, 0], 1)
    np.add.at(changes, spans[:, 1], -1)
    dropped = np.flatnonzero((np.cumsum(changes)[:-1] == 0) & ~is_space)
    marks = [place for place in dropped.tolist() if category(passage[place]).startswith("M")]
    if marks:
        behind = np.arange(len(passage) + 1)
        for place in reversed(marks):
            behind[place] = behind[place + 1]
        ends = spans[:, 1]
        spans[:, 1] = np.where(spans[:, 0] < ends, behind[ends], ends)


@lru_cache(maxsize=1)
def _space_table() -> np.ndarray:
    """Whether a character is a space, bool [0x3002]; the last entry stands for all characters behind: none is."""
    return np.array([chr(code).isspace() for code in range(0x3002)])


def find_answer(answer: str, start: int, passage: str, spans: np.ndarray) -> tuple[int, int] | None:
    """The smallest range of tokens that covers an answer; None when no token has anything of it.

    Characters that the tokenizer drops (zero-width ones, for some) belong to no token and need none. Where the passage
    does not read like the answer at `start` (files whose offsets count something else), the occurrence that is nearest
    to `start` is taken.

    Args:
        start: the character of the passage where the answer begins.
        spans: characters of the passage's tokens, int32 [tokens, 2].

    Returns:
        numbers of the first and the last token.
    """
    text = answer.strip()
    start = start + len(answer) - len(answer.lstrip())
    if not text:
        return None
    if start < 0 or not passage.startswith(text, start):
        found = nearest_occurrence(text, start, passage)
        if found is None:
            return None
        start = found
    touching = np.flatnonzero((spans[:, 1] > start) & (spans[:, 0] < start + len(text)))
    return (int(touching[0]), int(touching[-1])) if len(touching) else None

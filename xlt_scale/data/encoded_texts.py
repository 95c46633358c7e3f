"""Plain texts as token numbers in one flat array, without special tokens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

_BATCH = 2000


@dataclass(frozen=True)
class EncodedTexts:
    """Texts, one after another.

    Attributes:
        tokens: int32 [total tokens].
        starts, lengths: int64 [texts]; text i is tokens[starts[i]:starts[i] + lengths[i]].
        characters: int32 [total tokens, 2], first character and the one behind the last; None when not asked for.
    """

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    characters: np.ndarray | None = None


def encode_texts(tokenizer: Any, texts: Sequence[str], with_characters: bool = False) -> EncodedTexts:
    """Every text with the tokenizer, in batches.

    Args:
        with_characters: also the characters of the text that each token covers, as the tokenizer says.
    """
    tokens, characters, lengths = [], [], []
    for batch in batches(texts):
        encoded = tokenizer(
            batch,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=with_characters,
            verbose=False,
        )
        tokens.append(flat(encoded["input_ids"], np.int32))
        lengths += [len(sequence) for sequence in encoded["input_ids"]]
        if with_characters:
            spans = chain.from_iterable(encoded["offset_mapping"])
            characters.append(flat(spans, np.int32).reshape(-1, 2))
    sizes = np.array(lengths, dtype=np.int64)
    return EncodedTexts(
        joined(tokens, np.int32),
        np.cumsum(sizes) - sizes,
        sizes,
        joined(characters, np.int32).reshape(-1, 2) if with_characters else None,
    )


def distinct(texts: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """The different texts in the order of their first use, and for each text the number of its like, int64 [texts]."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(text, len(numbers)) for text in texts]
    return list(numbers), np.array(found, dtype=np.int64)


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """As many texts at a time as one call of a tokenizer takes."""
    for start in range(0, len(texts), _BATCH):
        yield list(texts[start : start + _BATCH])


def flat(rows: Iterable[Iterable[int]], kind: type[np.generic]) -> np.ndarray:
    """Rows of numbers as one array."""
    return np.fromiter(chain.from_iterable(rows), dtype=kind)


def joined(parts: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    """Arrays one after another; an empty one when there are none."""
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, ... of each stretch, one after another, int64 [sum of lengths]."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())

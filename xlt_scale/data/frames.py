"""The special tokens that a tokenizer puts around one text or two, and sequences built with them from flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlt_scale.data.encoded_texts import EncodedTexts, ranges
from xlt_scale.errors import UserError


@dataclass(frozen=True)
class Frame:
    """What stands around the texts of a sequence: XLM-R <s> A </s> </s> B </s>, BERT [CLS] A [SEP] B [SEP], XLNet
    A <sep> B <sep> <cls>.

    Attributes:
        specials: int32 arrays: the special tokens before, between and behind the texts (one more than texts).
        special_types: uint8 arrays: their token types.
        text_types: the token type of each text's tokens.
    """

    specials: tuple[np.ndarray, ...]
    special_types: tuple[np.ndarray, ...]
    text_types: tuple[int, ...]

    @property
    def num_specials(self) -> int:
        return sum(len(tokens) for tokens in self.specials)

    def room(self, max_length: int) -> int:
        """Tokens that are left for the texts.

        Raises:
            UserError: there is no room.
        """
        require_room(max_length, self.num_specials)
        return max_length - self.num_specials


@dataclass(frozen=True)
class FramedSequences:
    """Sequences with special tokens.

    Attributes:
        input_ids: int32 [total tokens].
        token_type_ids: uint8 [total tokens].
        offsets: int64 [sequences + 1].
        origins: int64 [total tokens], for the tokens of the last text their place in its flat array, -1 elsewhere.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    offsets: np.ndarray
    origins: np.ndarray


def require_room(max_length: int, num_specials: int) -> None:
    """Raises `UserError` when special tokens fill a sequence."""
    if max_length <= num_specials:
        raise UserError(
            f"model.max_length = {max_length} leaves no room beside {num_specials} special tokens; raise it"
        )


def find_frame(tokenizer: Any, pair: bool) -> Frame:
    """The frame of a tokenizer, learned from what it makes of a letter.

    Raises:
        UserError: it is no fast tokenizer (only those tell which token comes from where), or knows no letter.
    """
    if not tokenizer.is_fast:
        raise UserError(f"{type(tokenizer).__name__} is no fast tokenizer; give a folder that has a tokenizer.json")
    texts = ("a", "a") if pair else ("a",)
    encoding = tokenizer(*texts)[0]
    specials: list[list[int]] = [[]]
    special_types: list[list[int]] = [[]]
    text_types: dict[int, int] = {}
    for token, kind, text in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
        if text is None:
            specials[-1].append(token)
            special_types[-1].append(kind)
        elif text not in text_types:
            text_types[text] = kind
            specials.append([])
            special_types.append([])
    if len(text_types) != len(texts):
        raise UserError("the tokenizer makes no token of the letter 'a'; is it one for text?")
    return Frame(
        tuple(np.array(tokens, dtype=np.int32) for tokens in specials),
        tuple(np.array(kinds, dtype=np.uint8) for kinds in special_types),
        tuple(text_types.values()),
    )


def frame_sequences(frame: Frame, texts: Sequence[EncodedTexts]) -> FramedSequences:
    """One sequence per row of `texts`: the frame's special tokens around a stretch of each text's flat array.

    Args:
        texts: as many as the frame has places; their `starts` and `lengths` say, for each sequence, which stretch of
            `tokens` it takes. Stretches may overlap.
    """
    num_sequences = len(texts[0].starts)
    pools: list[np.ndarray] = []
    types: list[np.ndarray] = []
    starts: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    base = 0
    for place, (special, special_type) in enumerate(zip(frame.specials, frame.special_types, strict=True)):
        starts.append(np.full(num_sequences, base))
        lengths.append(np.full(num_sequences, len(special)))
        pools.append(special)
        types.append(special_type)
        base += len(special)
        if place == len(texts):
            break
        last_base = base
        starts.append(texts[place].starts + base)
        lengths.append(texts[place].lengths)
        pools.append(texts[place].tokens)
        types.append(np.full(len(texts[place].tokens), frame.text_types[place], dtype=np.uint8))
        base += len(texts[place].tokens)
    length_table = np.stack(lengths, axis=1)
    places = ranges(np.stack(starts, axis=1).ravel(), length_table.ravel())
    from_last = (places >= last_base) & (places < last_base + len(texts[-1].tokens))
    return FramedSequences(
        np.concatenate(pools)[places],
        np.concatenate(types)[places],
        np.concatenate([[0], np.cumsum(length_table.sum(axis=1))]).astype(np.int64),
        np.where(from_last, places - last_base, -1),
    )

"""Single texts and pairs as sequences; lines of running text joined into full sequences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xlt_scale.data.encoded_texts import batches, encode_texts, flat, joined
from xlt_scale.data.frames import find_frame, require_room
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import TextExamples


def tokenize_texts(examples: TextExamples, tokenizer: Any, max_length: int, token_types: bool) -> TokenizedData:
    """One sequence per text or pair; what is too long loses tokens at the end of the text that is longer.

    Raises:
        UserError: `max_length` leaves no room for text.
    """
    require_room(max_length, tokenizer.num_special_tokens_to_add(pair=examples.text_pairs is not None))
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    lengths: list[int] = []
    pairs = None if examples.text_pairs is None else batches(examples.text_pairs)
    for texts in batches(examples.texts):
        encoded = tokenizer(
            texts,
            None if pairs is None else next(pairs),
            truncation="longest_first",
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=token_types,
        )
        lengths += [len(sequence) for sequence in encoded["input_ids"]]
        ids.append(flat(encoded["input_ids"], np.int32))
        if token_types:
            types.append(flat(encoded["token_type_ids"], np.uint8))
    return TokenizedData.from_arrays(
        joined(ids, np.int32),
        joined(types, np.uint8) if token_types else None,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        _label_array(examples.labels),
    )


def _label_array(labels: Sequence[int] | Sequence[float] | None) -> np.ndarray | None:
    if labels is None:
        return None
    is_real = any(isinstance(label, float) for label in labels)
    return np.asarray(labels, dtype=np.float32 if is_real else np.int64)


def tokenize_joined_lines(texts: Sequence[str], tokenizer: Any, max_length: int) -> TokenizedData:
    """Consecutive texts fill sequences of `max_length`, each followed by the closing special token; a text that is
    longer is spread over several sequences.

    Raises:
        UserError: `max_length` leaves no room for text, or there is not a single token.
    """
    require_room(max_length, tokenizer.num_special_tokens_to_add(pair=False))
    opening, closing = special_frame(tokenizer)
    room = max_length - len(opening)
    sequences: list[list[int]] = []
    current: list[int] = []
    encoded = encode_texts(tokenizer, texts)
    for start, length in zip(encoded.starts.tolist(), encoded.lengths.tolist(), strict=True):
        tokens = encoded.tokens[start : start + length].tolist()
        pieces = [tokens[i : i + room - len(closing)] for i in range(0, len(tokens), room - len(closing))]
        for piece in pieces:
            if current and len(current) + len(piece) + len(closing) > room:
                sequences.append(opening + current)
                current = []
            current = current + piece + closing
    if current:
        sequences.append(opening + current)
    if not sequences:
        raise UserError(f"the tokenizer finds no tokens in {len(texts)} texts; is it one for their languages?")
    lengths = [len(sequence) for sequence in sequences]
    return TokenizedData.from_arrays(
        flat(sequences, np.int32), None, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), None
    )


def special_frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after one text; behind it the separator if it has none."""
    before, behind = find_frame(tokenizer, pair=False).specials
    if not len(before) and not len(behind) and tokenizer.sep_token_id is not None:
        return [], [tokenizer.sep_token_id]
    return before.tolist(), behind.tolist()

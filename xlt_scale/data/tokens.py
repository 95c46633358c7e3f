"""Tokenised examples as flat arrays, cached on disk by content."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from xlt_scale.data.build_once import build_lock
from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import Examples

logger = logging.getLogger(__name__)

# Raise this when the arrays that tokenisation makes from the same input change.
_TOKENS_VERSION = 1
_BATCH = 2000


@dataclass(frozen=True)
class TokenizedData:
    """Sequences of token numbers, one after another.

    Attributes:
        input_ids: int32 [total tokens].
        token_type_ids: uint8 [total tokens], or None where the model has one token type only.
        offsets: int64 [num_sequences + 1]; sequence i is input_ids[offsets[i]:offsets[i + 1]].
        labels: int64 [num_examples], or None.
        fingerprint: hash of all arrays.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray | None
    offsets: np.ndarray
    labels: np.ndarray | None
    fingerprint: str

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int32 [num_sequences]."""
        return np.diff(self.offsets).astype(np.int32)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_arrays(
        cls,
        input_ids: np.ndarray,
        token_type_ids: np.ndarray | None,
        offsets: np.ndarray,
        labels: np.ndarray | None,
    ) -> "TokenizedData":
        digest = hashlib.blake2b(digest_size=16)
        for array in (input_ids, offsets, token_type_ids, labels):
            digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        return cls(input_ids, token_type_ids, offsets, labels, digest.hexdigest())


def concatenate(parts: Sequence[TokenizedData]) -> TokenizedData:
    """Several data sets as one, in the order given."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0] + [part.offsets[-1] for part in parts])
    types = [part.token_type_ids for part in parts]
    labels = [part.labels for part in parts]
    return TokenizedData.from_arrays(
        np.concatenate([part.input_ids for part in parts]),
        None if any(t is None for t in types) else np.concatenate([t for t in types if t is not None]),
        np.concatenate([[0]] + [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]),
        None if any(label is None for label in labels) else np.concatenate([x for x in labels if x is not None]),
    )


def tokenize(
    examples: Examples,
    tokenizer: Any,
    max_length: int,
    *,
    join_lines: bool = False,
    token_types: bool = False,
    cache: Path | None = None,
) -> TokenizedData:
    """Tokenise examples, or read them from the cache when the same was tokenised before.

    Pairs are cut longest first to `max_length`. With `join_lines`, consecutive texts fill sequences of `max_length`
    (separated by the closing special token) and a text that is longer is spread over several sequences.

    Safe for many processes of a node at once: the first builds, the others wait for it and read what it wrote. A file
    that is not whole is built again.

    Raises:
        UserError: `max_length` leaves no room for text, or the cache cannot be written.
    """
    num_special = tokenizer.num_special_tokens_to_add(pair=examples.text_pairs is not None)
    if max_length <= num_special:
        raise UserError(f"model.max_length = {max_length} leaves no room beside {num_special} special tokens; raise it")
    if cache is None:
        return _tokenize(examples, tokenizer, max_length, join_lines, token_types)
    key = _content_key(examples, tokenizer, max_length, join_lines, token_types)
    path = cache / "tokens" / f"{key}.safetensors"
    data = _load(path)
    if data is None:
        with build_lock(path):
            data = _load(path)
            if data is None:
                data = _tokenize(examples, tokenizer, max_length, join_lines, token_types)
                _save(data, path)
    return data


def _tokenize(
    examples: Examples, tokenizer: Any, max_length: int, join_lines: bool, token_types: bool
) -> TokenizedData:
    if join_lines:
        return _tokenize_joined(examples.texts, tokenizer, max_length)
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    lengths: list[int] = []
    for start in range(0, len(examples), _BATCH):
        chunk = slice(start, start + _BATCH)
        pairs = None if examples.text_pairs is None else examples.text_pairs[chunk]
        encoded = tokenizer(
            examples.texts[chunk],
            pairs,
            truncation="longest_first",
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=token_types,
        )
        lengths += [len(sequence) for sequence in encoded["input_ids"]]
        ids.append(np.fromiter((i for sequence in encoded["input_ids"] for i in sequence), dtype=np.int32))
        if token_types:
            types.append(np.fromiter((i for sequence in encoded["token_type_ids"] for i in sequence), dtype=np.uint8))
    return TokenizedData.from_arrays(
        np.concatenate(ids),
        np.concatenate(types) if token_types else None,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        None if examples.labels is None else np.asarray(examples.labels, dtype=np.int64),
    )


def _tokenize_joined(texts: Sequence[str], tokenizer: Any, max_length: int) -> TokenizedData:
    opening, closing = special_frame(tokenizer)
    room = max_length - len(opening)
    sequences: list[list[int]] = []
    current: list[int] = []
    for start in range(0, len(texts), _BATCH):
        encoded = tokenizer(
            list(texts[start : start + _BATCH]),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for tokens in encoded["input_ids"]:
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
        np.fromiter((i for sequence in sequences for i in sequence), dtype=np.int32),
        None,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        None,
    )


def special_frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after one text."""
    frame = tokenizer("", add_special_tokens=True)["input_ids"]
    if len(frame) == 2:
        return frame[:1], frame[1:]
    closing = [tokenizer.sep_token_id] if tokenizer.sep_token_id is not None else []
    return [], frame or closing


def _content_key(examples: Examples, tokenizer: Any, max_length: int, join_lines: bool, token_types: bool) -> str:
    digest = hashlib.blake2b(digest_size=20)
    digest.update(repr((_TOKENS_VERSION, max_length, join_lines, token_types)).encode())
    if tokenizer.is_fast:
        # How the last call cut and padded is part of the tokenizer's state, but not of what it does next.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        digest.update(tokenizer.backend_tokenizer.to_str().encode())
    else:
        digest.update(repr(tokenizer).encode())
    for column in (examples.texts, examples.text_pairs or []):
        for text in column:
            digest.update(text.encode())
            digest.update(b"\0")
        digest.update(b"\1")
    digest.update(repr(examples.labels).encode())
    return digest.hexdigest()


def _save(data: TokenizedData, path: Path) -> None:
    arrays = {"input_ids": data.input_ids, "offsets": data.offsets}
    if data.token_type_ids is not None:
        arrays["token_type_ids"] = data.token_type_ids
    if data.labels is not None:
        arrays["labels"] = data.labels
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(arrays, temporary, metadata={"fingerprint": data.fingerprint})
    os.replace(temporary, path)


def _load(path: Path) -> TokenizedData | None:
    """What was kept before; None when there is nothing, or a file whose content is not what was written."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            fingerprint = (file.metadata() or {}).get("fingerprint")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        data = TokenizedData.from_arrays(
            arrays["input_ids"], arrays.get("token_type_ids"), arrays["offsets"], arrays.get("labels")
        )
        if data.fingerprint == fingerprint:
            return data
    except (SafetensorError, KeyError):
        pass
    logger.warning("%s is not whole; it is made again", path)
    return None

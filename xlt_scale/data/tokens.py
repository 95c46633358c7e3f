"""Tokenised examples as flat arrays."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Arrays that only some formats have; they count in the fingerprint when they are there.
_OPTIONAL = ("token_labels", "groups", "char_offsets", "owners")


@dataclass(frozen=True)
class TokenizedData:
    """Sequences of token numbers, one after another.

    An example is what the batch plan counts: one sequence, or a group of them (the choices of a question, a query with
    its candidate). A passage of a span task that is cut into windows gives an example per window, a long sentence of a
    tagging task one per piece.

    Attributes:
        input_ids: int32 [total tokens].
        token_type_ids: uint8 [total tokens], or None where the model has one token type only.
        offsets: int64 [num_sequences + 1]; sequence i is input_ids[offsets[i]:offsets[i + 1]].
        labels: by format: int64 [num_examples] classes, choices, or the candidate's number (dual encoding: examples
            with equal labels are no negatives of each other); float32 [num_examples] (regression); int64
            [num_examples, 2] first and last token of the answer in the window, 0 and 0 where it holds none (span).
            None where there are none.
        token_labels: int16 [total tokens], tagging: the class of each word at its first token, -100 elsewhere; None in
            other formats. Without gold tags all classes are 0.
        groups: int64 [num_examples + 1]; example i is made of the sequences groups[i] to groups[i + 1]; None where each
            sequence is an example.
        char_offsets: int32 [total tokens, 2], span: the characters of the passage that a token covers, -1 and -1
            elsewhere; None in other formats.
        owners: int64 [num_sequences], span and tagging: the number of the question or sentence that a window or piece
            belongs to; None in other formats.
        fingerprint: hash of all arrays.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray | None
    offsets: np.ndarray
    labels: np.ndarray | None
    fingerprint: str
    token_labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    char_offsets: np.ndarray | None = None
    owners: np.ndarray | None = None

    @property
    def num_sequences(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_examples(self) -> int:
        return self.num_sequences if self.groups is None else len(self.groups) - 1

    def __len__(self) -> int:
        return self.num_examples

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, over all its sequences, int32 [num_examples]."""
        ends = self.offsets if self.groups is None else self.offsets[self.groups]
        return np.diff(ends).astype(np.int32)

    @property
    def padded_lengths(self) -> np.ndarray:
        """What each example costs in a padded batch: its sequences times its longest one, int32 [num_examples]."""
        if self.groups is None or not len(self):
            return self.lengths
        longest = np.maximum.reduceat(np.diff(self.offsets), self.groups[:-1])
        return (np.diff(self.groups) * longest).astype(np.int32)

    @classmethod
    def from_arrays(
        cls,
        input_ids: np.ndarray,
        token_type_ids: np.ndarray | None,
        offsets: np.ndarray,
        labels: np.ndarray | None,
        **optional: np.ndarray | None,
    ) -> "TokenizedData":
        """Data with their fingerprint; `optional` are the attributes that not every format has, by name."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (input_ids, offsets, token_type_ids, labels):
            digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        for name in _OPTIONAL:
            array = optional.get(name)
            if array is not None:
                digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return cls(input_ids, token_type_ids, offsets, labels, digest.hexdigest(), **optional)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every array that is there, by the name of its attribute."""
        names = ("input_ids", "token_type_ids", "offsets", "labels", *_OPTIONAL)
        found = {name: getattr(self, name) for name in names}
        return {name: array for name, array in found.items() if array is not None}


def concatenate(parts: Sequence[TokenizedData]) -> TokenizedData:
    """Several data sets of one format as one, in the order given; owners are numbered on from part to part.

    An array that one of them lacks (labels, say) is left out.
    """
    if len(parts) == 1:
        return parts[0]

    def joined(name: str, shifts: Sequence[int] | None = None) -> np.ndarray | None:
        arrays = [getattr(part, name) for part in parts]
        if any(array is None for array in arrays):
            return None
        if shifts is not None:
            arrays = [array + shift for array, shift in zip(arrays, shifts, strict=True)]
        return np.concatenate(arrays)

    def borders(arrays: Sequence[np.ndarray]) -> np.ndarray:
        sizes = np.concatenate([np.diff(array) for array in arrays])
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    num_owners = [0 if part.owners is None or not len(part.owners) else int(part.owners.max()) + 1 for part in parts]
    groups = [part.groups for part in parts if part.groups is not None]
    return TokenizedData.from_arrays(
        np.concatenate([part.input_ids for part in parts]),
        joined("token_type_ids"),
        borders([part.offsets for part in parts]),
        joined("labels"),
        token_labels=joined("token_labels"),
        groups=borders(groups) if len(groups) == len(parts) else None,
        char_offsets=joined("char_offsets"),
        owners=joined("owners", np.cumsum([0, *num_owners[:-1]]).tolist()),
    )

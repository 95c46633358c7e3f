"""Chunks in sequences of tags, as two versions of the seqeval package find them.

A chunk is a longest run of one type. The first character of a tag is taken for its prefix (B, I, E, S, O), also where
tags have none, as parts of speech; what is the type differs:

- 0.0.12: what follows the last hyphen, so all of a tag without a hyphen;
- 1.2.2: what follows the first character and a hyphen, so a tag without a hyphen loses its first character: SCONJ and
  CCONJ are both of type CONJ, and X is of the type that O has, so that it opens no chunk at the start of a sentence.

Written from the observed behaviour of both packages; the conlleval script of CoNLL-2000 has the same rules.
"""

from collections.abc import Callable, Sequence

import numpy as np

from xlt_scale.evaluation.scorers.score import check_lengths

TypeRule = Callable[[str], str]
Chunk = tuple[str, int, int]


def type_after_last_hyphen(tag: str) -> str:
    """The type of a tag in seqeval 0.0.12."""
    return tag.rsplit("-", 1)[-1]


def type_after_prefix(tag: str) -> str:
    """The type of a tag in seqeval 1.2.2."""
    return tag[1:].split("-", 1)[-1] or "_"


def find_chunks(sentences: Sequence[Sequence[str]], type_of: TypeRule) -> set[Chunk]:
    """Every chunk as (type, first tag, last tag), tags counted over all sentences with one between two sentences.

    The state runs on over the ends of sentences, as in both packages; only seqeval 1.2.2 on tags without prefix can
    tell (see above).
    """
    types: dict[str, str] = {}
    chunks = set()
    previous, previous_type, first = "O", "", 0
    position = 0
    for sentence in sentences:
        for tag in (*sentence, "O"):
            kind = types.get(tag)
            if kind is None:
                kind = types[tag] = type_of(tag)
            prefix = tag[0]
            other = kind != previous_type
            if (
                previous in "ES"
                or (previous in "BI" and prefix in "BSO")
                or (other and previous != "O" and previous != ".")
            ):
                chunks.add((previous_type, first, position - 1))
            if prefix in "BS" or (prefix in "EI" and previous in "ESO") or (other and prefix != "O" and prefix != "."):
                first = position
            previous, previous_type = prefix, kind
            position += 1
    return chunks


def chunk_counts(
    predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], type_of: TypeRule
) -> np.ndarray:
    """Correct, predicted and gold chunks of each sentence, int32 [sentences, 3]."""
    check_tags(predictions, labels)
    found, gold = find_chunks(predictions, type_of), find_chunks(labels, type_of)
    last = np.cumsum([len(sentence) + 1 for sentence in labels]) - 1
    counts = [
        np.bincount(np.searchsorted(last, [chunk[2] for chunk in chunks]), minlength=len(labels))
        for chunks in (found & gold, found, gold)
    ]
    return np.stack(counts, axis=1).astype(np.int32)


def token_counts(predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> np.ndarray:
    """Tokens with the right tag and all tokens of each sentence, int32 [sentences, 2]."""
    check_tags(predictions, labels)
    rows = [
        (sum(tag == gold for tag, gold in zip(found, label, strict=True)), len(label))
        for found, label in zip(predictions, labels, strict=True)
    ]
    return np.array(rows, np.int32)


def check_tags(predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> None:
    """Tags can be compared when there are as many sentences, and in each as many tags."""
    check_lengths(predictions, labels)
    for number, (found, gold) in enumerate(zip(predictions, labels, strict=True), start=1):
        if len(found) != len(gold):
            raise ValueError(f"sentence {number} has {len(found)} predicted tags for {len(gold)} labels")
    if not any(len(sentence) for sentence in labels):
        raise ValueError("no items to score")

"""Chunk F1 of tagged sentences, as XTREME computes it with the seqeval package."""

from collections.abc import Sequence

import numpy as np

from xlt_scale.evaluation.scorers.chunks import chunk_counts, token_counts, type_after_last_hyphen, type_after_prefix
from xlt_scale.evaluation.scorers.score import Score, precision_recall_f1

ENTITY_F1_VERSION = "entity_f1-1 (xtreme_f1@seqeval-1.2.2)"
TOKEN_ACCURACY_VERSION = "token_accuracy-1"
TAGGING_F1_VERSION = "tagging_f1-1 (xtreme_f1@seqeval-0.0.12)"

Tags = Sequence[Sequence[str]]


def score_entities(predictions: Tags, labels: Tags, language: str = "") -> Score:
    """F1, precision and recall of the chunks, and the share of tokens with the right tag.

    For tags with prefixes (B-PER, I-PER, O), on which both versions of seqeval agree.
    """
    counts, tokens = chunk_counts(predictions, labels, type_after_prefix), token_counts(predictions, labels)
    return Score(_chunk_values(counts) | _token_values(tokens), {"counts": counts, "tokens": tokens})


def score_bare_tags(predictions: Tags, labels: Tags, language: str = "") -> Score:
    """The same for tags without prefixes, parts of speech: neighbours with the same tag form one chunk.

    The headline follows seqeval 0.0.12, with which the benchmark's published expectation was made and under which two
    tags are of one type only if they are equal. `f1_seqeval_1.2.2` follows the version that is installed today, which
    takes a part of speech's first character for a prefix and so counts confusions such as SCONJ for CCONJ as right.
    """
    counts, tokens = chunk_counts(predictions, labels, type_after_last_hyphen), token_counts(predictions, labels)
    of_today = _chunk_values(chunk_counts(predictions, labels, type_after_prefix))
    values = _chunk_values(counts) | {f"{name}_seqeval_1.2.2": value for name, value in of_today.items()}
    return Score(values | _token_values(tokens), {"counts": counts, "tokens": tokens})


def score_tokens(predictions: Tags, labels: Tags, language: str = "") -> Score:
    """The share of tokens with the right tag: the score of supertags."""
    tokens = token_counts(predictions, labels)
    return Score(_token_values(tokens), {"tokens": tokens})


def _chunk_values(counts: np.ndarray) -> dict[str, float]:
    precision, recall, f1 = precision_recall_f1(*(int(number) for number in counts.sum(axis=0)))
    return {"f1": f1, "precision": precision, "recall": recall}


def _token_values(tokens: np.ndarray) -> dict[str, float]:
    correct, number = tokens.sum(axis=0)
    return {"token_accuracy": 100.0 * float(correct) / float(number)}

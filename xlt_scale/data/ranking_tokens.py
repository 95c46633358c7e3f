"""Training examples of ranking tasks: a query and a candidate that answers it."""

import hashlib
import logging
from typing import Any

import numpy as np

from xlt_scale.data.encoded_texts import joined, ranges
from xlt_scale.data.text_tokens import tokenize_texts
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.tasks.examples import RankingExamples, TextExamples

logger = logging.getLogger(__name__)

QUERY_MAX_LENGTH = 96
"""Tokens of a query at most, as LAReQA's baseline has it; its candidates have 256."""


def tokenize_rankings(
    examples: RankingExamples,
    tokenizer: Any,
    max_length: int,
    token_types: bool,
    query_max_length: int = QUERY_MAX_LENGTH,
) -> TokenizedData:
    """For training: a group of two sequences per query, the query and the first of its gold candidates that is there.

    Texts lose their ends, longest first; a query has `query_max_length` tokens at most and never more than
    `max_length`. Queries without a candidate are left out and counted. `labels` are numbers made of the candidate's id
    alone: equal for equal candidates, whatever the file or language they were read from.

    Raises:
        UserError: `max_length` leaves no room for text.
    """
    places = {name: place for place, name in reversed(list(enumerate(examples.candidate_ids)))}
    gold = [next((places[name] for name in names if name in places), -1) for names in examples.gold]
    kept = np.array([number for number, place in enumerate(gold) if place >= 0], dtype=np.int64)
    if len(kept) < len(examples):
        logger.info("%d of %d queries have no candidate here; they are left out", len(gold) - len(kept), len(gold))
    used = sorted({gold[number] for number in kept})
    contexts = examples.candidate_contexts
    queries = TextExamples([examples.queries[number] for number in kept])
    candidates = TextExamples(
        [examples.candidates[place] for place in used],
        None if contexts is None else [contexts[place] for place in used],
    )
    sides = (
        tokenize_texts(queries, tokenizer, min(query_max_length, max_length), token_types),
        tokenize_texts(candidates, tokenizer, max_length, token_types),
    )
    rows = {place: row for row, place in enumerate(used)}
    of_query = np.array([rows[gold[number]] for number in kept], dtype=np.int64)
    # Query, candidate, query, candidate: sequences of a pool that has all queries and then the candidates.
    order = np.stack([np.arange(len(kept)), len(kept) + of_query], axis=1).ravel()
    pool_lengths = np.concatenate([np.diff(side.offsets) for side in sides])
    lengths = pool_lengths[order]
    tokens = ranges((np.cumsum(pool_lengths) - pool_lengths)[order], lengths)
    types = [side.token_type_ids for side in sides if side.token_type_ids is not None]
    return TokenizedData.from_arrays(
        np.concatenate([side.input_ids for side in sides])[tokens],
        joined(types, np.uint8)[tokens] if token_types else None,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([_number_of(examples.candidate_ids[gold[number]]) for number in kept], dtype=np.int64),
        groups=np.arange(0, 2 * len(kept) + 1, 2, dtype=np.int64),
    )


def _number_of(name: str) -> int:
    """63 bits of a hash: the same for a name everywhere, without a list of all names."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1

"""Sentences of words with tags: sub-words, labels on first sub-words, long sentences in pieces."""

from itertools import chain
from typing import Any

import numpy as np

from xlt_scale.data.encoded_texts import EncodedTexts, distinct, encode_texts, ranges
from xlt_scale.data.frames import find_frame, frame_sequences
from xlt_scale.data.masking import IGNORED
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.tasks.examples import TaggedExamples


def tokenize_tagged(examples: TaggedExamples, tokenizer: Any, max_length: int, token_types: bool) -> TokenizedData:
    """One sequence per sentence, or several pieces where it is longer than `max_length`: nothing is cut off.

    The label of a word stands on its first sub-word; `owners` are numbers of sentences. The labelled tokens of all
    sequences in order are exactly the words of all sentences in order, so that predictions need no other key. Pieces
    end at ends of words, and share none. A word without any sub-word (a control character, say) is the unknown token; a
    word that is longer than a whole sequence loses its end. A sentence without words has no sequence.

    Raises:
        UserError: `max_length` leaves no room for text.
    """
    frame = find_frame(tokenizer, pair=False)
    room = frame.room(max_length)
    sentence_lengths = np.array([len(words) for words in examples.words], dtype=np.int64)
    words = _encode_words(examples.words, tokenizer, room)
    # All words of all sentences in one row; pieces are stretches of it.
    row = words.tokens[ranges(words.starts, words.lengths)]
    word_ends = np.cumsum(words.lengths)
    word_starts = word_ends - words.lengths
    row_labels = np.full(len(row), IGNORED, dtype=np.int16)
    row_labels[word_starts] = 0 if examples.tags is None else np.fromiter(chain.from_iterable(examples.tags), np.int16)

    pieces, owners = _cut_into_pieces(words.lengths, sentence_lengths, room)
    piece_starts = word_starts[pieces[:, 0]]
    piece_lengths = word_ends[pieces[:, 1] - 1] - piece_starts
    framed = frame_sequences(frame, [EncodedTexts(row, piece_starts, piece_lengths)])
    token_labels = np.full(len(framed.input_ids), IGNORED, dtype=np.int16)
    of_text = framed.origins >= 0
    token_labels[of_text] = row_labels[framed.origins[of_text]]
    return TokenizedData.from_arrays(
        framed.input_ids,
        framed.token_type_ids if token_types else None,
        framed.offsets,
        None,
        token_labels=token_labels,
        owners=owners,
    )


def _encode_words(sentences: list[list[str]], tokenizer: Any, room: int) -> EncodedTexts:
    """The sub-words of every word of every sentence, as stretches of the distinct words' sub-words.

    A word is tokenised alone, as fast tokenizers do with texts that are words already; words come again and again, so
    each distinct one once.
    """
    opening = _word_opening(tokenizer)
    forms = (word if not number else opening + word for words in sentences for number, word in enumerate(words))
    texts, numbers = distinct(forms)
    encoded = encode_texts(tokenizer, texts)
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else tokenizer.pad_token_id
    is_empty = encoded.lengths == 0
    starts = np.where(is_empty, len(encoded.tokens), encoded.starts)
    lengths = np.where(is_empty, 1, np.minimum(encoded.lengths, room))
    tokens = np.append(encoded.tokens, np.int32(unknown or 0))
    return EncodedTexts(tokens, starts[numbers], lengths[numbers])


def _word_opening(tokenizer: Any) -> str:
    """What must stand before a word inside a sentence for it to be tokenised as there.

    A space where the tokenizer tells words inside a sentence by the space before them and adds none itself (RoBERTa's);
    otherwise nothing.
    """

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    sentence = tokens("a a")
    return " " if sentence == tokens("a") + tokens(" a") and tokens(" a") != tokens("a") else ""


def _cut_into_pieces(
    word_lengths: np.ndarray, sentence_lengths: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """As many words at a time as fit.

    Returns:
        first word and the one behind the last of each piece, int64 [pieces, 2], and its sentence, int64 [pieces].
    """
    ends = np.concatenate([[0], np.cumsum(word_lengths)])
    pieces: list[tuple[int, int]] = []
    owners: list[int] = []
    start = 0
    for sentence, length in enumerate(sentence_lengths.tolist()):
        stop = start + length
        while start < stop:
            # Every word fits into a piece, so each piece has one at least.
            end = min(stop, int(np.searchsorted(ends, ends[start] + room, side="right")) - 1)
            pieces.append((start, end))
            owners.append(sentence)
            start = end
    return np.array(pieces, dtype=np.int64).reshape(-1, 2), np.array(owners, dtype=np.int64)

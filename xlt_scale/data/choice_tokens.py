"""Multiple choice as groups of sequences: what comes before, paired with each choice."""

from itertools import chain
from typing import Any

import numpy as np

from xlt_scale.data.encoded_texts import EncodedTexts, encode_texts
from xlt_scale.data.frames import find_frame, frame_sequences
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.tasks.examples import ChoiceExamples


def tokenize_choices(examples: ChoiceExamples, tokenizer: Any, max_length: int, token_types: bool) -> TokenizedData:
    """A group of sequences (context, choice) per example, one for each of its choices, however many they are.

    What is too long is cut from the FRONT of the context: next to the choice stand the question or the last event. So
    the choices of one example may see contexts of slightly different length. A choice is whole unless it alone is too
    long; then it has no context and loses its end.

    Raises:
        UserError: `max_length` leaves no room for text.
    """
    frame = find_frame(tokenizer, pair=True)
    room = frame.room(max_length)
    contexts = encode_texts(tokenizer, examples.contexts)
    choices = encode_texts(tokenizer, list(chain.from_iterable(examples.choices)))
    sizes = np.array([len(choices_of_one) for choices_of_one in examples.choices], dtype=np.int64)
    owners = np.repeat(np.arange(len(sizes)), sizes)

    choice_lengths = np.minimum(choices.lengths, room)
    context_lengths = np.minimum(contexts.lengths[owners], room - choice_lengths)
    context_starts = (contexts.starts + contexts.lengths)[owners] - context_lengths
    framed = frame_sequences(
        frame,
        [
            EncodedTexts(contexts.tokens, context_starts, context_lengths),
            EncodedTexts(choices.tokens, choices.starts, choice_lengths),
        ],
    )
    return TokenizedData.from_arrays(
        framed.input_ids,
        framed.token_type_ids if token_types else None,
        framed.offsets,
        None if examples.labels is None else np.array(examples.labels, dtype=np.int64),
        groups=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )

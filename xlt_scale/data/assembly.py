"""From example numbers to micro-batches, and a background thread that stays ahead of training."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from xlt_scale.data.encoded_texts import ranges
from xlt_scale.data.masking import IGNORED, mask_tokens
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.tasks.spec import TaskSpec


@dataclass(frozen=True)
class Masking:
    """What masked language modelling needs to know of the tokenizer, and which randomness it uses.

    Attributes:
        places_before: how many places before a masked token it is predicted: 0, or 1 as decoders have learned it
            (masked next token prediction: BehnamGhader et al. 2024, LLM2Vec).
    """

    share: float
    mask_id: int
    special: np.ndarray
    ordinary: np.ndarray
    key: int
    places_before: int = 0

    @classmethod
    def for_tokenizer(
        cls, tokenizer: Any, share: float, key: int, mask_token: str | None = None, places_before: int = 0
    ) -> "Masking":
        """With the tokenizer's own mask token when none is named."""
        special = np.zeros(len(tokenizer), dtype=bool)
        special[list(tokenizer.all_special_ids)] = True
        mask_id = tokenizer.mask_token_id if mask_token is None else tokenizer.convert_tokens_to_ids(mask_token)
        special[mask_id] = True
        return cls(share, mask_id, special, np.flatnonzero(~special), key, places_before)


def assemble(
    spec: TaskSpec,
    data: TokenizedData,
    numbers: np.ndarray,
    masking: Masking | None = None,
    epochs: np.ndarray | int = 0,
) -> MicroBatch:
    """The micro-batch of these examples; without any, a spare batch: one short example of weight 0.

    Args:
        numbers: example numbers; an example that is a group brings all its sequences.
        epochs: the epoch that each example is drawn in; masks are new in each.
    """
    weight = 1.0 if len(numbers) else 0.0
    chosen = numbers if len(numbers) else np.array([int(np.argmin(data.lengths))])
    sequences, group_sizes = chosen, None
    if data.groups is not None:
        sizes = data.groups[chosen + 1] - data.groups[chosen]
        sequences, group_sizes = ranges(data.groups[chosen], sizes), sizes.tolist()
    starts, lengths = data.offsets[sequences], data.offsets[sequences + 1] - data.offsets[sequences]
    positions = ranges(np.zeros_like(starts), lengths)
    tokens = ranges(starts, lengths)
    input_ids = data.input_ids[tokens].astype(np.int64)
    labels = label_positions = None
    if masking is not None:
        masked, token_labels = mask_tokens(
            input_ids,
            np.repeat(chosen + len(data) * (epochs if weight else 0), lengths),
            positions,
            key=masking.key,
            share=masking.share,
            special=masking.special,
            ordinary=masking.ordinary,
            mask_id=masking.mask_id,
        )
        # What begins a sequence has no place before it.
        is_predicted = (token_labels != IGNORED) & (positions >= masking.places_before)
        input_ids = np.where(is_predicted, masked, input_ids)
        places = np.flatnonzero(is_predicted)
        label_positions, labels = places - masking.places_before, token_labels[places]
    elif data.token_labels is not None:
        token_labels = data.token_labels[tokens]
        label_positions = np.flatnonzero(token_labels != IGNORED)
        labels = token_labels[label_positions].astype(np.int64)
    elif data.labels is not None:
        # Whole numbers are similarities too: the kind says how a label is read, not how it is written.
        labels = data.labels[chosen].astype(np.float32 if spec.kind == "regression" else np.int64, copy=False)
    return MicroBatch(
        head=spec.head,
        kind=spec.kind,
        input_ids=torch.from_numpy(input_ids),
        positions=torch.from_numpy(positions),
        lengths=lengths.tolist(),
        token_type_ids=(
            None if data.token_type_ids is None else torch.from_numpy(data.token_type_ids[tokens].astype(np.int64))
        ),
        labels=None if labels is None else torch.from_numpy(labels),
        label_positions=None if label_positions is None else torch.from_numpy(label_positions),
        group_sizes=group_sizes,
        example_numbers=chosen,
        weight=weight,
    )


class Prefetcher:
    """Runs `make(step)` for consecutive steps in a background thread, a few steps ahead.

    An exception in the thread is raised again where the batch is taken. Use it as a context manager: leaving ends the
    thread.
    """

    def __init__(self, make: Callable[[int], Sequence[MicroBatch]], start: int, stop: int, ahead: int = 4) -> None:
        self._make, self._steps = make, range(start, stop)
        self._queue: queue.Queue[Sequence[MicroBatch] | BaseException] = queue.Queue(maxsize=ahead)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="batch-prefetch", daemon=True)

    def __enter__(self) -> "Prefetcher":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join(timeout=10)

    def __iter__(self) -> Iterator[Sequence[MicroBatch]]:
        for _ in self._steps:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self) -> None:
        for step in self._steps:
            try:
                item: Sequence[MicroBatch] | BaseException = self._make(step)
            except BaseException as error:  # handed to the consumer, who raises it
                item = error
            while not self._stopping.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if self._stopping.is_set() or isinstance(item, BaseException):
                return

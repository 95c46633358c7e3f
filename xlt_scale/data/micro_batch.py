"""The unit of one forward pass: real tokens of several sequences in one row, without padding."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from xlt_scale.tasks.spec import TaskKind


@dataclass
class MicroBatch:
    """Sequences of one task, concatenated.

    Attributes:
        head: name of the head that reads it.
        kind: the head's format.
        input_ids: int64 [T], T real tokens of all sequences.
        positions: int64 [T], each token's place in its sequence, from 0.
        lengths: tokens of each sequence; plain integers, so that no forward pass waits for the device to learn them.
        token_type_ids: int64 [T], or None.
        labels: classification, multiple choice and dual encoding: int64 [examples]; regression: fp32 [examples]; span:
            int64 [examples, 2] (first and last token in the sequence); tagging and masked language modelling: int64
            [targets]. None when there are none.
        label_positions: tagging and masked language modelling: int64 [targets], tokens of the row that have a label.
        group_sizes: sequences of each example, where an example has several (multiple choice, dual encoding).
        example_numbers: numbers of the examples in their data set.
        weight: 1.0, or 0.0 for a spare batch that only keeps a rank in step with the others.
        boundaries: int32 [sequences + 1], where in the row each sequence begins, and the row's end; made of `lengths`
            where it is not given.
    """

    head: str
    kind: TaskKind
    input_ids: torch.Tensor
    positions: torch.Tensor
    lengths: list[int]
    token_type_ids: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    label_positions: torch.Tensor | None = None
    group_sizes: list[int] | None = None
    example_numbers: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    weight: float = 1.0
    boundaries: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))

    def __post_init__(self) -> None:
        if not len(self.boundaries):
            self.boundaries = torch.tensor([0, *self.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            self.boundaries = self.boundaries.to(self.input_ids.device)

    @property
    def num_tokens(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def num_targets(self) -> int:
        """Labels that enter the loss; 0 in a spare batch."""
        return 0 if self.labels is None or not self.weight else int(self.labels.shape[0])

    @property
    def num_real_tokens(self) -> int:
        """Tokens that count for throughput: none in a spare batch."""
        return self.num_tokens if self.weight else 0

    def ready_for(self, device: torch.device) -> "MicroBatch":
        """The same batch where `to(device)` need not wait. Pinning takes time: for the thread that prepares batches."""
        return self.pinned() if device.type == "cuda" else self

    def pinned(self) -> "MicroBatch":
        """The same batch in memory that a GPU copies from without the host waiting."""
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "MicroBatch":
        """The same batch with its tensors on `device`; the copy does not wait where they are pinned."""
        if device.type == self.input_ids.device.type:
            return self
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def _with_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "MicroBatch":
        tensors: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)

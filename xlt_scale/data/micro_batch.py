"""The unit of one forward pass: real tokens of several sequences in one row, without padding."""

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

    def to(self, device: torch.device) -> "MicroBatch":
        """The same batch with its tensors on `device`; the copy does not wait when the memory is pinned."""
        if device.type == "cpu":
            return self
        tensors: dict[str, Any] = {
            name: value.pin_memory().to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)

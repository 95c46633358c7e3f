"""Predictions of a spread-out model over a data set: equal numbers of forward passes on every rank."""

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch

from xlt_scale.data.assembly import Prefetcher, assemble
from xlt_scale.data.masking import IGNORED
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.data.plan import evaluation_shares
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.interface import Engine
from xlt_scale.tasks.spec import TaskKind, TaskSpec


def predict(
    engine: Engine,
    spec: TaskSpec,
    data: TokenizedData,
    token_budget: int,
    *,
    padded: bool,
    mode: str = "predictions",
    layers: Sequence[int] = (),
) -> np.ndarray:
    """What the model predicts for every example, in the data's order, on every rank; collective.

    Args:
        mode: 'predictions' gives the head's predictions: one row per example, but for span tasks one per token, for
            tagging one per labelled token, for dual encoding one vector per sequence; 'embedding' gives fp32 vectors
            [sequences, layers, hidden size] of these layers.
    """
    world = engine.world
    sizes = _rows_per_example(spec.kind, data, mode)
    costs = data.padded_lengths if padded else data.lengths
    shares = evaluation_shares(costs, world.rank, world.size, token_budget, padded)

    def make(number: int) -> list[MicroBatch]:
        return [assemble(spec, data, shares[number]).ready_for(world.device)]

    engine.train(False)
    outputs = _Outputs()
    with torch.no_grad(), Prefetcher(make, 0, len(shares)) as batches:
        for share, [batch] in zip(shares, batches, strict=True):
            output = engine.forward(batch.to(world.device), mode, layers)
            world.mark.move()
            if len(share):
                outputs.add(output)
    engine.train(True)
    numbers = [share for share in shares if len(share)]
    mine = (np.concatenate(numbers), torch.cat(outputs.all()).numpy()) if numbers else None
    found = [item for item in world.gather(mine) if isinstance(item, tuple)]
    return _in_order(np.concatenate([item[0] for item in found]), np.concatenate([item[1] for item in found]), sizes)


class _Outputs:
    """Outputs on their way to the CPU, some forward passes behind the device, so that neither waits for the other."""

    def __init__(self) -> None:
        self._arrived: list[torch.Tensor] = []
        self._under_way: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()

    def add(self, output: torch.Tensor) -> None:
        if output.device.type != "cuda":
            self._arrived.append(output)
            return
        host = torch.empty(output.shape, dtype=output.dtype, pin_memory=True).copy_(output, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._under_way.append((host, event))
        if len(self._under_way) > _OUTPUTS_UNDER_WAY:
            self._take_one()

    def all(self) -> list[torch.Tensor]:
        """Every output in the order in which it was added."""
        while self._under_way:
            self._take_one()
        return self._arrived

    def _take_one(self) -> None:
        host, event = self._under_way.popleft()
        event.synchronize()
        # Pinned memory is scarce.
        self._arrived.append(host.clone())


_OUTPUTS_UNDER_WAY = 4


def _rows_per_example(kind: TaskKind, data: TokenizedData, mode: str) -> np.ndarray:
    """How many rows of the output belong to each example, int64 [num_examples]."""
    if mode == "predictions" and kind == "span":
        return data.lengths.astype(np.int64)
    if mode == "predictions" and kind == "tagging":
        assert data.token_labels is not None
        targets_before = np.concatenate([[0], np.cumsum(data.token_labels != IGNORED)])
        return np.diff(targets_before[data.offsets])
    if data.groups is not None and (mode == "embedding" or kind == "dual_encoding"):
        return np.diff(data.groups)
    return np.ones(len(data), dtype=np.int64)


def _in_order(numbers: np.ndarray, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Rows that lie in the order of `numbers`, in the order of the examples."""
    assert len(rows) == sizes.sum(), "the model gave another number of rows than the data has"
    lengths = sizes[numbers]
    starts = np.cumsum(sizes) - sizes
    within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    result = np.empty_like(rows)
    result[np.repeat(starts[numbers], lengths) + within] = rows
    return result

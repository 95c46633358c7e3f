"""Predictions of a spread-out model over a data set: equal numbers of forward passes on every rank."""

from collections.abc import Sequence

import numpy as np
import torch

from xlt_scale.data.assembly import assemble
from xlt_scale.data.masking import IGNORED
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
    engine.train(False)
    numbers, outputs = [], []
    with torch.no_grad():
        for share in evaluation_shares(costs, world.rank, world.size, token_budget, padded):
            batch = assemble(spec, data, share)
            output = engine.forward(batch.to(world.device), mode, layers)
            world.mark.move()
            if len(share):
                numbers.append(share)
                outputs.append(output.cpu())
    engine.train(True)
    mine = (np.concatenate(numbers), torch.cat(outputs).numpy()) if numbers else None
    found = [item for item in world.gather(mine) if isinstance(item, tuple)]
    return _in_order(np.concatenate([item[0] for item in found]), np.concatenate([item[1] for item in found]), sizes)


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

"""Predictions of a spread-out model over a data set: equal numbers of forward passes on every rank."""

import numpy as np
import torch

from xlt_scale.data.assembly import assemble
from xlt_scale.data.plan import evaluation_shares
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.interface import Engine
from xlt_scale.tasks.spec import TaskSpec


def predict(
    engine: Engine,
    spec: TaskSpec,
    data: TokenizedData,
    token_budget: int,
    *,
    padded: bool,
    mode: str = "predictions",
    layer: int | None = None,
) -> np.ndarray:
    """What the model predicts for every example, in the data's order, on every rank; collective.

    Args:
        mode: 'predictions' gives the head's predictions [examples, ...]; 'embedding' gives fp32 vectors
            [examples, hidden size] of the layer.
    """
    world = engine.world
    engine.train(False)
    numbers, outputs = [], []
    with torch.no_grad():
        for share in evaluation_shares(data.lengths, world.rank, world.size, token_budget, padded):
            batch = assemble(spec, data, share)
            output = engine.forward(batch.to(world.device), mode, layer)
            if len(share):
                numbers.append(share)
                outputs.append(output)
    engine.train(True)
    mine = (
        np.concatenate(numbers) if numbers else np.empty(0, dtype=np.int64),
        torch.cat(outputs).cpu().numpy() if outputs else None,
    )
    found = [item for item in world.gather(mine) if item[1] is not None]  # type: ignore[index]
    order = np.concatenate([item[0] for item in found])  # type: ignore[index]
    values = np.concatenate([item[1] for item in found])  # type: ignore[index]
    result = np.empty_like(values)
    result[order] = values
    return result

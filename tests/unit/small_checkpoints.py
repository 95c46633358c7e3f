"""Checkpoints of small models, for the tests of what goes out to Hugging Face and comes in from there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from small_models import build
from torch import Tensor

from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.world import World
from xlt_scale.modeling.encoder import EncoderPlan
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec

ALONE = World(0, 1, 0, torch.device("cpu"))


def scrambled(plan: EncoderPlan, heads: Sequence[HeadSpec]) -> HeadedEncoder:
    """A model in evaluation mode of whose tensors no two are alike: norms and biases are constant in a fresh one."""
    model = build(plan, heads).eval()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)
    return model


def save(model: HeadedEncoder, specs: Sequence[HeadSpec], folder: Path, **facts: Any) -> Path:
    """Write a model as a checkpoint with its description; `facts` add to that or replace it."""
    values = {f"param/{name}": parameter.detach().reshape(-1) for name, parameter in model.named_parameters()}
    shapes = {f"param/{name}": tuple(parameter.shape) for name, parameter in model.named_parameters()}
    described = {"model": model.plan.config.to_dict(), "heads": [vars(spec) for spec in specs], "step": 7}
    ranges = {key: (0, value.numel()) for key, value in values.items()}
    write_checkpoint(ALONE, folder, shapes, ranges, iter(values.items()), described | facts)
    return folder


def our_scores(model: HeadedEncoder, batch: MicroBatch) -> Tensor:
    """What the batch's head gives."""
    with torch.no_grad():
        hidden = model._real_tokens(model._encode(batch).last_hidden_state, batch)
        return model.heads[batch.head](hidden, batch)

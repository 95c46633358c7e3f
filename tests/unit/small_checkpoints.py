"""Checkpoints of small models, for the tests of what goes out to Hugging Face and comes in from there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import build
from torch import Tensor

from xlt_scale.checkpoint.huggingface_export import ExportOptions, export_checkpoint
from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.modeling.encoder import EncoderPlan
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec

TAGS = HeadSpec("tags", "tagging", num_labels=5)
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


def export(source: Path, folder: Path, **options: str) -> list[str]:
    """Export; what was said."""
    lines: list[str] = []
    export_checkpoint(source, folder, ExportOptions(**options), lines.append)
    return lines


def refusal(source: Path, folder: Path, **options: str) -> str:
    """Why an export was refused, in one line; it leaves nothing behind."""
    before = set(folder.parent.iterdir())
    with pytest.raises(UserError) as error:
        export(source, folder, **options)
    assert "\n" not in str(error.value)
    assert set(folder.parent.iterdir()) == before
    return str(error.value)


def load(automatic_class: Any, folder: Path) -> Any:
    """The published class with the folder's weights, all of which it knows and none of which it misses."""
    found, notes = automatic_class.from_pretrained(folder, output_loading_info=True)
    assert not [problem for problems in notes.values() for problem in problems]
    return found.eval()

"""A Hugging Face folder as a checkpoint of ours: weights only, a piece at a time."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlt_scale.checkpoint.checksum import PIECE
from xlt_scale.checkpoint.huggingface_export import tokenizer_files
from xlt_scale.checkpoint.writer import write_checkpoint
from xlt_scale.config import ModelOptions
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.modeling.encoder import EncoderPlan, plan_encoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.huggingface_names import head_family, kind_of_architecture, why_inexpressible
from xlt_scale.modeling.parameters import ParameterSpec, describe_parameters
from xlt_scale.modeling.pretrained import content_of_weight_files
from xlt_scale.modeling.weights import PretrainedWeights, WeightSource


def import_huggingface(source: Path, destination: Path, say: Callable[[str], None] = print) -> None:
    """Write the encoder in a Hugging Face folder, and its head where we have that kind, as a checkpoint.

    The head is the one of the class that config.json names: 'mlm' for masked language modelling, else called after its
    kind. A head that the files do not hold whole, or that computes otherwise than ours, is left out.

    Args:
        source: with config.json and weights, safetensors or `.bin`.
        destination: the checkpoint's folder; must not exist yet.
        say: called with a line for the user when a head is left out.

    Raises:
        UserError: no such model, an encoder weight is missing or has another shape, or the checkpoint cannot be
            written.
    """
    if destination.exists():
        raise UserError(f"{destination} exists already; remove it or name another folder")
    if not (source / "config.json").is_file():
        raise UserError(f"{source} has no config.json; give the folder of a Hugging Face model")
    plan = plan_encoder(ModelOptions(name=str(source), max_length=1, attention="padded"))
    heads, problem = _heads(plan)
    specs = describe_parameters(plan, heads)
    weights = PretrainedWeights(source, specs, plan.prefix, heads, head_family(plan.config))
    if not all(weights.has(name) for name in specs):
        heads, problem = [], "the files do not hold all of it in the shapes that config.json says"
        specs = describe_parameters(plan, heads)
    if problem:
        say(f"{source}: the encoder is taken, the head is not: {problem}")
    facts: dict[str, Any] = {
        "phase": "import",
        "hash": content_of_weight_files(source),
        "step": 0,
        "model": plan.config.to_dict(),
        "heads": [vars(spec) | {"labels": _labels(plan, spec)} for spec in heads],
    }
    if tokenizer_files(source):
        facts["tokenizer"] = str(source.resolve())
    shapes = {f"param/{name}": spec.shape for name, spec in specs.items()}
    ranges = {f"param/{name}": (0, spec.numel) for name, spec in specs.items()}
    alone = World(0, 1, 0, torch.device("cpu"))
    write_checkpoint(alone, destination, shapes, ranges, _pieces(weights, specs), facts)


def _heads(plan: EncoderPlan) -> tuple[list[HeadSpec], str]:
    """The head of the class that the configuration names, as ours; and why there is none where it names one."""
    kind = kind_of_architecture(plan.config)
    if kind is None:
        foreign = [name for name in plan.config.architectures or [] if "For" in name]
        return [], f"no head of ours is that of {foreign[0]}" if foreign else ""
    if kind == "masked_language_modeling":
        head = HeadSpec("mlm", kind)
    else:
        head = HeadSpec(kind, kind, 0 if kind == "span" else plan.config.num_labels)
    problem = why_inexpressible(head, plan.config)
    return ([], problem) if problem else ([head], "")


def _labels(plan: EncoderPlan, head: HeadSpec) -> list[str]:
    """The names of the classes; none where the configuration has only numbered them."""
    labels = [plan.config.id2label[number] for number in range(head.num_labels)]
    return [] if labels == [f"LABEL_{number}" for number in range(head.num_labels)] else labels


def _pieces(weights: WeightSource, specs: Mapping[str, ParameterSpec]) -> Iterator[tuple[str, Tensor]]:
    for name, spec in specs.items():
        for start in range(0, spec.numel, PIECE):
            yield f"param/{name}", weights.read(name, start, min(start + PIECE, spec.numel))

"""What a checkpoint becomes as a Hugging Face model: its class, and which tensor of ours is which of its."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import accelerate
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.tensor_file import TensorLayout
from xlt_scale.errors import UserError
from xlt_scale.modeling.encoder import EncoderPlan, build_encoder
from xlt_scale.modeling.family import encoder_class
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.huggingface_names import (
    class_of_head,
    encoder_names,
    form_of_head,
    head_family,
    head_names,
    why_inexpressible,
)


@dataclass(frozen=True)
class ExportPlan:
    """The tensors of a Hugging Face folder and where each comes from.

    Attributes:
        layout: name, shape and dtype of every tensor, in the files' order.
        keys: the checkpoint's key of each, by its name in the files.
    """

    layout: Sequence[TensorLayout]
    keys: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.layout)

    @property
    def num_elements(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.layout)


def plan_export(
    reader: CheckpointReader, config: PretrainedConfig, head: HeadSpec | None, dtype: torch.dtype
) -> ExportPlan:
    """What the folder will hold: every tensor of the Hugging Face class, each from one of the checkpoint's.

    Raises:
        UserError: the class cannot express the head, wants a tensor that the checkpoint lacks, or has none for one of
            the checkpoint's.
    """
    if head is not None and (problem := why_inexpressible(head, config)):
        raise UserError(f"--head {head.name} cannot be exported: {problem}; export the encoder with --head none")
    model = _empty_model(config, head)
    places = dict(model.named_parameters(remove_duplicate=False))
    names: dict[int, str] = {}
    keys: dict[str, str] = {}
    for key in reader.manifest.tensors:
        kind, _, parameter = key.partition("/")
        if kind != "param" or not parameter.startswith(("encoder.", f"heads.{head.name}." if head else "encoder.")):
            continue
        known = [name for name in _names(parameter, head, config) if name in places]
        if not known:
            raise UserError(f"{reader.folder}: {type(model).__name__} has no place for {parameter}; try --head none")
        for name in known:
            # Of names that are one tensor, the last is the one that others are tied to.
            names[id(places[name])] = name
            keys[name] = key
    layout = []
    for name, placed in model.named_parameters():
        stored = keys.get(names.get(id(placed), ""))
        shape = tuple(placed.shape)
        if stored is None:
            raise UserError(f"{reader.folder}: {type(model).__name__} has {name}, the checkpoint does not; use another")
        if reader.manifest.tensors[stored].shape != shape:
            found = list(reader.manifest.tensors[stored].shape)
            raise UserError(f"{reader.folder}: {stored} has shape {found}, {name} has {list(shape)}; use another")
        layout.append(TensorLayout(names[id(placed)], shape, dtype))
    return ExportPlan(layout, {tensor.name: keys[tensor.name] for tensor in layout})


def _names(parameter: str, head: HeadSpec | None, config: PretrainedConfig) -> list[str]:
    in_model, bare, *_ = encoder_names(parameter, encoder_class(config).base_model_prefix)
    if head is None:
        return [bare]
    if parameter.startswith("encoder."):
        return [in_model]
    form = form_of_head(head.kind, head_family(config))
    assert form is not None
    return head_names(parameter.removeprefix(f"heads.{head.name}."), form)


def _empty_model(config: PretrainedConfig, head: HeadSpec | None) -> PreTrainedModel:
    """The model that will load the folder, without memory for its weights."""
    config = copy.deepcopy(config)
    with accelerate.init_empty_weights(), no_init_weights():
        if head is None:
            model = build_encoder(EncoderPlan(config, unpadded=False, first_position=0, num_positions=0))
        else:
            describe_head(config, head)
            found = class_of_head(head.kind, config)
            assert found is not None
            model = found._from_config(config, dtype=torch.float32)
    # Moving to the meta device made every parameter a new one.
    model.tie_weights()
    return model


def class_name(config: PretrainedConfig, head: HeadSpec | None) -> str:
    """The Hugging Face class of the encoder with that head, or of the bare one."""
    found = encoder_class(config) if head is None else class_of_head(head.kind, config)
    assert found is not None
    return found.__name__


def describe_head(config: PretrainedConfig, head: HeadSpec | None, labels: Sequence[str] = ()) -> None:
    """Set what a configuration says of a head, in place; what it said of an earlier one goes."""
    config.problem_type = None
    if head is None or head.kind == "masked_language_modeling":
        return
    config.num_labels = 2 if head.kind == "span" else head.num_labels
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    if head.kind == "regression":
        config.problem_type = "regression"
    if head.kind == "classification":
        config.problem_type = "single_label_classification"

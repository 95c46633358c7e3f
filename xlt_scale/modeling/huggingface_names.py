"""Our parameters in Hugging Face's words: which class expresses a head, and what is called how in its files.

Reading published files and writing ones that others read both go by these tables.
"""

from collections.abc import Mapping

from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from xlt_scale.modeling.direction import direction_of
from xlt_scale.modeling.family import encoder_class
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.tasks.spec import TaskKind

Form = Mapping[str, str]
"""Modules of a head of ours -> the modules of a Hugging Face model that compute the same."""

_AUTOMATIC_CLASSES = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "masked_language_modeling": AutoModelForMaskedLM,
    "span": AutoModelForQuestionAnswering,
    "tagging": AutoModelForTokenClassification,
}

# Families as `head_family` calls them. BERT's pooling layer and classifier are together the same function as RoBERTa's
# classification head.
_FORMS: dict[str, dict[TaskKind, Form]] = {
    "roberta": {
        "classification": {"dense": "classifier.dense", "out_proj": "classifier.out_proj"},
        "masked_language_modeling": {
            "dense": "lm_head.dense",
            "layer_norm": "lm_head.layer_norm",
            "decoder": "lm_head.decoder",
        },
        "span": {"qa_outputs": "qa_outputs"},
        "tagging": {"classifier": "classifier"},
    },
    "bert": {
        "classification": {"dense": "bert.pooler.dense", "out_proj": "classifier"},
        "masked_language_modeling": {
            "dense": "cls.predictions.transform.dense",
            "layer_norm": "cls.predictions.transform.LayerNorm",
            "decoder": "cls.predictions.decoder",
        },
        "span": {"qa_outputs": "qa_outputs"},
        "tagging": {"classifier": "classifier"},
    },
    "rembert": {
        "classification": {"dense": "rembert.pooler.dense", "out_proj": "classifier"},
        "masked_language_modeling": {
            "dense": "cls.predictions.dense",
            "layer_norm": "cls.predictions.LayerNorm",
            "decoder": "cls.predictions.decoder",
        },
        "span": {"qa_outputs": "qa_outputs"},
        "tagging": {"classifier": "classifier"},
    },
    "deberta": {"span": {"qa_outputs": "qa_outputs"}, "tagging": {"classifier": "classifier"}},
    "eurobert": {"tagging": {"classifier": "classifier"}},
    "mt5": {"tagging": {"classifier": "classifier"}},
    "umt5": {"tagging": {"classifier": "classifier"}},
    "decoder": {"masked_language_modeling": {"decoder": "lm_head"}, "tagging": {"classifier": "score"}},
}

# What else the files of published models call a head: good enough to go on from, and not the same function.
_NEAR_FORMS: dict[TaskKind, list[Form]] = {
    "masked_language_modeling": [{"dense": "head.dense", "layer_norm": "head.norm", "decoder": "decoder"}]
}
# Inside models that also see (Gemma 3), as published and as `transformers` writes them now.
_TEXT_PARTS = ("language_model.", "model.language_model.")


# A number is what a classifier of one class computes.
_LIKE: dict[TaskKind, TaskKind] = {"regression": "classification"}


def head_family(config: PretrainedConfig) -> str:
    """Families whose heads are alike by one name: that of the encoder inside models with a head ('roberta') where it
    tells them apart, 'decoder' for all decoders.
    """
    if direction_of(config) != "encoder":
        return "decoder"
    prefix = encoder_class(config).base_model_prefix
    return prefix if prefix in _FORMS else config.model_type


def form_of_head(kind: TaskKind, family: str) -> Form | None:
    """How a family (`head_family`) expresses a kind of head; None where it does not, or not as ours."""
    return _FORMS.get(family, {}).get(_LIKE.get(kind, kind))


def all_forms(kind: TaskKind) -> list[Form]:
    """How any family expresses a kind of head."""
    kind = _LIKE.get(kind, kind)
    return [forms[kind] for forms in _FORMS.values() if kind in forms] + _NEAR_FORMS.get(kind, [])


def encoder_names(name: str, prefix: str) -> list[str]:
    """Names of a parameter of the encoder ('encoder....'): in a model with a head, in a bare encoder, and in models
    that also see.
    """
    bare = name.removeprefix("encoder.")
    inside = [f"{part}{start}{bare}" for part in _TEXT_PARTS for start in ("", "model.")]
    return [f"{prefix}.{bare}", bare, *inside]


def head_names(parameter: str, form: Form) -> list[str]:
    """Names of a head's parameter ('dense.weight'); the one that the model computes with is first.

    Models for masked language modelling have their output bias twice: in the decoder and beside it.
    """
    module, _, leaf = parameter.rpartition(".")
    if module not in form:
        return []
    names = [f"{form[module]}.{leaf}"]
    if parameter == "decoder.bias":
        names.append(f"{form[module].removesuffix('.decoder')}.bias")
    return names


def class_of_head(kind: TaskKind, config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The family's Hugging Face class for a kind of head, where it has one."""
    if kind not in _AUTOMATIC_CLASSES:
        return None
    predicts_next = kind == "masked_language_modeling" and direction_of(config) != "encoder"
    automatic = AutoModelForCausalLM if predicts_next else _AUTOMATIC_CLASSES[kind]
    return automatic._model_mapping.get(type(config), None)


def why_inexpressible(head: HeadSpec, config: PretrainedConfig) -> str:
    """Why no Hugging Face class of this family computes what the head computes; '' when one does."""
    family = head_family(config)
    if form_of_head(head.kind, family) is None or class_of_head(head.kind, config) is None:
        return f"{config.model_type} has no Hugging Face class that computes a {head.kind} head as ours"
    if head.kind in ("classification", "regression") and head.pooling != "first":
        return f"it pools by {head.pooling}, Hugging Face's {config.model_type} takes the first token"
    if head.kind == "masked_language_modeling" and family in ("bert", "rembert") and config.hidden_act != "gelu":
        return f"it uses gelu, Hugging Face's {config.model_type} head the configuration's {config.hidden_act}"
    return ""


def kind_of_architecture(config: PretrainedConfig) -> TaskKind | None:
    """The kind of head that the class named in a configuration's `architectures` has; None for a bare encoder, or a
    head that we do not have.
    """
    kinds: list[TaskKind] = ["classification", "masked_language_modeling", "span", "tagging"]
    names = config.architectures or []
    for kind in kinds:
        found = class_of_head(kind, config)
        if found is not None and found.__name__ in names:
            return "regression" if kind == "classification" and config.num_labels == 1 else kind
    return None

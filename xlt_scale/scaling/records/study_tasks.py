"""What the phases of a study train, and what their models are, in the words of the catalogue and of the analysis."""

from collections.abc import Iterable, Mapping
from typing import Any

from xlt_scale.config import ModelOptions, PhaseOptions
from xlt_scale.sizes import SIZES, family_of
from xlt_scale.study_config import StudyOptions
from xlt_scale.tasks.catalogue import find_task, load_catalogue
from xlt_scale.tasks.spec import TaskSpec

Catalogue = Mapping[str, TaskSpec]


def study_catalogue(study: StudyOptions) -> dict[str, TaskSpec]:
    """The declared tasks, with those that the study changes or adds."""
    return load_catalogue(study.run.get("tasks", {}))


def family_of_model(model: ModelOptions, model_type: str) -> str:
    """The architecture family of a study's model: that of the ladder's size that it names, also where the study changes
    some of its dimensions, else that of its model type. So 'micro' sizes, which are of XLM-R's type, are no XLM-R.
    """
    size = SIZES.get("" if model.name else model.size)
    return size.family if size is not None and size.model_type == model_type else family_of(model_type)


def is_bidirectional_decoder(configuration: Mapping[str, Any]) -> bool:
    """Whether a recorded Hugging Face configuration is of a decoder that is read in both directions."""
    return configuration.get("is_causal") is False or configuration.get("use_bidirectional_attention") is True


def phase_of_tables(*tables: Mapping[str, Any]) -> PhaseOptions:
    """What a phase of a study trains and how, from its tables; later ones hold. No other option is meant."""
    names = ("task", "mixture", "mixing", "joint", "languages", "task_languages", "adapter", "optimizer")
    together: dict[str, Any] = {}
    for table in tables:
        together |= {name: table[name] for name in names if name in table}
    if not (together.get("task") or together.get("mixture")):
        together.pop("adapter", None)  # of all targets; those that only score have no use for it
    return PhaseOptions(name="phase", steps=1, evaluate=["nothing"], **together)


def adapters_of(phases: Iterable[PhaseOptions]) -> str:
    """What phases train in place of all weights, in a word each: 'lora-16'; '' where all train all weights."""
    words = dict.fromkeys(phase.adapter.label if phase.adapter else "" for phase in phases if phase.trains)
    return " and ".join(word or "all weights" for word in words) if any(words) else ""


def trained_languages(phase: PhaseOptions, catalogue: Catalogue) -> list[str]:
    """The languages that a phase is trained in, as far as the options tell: masked language modelling takes all that
    there are files of.
    """
    found: dict[str, None] = {}
    for task in phase.tasks:
        spec = find_task(catalogue, task)
        by_default = [] if spec.kind == "masked_language_modeling" else [spec.source_language]
        found |= dict.fromkeys(phase.languages_of(task) or by_default)
    return list(found)

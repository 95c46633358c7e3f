"""The micro benchmark: a small world of artificial languages, generated from one seed, that needs no download."""

from xlt_scale.micro.items import LabelledTask
from xlt_scale.micro.labelled import TASKS
from xlt_scale.micro.languages import LANGUAGES, SOURCE_LANGUAGE, TRAINING_LANGUAGES, Language
from xlt_scale.micro.writer import GENERATOR_VERSION, write_micro_world

__all__ = [
    "GENERATOR_VERSION",
    "LANGUAGES",
    "SOURCE_LANGUAGE",
    "TASKS",
    "TRAINING_LANGUAGES",
    "Language",
    "LabelledTask",
    "write_micro_world",
]

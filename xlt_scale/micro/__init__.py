"""The micro benchmark: a small world of artificial languages, generated from one seed, that needs no download."""

from xlt_scale.micro.labelled import TASKS, LabelledTask
from xlt_scale.micro.languages import LANGUAGES, SOURCE_LANGUAGE, Language
from xlt_scale.micro.writer import GENERATOR_VERSION, write_micro_world

__all__ = [
    "GENERATOR_VERSION",
    "LANGUAGES",
    "SOURCE_LANGUAGE",
    "TASKS",
    "Language",
    "LabelledTask",
    "write_micro_world",
]

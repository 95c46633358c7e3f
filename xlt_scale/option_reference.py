"""The references of the run file and the study file, written from the options themselves so that they cannot drift."""

import json
from typing import Any, Literal

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from xlt_scale.config import (
    AdapterOptions,
    CheckpointOptions,
    DataOptions,
    EngineOptions,
    LoggingOptions,
    ModelOptions,
    Options,
    PhaseOptions,
    RunOptions,
)
from xlt_scale.study_config import (
    ArmOptions,
    ResourceOptions,
    SearchOptions,
    SeedOptions,
    SizeOptions,
    StudyOptions,
    TargetOptions,
)

_RUN_TABLES: dict[str, type[Options]] = {
    "": RunOptions,
    "[model]": ModelOptions,
    "[engine]": EngineOptions,
    "[data]": DataOptions,
    "[checkpoints]": CheckpointOptions,
    "[logging]": LoggingOptions,
    "[[phases]]": PhaseOptions,
    "[phases.adapter]": AdapterOptions,
}

_STUDY_TABLES: dict[str, type[Options]] = {
    "": StudyOptions,
    "[seeds]": SeedOptions,
    "[[sizes]]": SizeOptions,
    "[[arms]]": ArmOptions,
    "[[targets]]": TargetOptions,
    "[search]": SearchOptions,
    "[resources]": ResourceOptions,
}

_INTRODUCTION = """\
# The run file

A run is one TOML file: which model, which engine, which data, and a list of phases. Unknown keys are refused with
the nearest valid name. `--set key.path=value` overrides a key (`--set phases.target.steps=100` addresses a phase by its
name), and the resolved options are written to `run.toml` in the run's folder, every default spelled out.

`[tasks.NAME]` changes fields of a catalogue task (its files, say) or declares a task of your own; `xlt-scale tasks
NAME` shows the fields. Ready-made run files are in `launch/runs/`.

This page is written by `xlt-scale options`.
"""

_STUDY_INTRODUCTION = """\
# The study file

A study is one TOML file: sizes, arms, targets and seeds, and what all runs have in common. [Studies](studies.md) tells
how to write one and what becomes of it; `studies/` has ready ones. Tables of phases (`[intermediate]`, `[target]`,
`arms.phases`, `targets.phase`, `[[pretraining]]`) have the keys of a [run file's](run_file.md) phases, but for `name`,
`parent`, `seed`, `baseline` and `weights`, which the study sets. Where several tables say something of one phase, the
narrower one holds: the study's, the size's, the arm's or target's own. `--set key.path=value` overrides a key.

This page is written by `xlt-scale options --study`.
"""


def run_file_reference() -> str:
    """A Markdown page with a table of keys for each table of the run file."""
    return _reference(_INTRODUCTION, _RUN_TABLES)


def study_file_reference() -> str:
    """The same of the study file."""
    return _reference(_STUDY_INTRODUCTION, _STUDY_TABLES)


def _reference(introduction: str, tables: dict[str, type[Options]]) -> str:
    parts = [introduction]
    for title, model in tables.items():
        parts.append(f"\n## {f'`{title}`' if title else 'Top level'}\n")
        if model.__doc__ and title:
            parts.append(f"{model.__doc__.strip()}\n")
        parts.append("| key | values | default | what it is for |\n|---|---|---|---|")
        parts += [_row(name, field) for name, field in model.model_fields.items()]
    return "\n".join(parts) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    kind = _kind(field.annotation)
    return f"| `{name}` | {kind} | {_default(field)} | {field.description or ''} |".replace("  ", " ")


def _kind(annotation: Any) -> str:
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        names = {"str": "text", "int": "whole number", "float": "number", "bool": "true, false"}
        return names.get(annotation.__name__, "table")
    if getattr(annotation, "__origin__", None) is None or "Literal" not in str(annotation):
        text = str(annotation)
        if text.startswith("list[str]"):
            return "list of texts"
        if text.startswith("list[typing.Annotated"):
            return "list of whole numbers" if "[int" in text else "list of numbers"
        if text.startswith("list"):
            return "tables"
        if text.startswith("typing.Annotated[str"):
            return "text"
        if text.startswith("dict"):
            return "table"
        if text.startswith("tuple"):
            return "two numbers"
        if "Options" in text:
            return "table"
        return "whole number" if "int" in text else "number"
    if annotation.__origin__ is not Literal:  # one type or a word
        return ", ".join(_kind(part) for part in annotation.__args__)
    return ", ".join(f"`{value}`" for value in annotation.__args__)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is PydanticUndefined or value is None:
        return "none"
    if isinstance(value, float):
        return f"`{value:.4g}`"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"

"""The reference of the run file, written from the options themselves so that it cannot drift."""

import json
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from xlt_scale.config import DataOptions, EngineOptions, LoggingOptions, ModelOptions, Options, PhaseOptions, RunOptions

_TABLES: dict[str, type[Options]] = {
    "": RunOptions,
    "[model]": ModelOptions,
    "[engine]": EngineOptions,
    "[data]": DataOptions,
    "[logging]": LoggingOptions,
    "[[phases]]": PhaseOptions,
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


def run_file_reference() -> str:
    """A Markdown page with a table of keys for each table of the run file."""
    parts = [_INTRODUCTION]
    for title, model in _TABLES.items():
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
        if text.startswith("list"):
            return "tables"
        if text.startswith("dict"):
            return "table"
        if text.startswith("tuple"):
            return "two numbers"
        return "whole number" if "int" in text else "number"
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

"""The catalogue: every task that can be named in a run file."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from xlt_scale.config_files import validate
from xlt_scale.errors import UserError, nearest
from xlt_scale.tasks.spec import TaskSpec
from xlt_scale.tasks.unions import with_parts


def load_catalogue(overrides: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, TaskSpec]:
    """All declared tasks by name.

    Args:
        overrides: the run file's `[tasks.NAME]` tables. A known name has its fields replaced one by one; another name
            declares a new task.

    Raises:
        UserError: a declaration does not hold together.
    """
    tables: dict[str, dict[str, Any]] = {}
    for file in sorted(resources.files("xlt_scale.tasks").joinpath("catalogue").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            tables |= tomllib.loads(file.read_text(encoding="utf-8"))
    for name, table in (overrides or {}).items():
        tables[name] = {**tables.get(name, {}), **table}
    tasks: dict[str, TaskSpec] = {
        name: validate(TaskSpec, {**table, "name": name}, f"task {name!r}") for name, table in tables.items()
    }
    return {name: with_parts(task, tasks) if task.parts else task for name, task in tasks.items()}


def find_task(catalogue: Mapping[str, TaskSpec], name: str) -> TaskSpec:
    """The task of that name; an unknown name is a `UserError` with the nearest one."""
    if name not in catalogue:
        raise UserError(f"task {name!r} is unknown; {nearest(name, catalogue)} (`xlt-scale tasks` lists them)")
    return catalogue[name]

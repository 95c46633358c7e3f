"""TOML files and `--set` settings as tables, and tables as options; what does not fit is told in one line."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from xlt_scale.errors import UserError, nearest


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; a missing or broken file is a `UserError`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a TOML file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def validate(model: type[BaseModel], table: dict[str, Any], place: str) -> Any:
    """Build `model` from a table; what does not fit is a `UserError` that begins with `place`."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise UserError(f"{place}: {_explain(error, model)}") from None


def apply_setting(table: dict[str, Any], setting: str) -> None:
    """Set one `key.path=value` in a table (`load_run`).

    Raises:
        UserError: the setting is no such thing, or its place is not there.
    """
    key, equals, text = setting.partition("=")
    *parents, last = _key_parts(key) if equals else [""]
    if not last:
        raise UserError(f"--set {setting!r}: write key.path=value")
    value = _setting_value(text)
    place: Any = table
    for position, part in enumerate(parents):
        if isinstance(place, list):
            place = _list_item(place, part, ".".join(parents[: position + 1]))
        else:
            place = place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise UserError(f"--set {key}: {'.'.join(parents[: position + 1])} is a value, not a table")
    if not isinstance(place, list):
        place[last] = value
    elif last.isdecimal() and int(last) < len(place) and not isinstance(place[int(last)], dict):
        place[int(last)] = value
    elif any(isinstance(item, dict) for item in place):
        raise UserError(f"--set {key}: name one of the items, as in {'.'.join(parents)}.NAME.{last}=...")
    else:
        raise UserError(f"--set {key}: no such item; the list has {len(place)}, counted from 0")


def _key_parts(key: str) -> list[str]:
    """The parts of a dotted key as TOML reads it; [""] when it is no key."""
    if "\n" in key:
        return [""]
    try:
        table = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return [""]
    parts: list[str] = []
    while isinstance(table, dict) and table:
        part, table = next(iter(table.items()))
        parts.append(part)
    return parts or [""]


def _setting_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _list_item(items: list[Any], part: str, key: str) -> Any:
    names = {item["name"]: item for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)}
    if part in names:
        return names[part]
    if part.isdecimal() and int(part) < len(items):
        return items[int(part)]
    raise UserError(f"--set {key}: no such item; {nearest(part, names)}")


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One problem of a validation in one line: the key, what is wrong, and the mend.

    An unknown key goes first: when it is a misspelt one, the right one is missing too, and that would tell less.
    """
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    # Where a key may be of several types, pydantic names the type that it tried.
    types = ("dict[", "list[", "constrained-int", "literal[")
    location = tuple(part for part in problem["loc"] if not str(part).startswith(types))
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {nearest(str(location[-1]), _field_names(model, location[:-1]))}"
    message = problem["msg"].removeprefix("Value error, ")
    others = [p["msg"] for p in problems if p["loc"] != problem["loc"] and p["type"] == "literal_error"]
    if len(location) < len(problem["loc"]) and others:
        message += f" (or {others[0].removeprefix('Input should be ')})"
    if problem["type"] == "value_error":
        return message
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    if problem["type"] in ("model_type", "dict_type"):
        return f"{key} = {problem['input']!r}: it should be a table"
    return f"{key} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _field_names(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the table at `location` below `model`."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation
        inner = [argument for argument in getattr(annotation, "__args__", ()) if isinstance(argument, type)]
        current = next((a for a in [annotation, *inner] if isinstance(a, type) and issubclass(a, BaseModel)), current)
    return list(current.model_fields)

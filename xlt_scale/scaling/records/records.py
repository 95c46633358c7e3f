"""The record of a finished phase: one JSON file with everything that an analysis needs of it (docs/records.md)."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xlt_scale.errors import UserError
from xlt_scale.scaling.records.atomic import write_atomically

SCHEMA_VERSION = 1

Record = dict[str, Any]

FIELDS: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "study": (str,),
    "phase": (str,),
    "hash": (str,),
    "role": (str,),
    "size": (dict,),
    "arm": (dict,),
    "target": (dict,),
    "seeds": (dict,),
    "hyper_parameters": (dict,),
    "search": (dict,),
    "parents": (list,),
    "same_data": (dict,),
    "checkpoint_rule": (str,),
    "asked": (dict,),
    "scores": (dict,),
    "scorers": (dict,),
    "chance": (dict,),
    "predictions": (str,),
    "outcomes": (str,),
    "training": (dict,),
    "software": (dict,),
    "recorded_at": (str,),
}
"""Fields of a record, all of them, with their JSON types; docs/records.md says what is in them."""

_INNER = {
    "size": ("name", "model_type", "num_parameters", "num_non_embedding_parameters", "is_pre_norm"),
    "arm": ("name", "tasks", "languages", "phases"),
    "target": ("name", "trained", "tasks", "languages"),
    "seeds": ("intermediate", "target", "trained_with"),
    "training": ("steps", "tokens", "seconds", "gpu_hours", "unit", "curve"),
    "software": ("git_revision", "versions"),
}
"""What readers count on within them."""


def write_record(path: Path, record: Record) -> None:
    """Write a record; two writers of one record write the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n").encode())


def read_record(path: Path) -> Record:
    """A record.

    Raises:
        UserError: the file is missing, half-written, of another schema version, or no record.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is not there") from None
    except (OSError, ValueError):
        raise UserError(f"{path} is half-written or no JSON; {_MEND}") from None
    if not isinstance(record, dict) or "schema" not in record:
        raise UserError(f"{path} is no record of a phase; move it out of the folder")
    if record["schema"] != SCHEMA_VERSION:
        raise UserError(
            f"{path} is of schema version {record['schema']}, this program reads {SCHEMA_VERSION}; use the version of "
            f"xlt-scale that wrote it, or {_MEND}"
        )
    problem = _problem(path, record)
    if problem:
        raise UserError(f"{path}: {problem}; {_MEND}")
    return record


_MEND = "remove it, and it is made again from the phase's folder"


def read_records(paths: Iterable[Path]) -> tuple[list[Record], dict[Path, str]]:
    """Many records, and why others could not be read, by file: an unreadable record is left out, not removed."""
    records, problems = [], {}
    for path in paths:
        try:
            records.append(read_record(path))
        except UserError as error:
            problems[path] = str(error)
    return records, problems


def _problem(path: Path, record: Record) -> str:
    """What is wrong with a record of the right version, or ''."""
    for name, types in FIELDS.items():
        if name not in record:
            return f"{name} is missing"
        if not isinstance(record[name], types):
            return f"{name} is of another type than {types[0].__name__}"
    for name, inner in _INNER.items():
        missing = [key for key in inner if key not in record[name]]
        if missing:
            return f"{name}.{missing[0]} is missing"
    unknown = sorted(record.keys() - FIELDS.keys())
    if unknown:
        return f"{unknown[0]} is no field of a record"
    if record["phase"] != path.stem:
        return f"it is the record of {record['phase']}, under another name"
    return ""

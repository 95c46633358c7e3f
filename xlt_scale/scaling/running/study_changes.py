"""What a changed study file means for what has been done: nothing is lost, and it is said what will be run."""

from collections.abc import Iterator, Mapping
from typing import Any

from xlt_scale.config_files import read_toml
from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.records.atomic import write_atomically
from xlt_scale.study_config import StudyOptions

_ABSENT = object()
_SHOWN = 12


def describe_changes(folder: StudyFolder, grid: StudyGrid, recorded: set[str], num_left: int) -> list[str]:
    """Lines for the user when the study is not the one of the last start; [] when it is, or there was none.

    Args:
        recorded: all phases with a record, of this grid or not.
        num_left: phases that will be run.
    """
    before = _last_study(folder)
    if before is None:
        return []
    changes = changed_keys(before, grid.study.model_dump(mode="json", exclude_none=True))
    if not changes:
        return []
    shown = [f"  {change}" for change in changes[:_SHOWN]]
    if len(changes) > _SHOWN:
        shown.append(f"  and {len(changes) - _SHOWN} more; the last start's options: {folder.study_file}")
    valid, outside = len(recorded & grid.phases.keys()), len(recorded - grid.phases.keys())
    effect = f"{valid} finished phases stay valid, {num_left} will be run"
    if outside:
        effect += f"; {outside} are no longer part of the study, and are kept"
    return ["the study has changed since its last start:", *shown, effect]


def remember_study(folder: StudyFolder, study: StudyOptions) -> None:
    """Write study.toml, for the next start to compare with."""
    folder.root.mkdir(parents=True, exist_ok=True)
    text = study.to_toml()
    if not folder.study_file.is_file() or folder.study_file.read_text(encoding="utf-8") != text:
        write_atomically(folder.study_file, text.encode())


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """'seeds.target: [1, 2] -> [1]' for each difference; entries of lists are called by their names."""
    old, new = dict(_flat(before)), dict(_flat(now))
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        was, is_now = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if was != is_now:
            found.append(f"{key}: {_say(was)} -> {_say(is_now)}")
    return found


def _last_study(folder: StudyFolder) -> dict[str, Any] | None:
    try:
        return read_toml(folder.study_file) if folder.study_file.is_file() else None
    except UserError:
        return None


def _flat(table: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(table, Mapping) and table:
        for key, value in table.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(table, list) and table and all(isinstance(item, Mapping) for item in table):
        for number, item in enumerate(table):
            yield from _flat(item, f"{prefix}.{item.get('name', number)}")
    elif table != {}:
        yield prefix, table


def _say(value: Any) -> str:
    return "absent" if value is _ABSENT else repr(value)

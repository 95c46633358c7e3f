"""Which files of the machine a hub data set became, remembered by name, configuration and revision.

Without the hub, `datasets` takes the newest copy that it finds, whatever revision is asked for, and finds none of a
data set whose configurations are folders. So what was loaded while there was a hub is written down beside the tables,
and read back by that where there is none: the revision that was asked for then, or nothing.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt_scale.hub import datasets_cache

_NOTE = "note.json"


@dataclass(frozen=True)
class Remembered:
    """Where a hub data set lies.

    Attributes:
        commit: the revision of the hub that it was made of.
        splits: the files of each split, in their order.
        note: the file that says so.
    """

    commit: str
    splits: dict[str, list[Path]]
    note: Path

    @property
    def files(self) -> list[Path]:
        """All files that reading it takes, the note among them."""
        tables = [path for paths in self.splits.values() for path in paths]
        about = {path.with_name("dataset_info.json") for path in tables}
        return [self.note, *sorted(path for path in about if path.is_file()), *tables]


def remember(name: str, config: str, revision: str, loaded: Any) -> None:
    """Write down what has been loaded from the hub; nothing where it came from a folder, or cannot be written."""
    splits = {split: [Path(file["filename"]) for file in table.cache_files] for split, table in loaded.items()}
    commits = {path.parent.name for paths in splits.values() for path in paths}
    commit = commits.pop() if len(commits) == 1 else ""
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return
    cache = Path(datasets_cache())
    note = _note(name, config, revision)
    facts = {
        "dataset": name,
        "config": config,
        "revision": revision,
        "commit": commit,
        "splits": {split: [os.path.relpath(path, cache) for path in paths] for split, paths in splits.items()},
    }
    text = json.dumps(facts, indent=1)
    try:
        if note.is_file() and note.read_text(encoding="utf-8") == text:
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary = note.with_name(f".{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, note)
    except OSError:
        # It serves later starts without a network; this one has its data.
        return


def recall(name: str, config: str, revision: str) -> Remembered | None:
    """What an earlier load of the same has written down; None where there is none, or its files are gone."""
    note, cache = _note(name, config, revision), Path(datasets_cache())
    try:
        facts = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    splits = {split: [cache / path for path in paths] for split, paths in facts["splits"].items()}
    if not all(path.is_file() for paths in splits.values() for path in paths):
        return None
    return Remembered(facts["commit"], splits, note)


def read_remembered(found: Remembered) -> dict[str, Any]:
    """The splits as tables of `datasets`, mapped from their files."""
    import datasets

    tables = {split: [datasets.Dataset.from_file(str(path)) for path in paths] for split, paths in found.splits.items()}
    return {
        split: parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts) for split, parts in tables.items()
    }


def _note(name: str, config: str, revision: str) -> Path:
    digest = hashlib.blake2b(json.dumps([name, config, revision]).encode(), digest_size=16).hexdigest()
    return Path(datasets_cache()) / "xlt_scale" / digest / _NOTE

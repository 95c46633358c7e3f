"""What runners did, one JSON object per line: events.jsonl is for people and programs, no runner decides by it."""

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Events:
    """Appends to events.jsonl. Several runners may write into one file: every event is a single write to its end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **facts: Any) -> None:
        row = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "runner": os.getpid(), "event": event}
        line = json.dumps(row | facts, ensure_ascii=False) + "\n"
        # A study does not end for the sake of a line about it.
        with contextlib.suppress(OSError), open(self._path, "ab", buffering=0) as file:
            file.write(line.encode())


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a study, the oldest first; a torn line is passed by."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield json.loads(line)

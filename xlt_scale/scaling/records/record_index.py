"""All records of a study in few files that are read in a moment: a cache, made from the records and from nothing else.

`index/<segment>/` holds the tables (record_tables.py) of some records as Parquet. A segment is written under another
name and put in place whole, and never changed. Which of its rows hold is decided when it is read: those whose record is
still there with the same time of change and size. So several processes may add and merge segments at the same time, and
the folder may be removed at any moment.
"""

import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.records.record_tables import CURVES, OUTCOMES, PHASES, SCORES, RecordTables, tables_of
from xlt_scale.scaling.records.recording import answers
from xlt_scale.scaling.records.records import read_records

logger = logging.getLogger(__name__)

INDEX_VERSION = 3
"""Raise this when the tables change: segments of another version are made again."""

TableName = Literal["phases", "scores", "curves"]
Stamp = tuple[int, int]
Place = tuple[str, str]
"""Task, language."""

_SCHEMAS = {"phases": PHASES, "scores": SCORES, "curves": CURVES}
_RECORDS_AT_ONCE = 4000
_MOST_SEGMENTS = 12
_ABANDONED = 3600.0
_UNREADABLE = (OSError, pa.ArrowException, KeyError, ValueError)


@dataclass(frozen=True)
class Segment:
    """A folder of tables. Its files are open, so that another process may merge and remove it.

    Attributes:
        records: names of all its records.
        holds: which of them count.
    """

    folder: Path
    files: Mapping[str, pa.NativeFile]
    records: np.ndarray
    holds: np.ndarray

    def table(self, name: TableName, columns: Sequence[str]) -> pa.Table:
        """The rows that count."""
        table = pq.ParquetFile(self.files[name]).read(columns=list(dict.fromkeys(["record", *columns])))
        return self._kept(table).select(list(columns))

    def outcomes(self, place: Place) -> pa.Table:
        """Outcomes of a task in a language; no rows where there are none."""
        number = self.groups.get(place)
        return OUTCOMES.empty_table() if number is None else self._kept(self._outcomes.read_row_group(number))

    @cached_property
    def groups(self) -> dict[Place, int]:
        """The row group of each task and language."""
        groups = json.loads(self._outcomes.metadata.metadata[b"groups"])
        return {(task, language): number for number, (task, language) in enumerate(groups)}

    @cached_property
    def _outcomes(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.files["outcomes"])

    def _kept(self, table: pa.Table) -> pa.Table:
        if self.holds.all():
            return table
        return table.filter(
            pc.is_in(table["record"].cast(pa.string()), pa.array(self.records[self.holds], pa.string()))
        )


class RecordIndex:
    """The records of a study, as tables.

    Attributes:
        recorded: names of all records that are there, readable or not.
        problems: why some records could not be read, once each.
    """

    def __init__(self, folder: StudyFolder, notify: Callable[[str], None] = logger.warning) -> None:
        self._folder, self._notify = folder, notify
        self._place = folder.index
        self._elsewhere: tempfile.TemporaryDirectory[str] | None = None
        self._segments: list[Segment] = []
        self.recorded: set[str] = set()
        self.problems: list[str] = []
        self.refresh()

    def refresh(self) -> None:
        """Look for records that are new or have changed, and read only those."""
        stamps = _listing(self._folder.records)
        self.recorded = set(stamps)
        self._load(stamps)
        covered = {name for segment in self._segments for name in segment.records[segment.holds]}
        missing = [self._folder.record_file(name) for name in sorted(stamps.keys() - covered)]
        self._add(missing, stamps)
        dead = sum(int((~segment.holds).sum()) for segment in self._segments)
        if len(self._segments) > _MOST_SEGMENTS or dead > len(covered) + len(missing):
            self._merge(stamps)

    @property
    def num_records(self) -> int:
        return sum(int(segment.holds.sum()) for segment in self._segments)

    def table(self, name: TableName, columns: Sequence[str] | None = None) -> pa.Table:
        """A table of all records: chosen columns, rows in no order."""
        schema = _SCHEMAS[name]
        wanted = list(columns or schema.names)
        parts = self._read(lambda segment: segment.table(name, wanted))
        empty = pa.schema([schema.field(column) for column in wanted]).empty_table()
        return pa.concat_tables([empty, *parts]).unify_dictionaries()

    def outcomes(self, place: Place) -> pa.Table:
        """Packed outcomes of a task in a language, of all records that have any."""
        return pa.concat_tables([OUTCOMES.empty_table(), *self._read(lambda segment: segment.outcomes(place))])

    def _read(self, read: Callable[[Segment], pa.Table]) -> list[pa.Table]:
        """Of every segment; when one has gone or is damaged, everything is looked at again."""
        for attempt in range(3):
            try:
                parts = []
                for segment in self._segments:
                    try:
                        parts.append(read(segment))
                    except _UNREADABLE:
                        _remove(segment.folder)
                        raise
                return parts
            except _UNREADABLE:
                if attempt == 2:
                    raise
                self.refresh()
        return []

    def _load(self, stamps: Mapping[str, Stamp]) -> None:
        """The segments that are there, each record counted in one of them."""
        self._segments, seen = [], set[str]()
        for folder in _folders(self._place):
            try:
                segment = _open_segment(folder, stamps, seen)
            except FileNotFoundError:
                # Merged by another process just now, or somebody has removed a file: records not found are read again.
                if _is_old(folder):
                    _remove(folder)
                continue
            except _UNREADABLE:
                _remove(folder)
                continue
            if segment.holds.any():
                self._segments.append(segment)
                seen.update(segment.records[segment.holds])
            elif seen.issuperset(segment.records) or _is_old(folder):
                # Not one that another process has just made of records that were not there when this one looked.
                _remove(folder)

    def _add(self, paths: Sequence[Path], stamps: Mapping[str, Stamp]) -> None:
        for start in range(0, len(paths), _RECORDS_AT_ONCE):
            records, unreadable = read_records(paths[start : start + _RECORDS_AT_ONCE])
            tables = tables_of(records, stamps, self._folder.records)
            for problem in [*unreadable.values(), *tables.problems]:
                if problem not in self.problems:
                    self.problems.append(problem)
                    self._notify(f"left out: {problem}")
            if records:
                self._segments.append(_open_segment(self._write(tables), stamps, set()))

    def _merge(self, stamps: Mapping[str, Stamp]) -> None:
        """Make one segment of all but those that hold most of the records anyway, and remove what it replaces."""
        half = self.num_records / 2
        small = [one for one in self._segments if one.holds.sum() <= half or not one.holds.all()]
        if len(small) < 2 and all(one.holds.all() for one in small):
            return

        def merged(name: TableName) -> pa.Table:
            names = _SCHEMAS[name].names
            return pa.concat_tables([one.table(name, names) for one in small]).unify_dictionaries()

        try:
            tables = RecordTables(merged("phases"), merged("scores"), merged("curves"), _Merged(small))
            _write_segment(self._place, tables)
        except _UNREADABLE:
            # The disk is full, or a segment is damaged, which is found again when it is read: what is there is as good.
            return
        for segment in small:
            _remove(segment.folder)
        self._load(stamps)

    def _write(self, tables: RecordTables) -> Path:
        """A new segment; below a temporary folder where the study's own cannot be written."""
        try:
            return _write_segment(self._place, tables)
        except OSError as error:
            if self._elsewhere is not None:
                raise
            self._notify(f"{self._place} cannot be written ({error.strerror}): the records are read again next time")
            self._elsewhere = tempfile.TemporaryDirectory(prefix="xlt-scale-index-")
            self._place = Path(self._elsewhere.name)
            return _write_segment(self._place, tables)


class _Merged(Mapping[Place, pa.Table]):
    """Outcomes of several segments, put together when they are asked for: one task and language in memory at a time."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._places = sorted({place for segment in segments for place in segment.groups})

    def __getitem__(self, place: Place) -> pa.Table:
        return pa.concat_tables([segment.outcomes(place) for segment in self._segments])

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def finished(folder: StudyFolder, grid: StudyGrid, index: RecordIndex | None = None) -> set[str]:
    """Phases of the grid whose records have everything that it asks for; those that it now asks more of are not among
    them. Records that cannot be read count as finished: they are said, and theirs to mend.
    """
    index = index or RecordIndex(folder)
    table = index.table("phases", ["record", "asked"])
    asked = {text: json.loads(text) for text in pc.unique(table["asked"]).to_pylist()}
    of_records = dict(zip(table["record"].to_pylist(), table["asked"].to_pylist(), strict=True))
    return {
        name
        for name in index.recorded & grid.phases.keys()
        if name not in of_records or answers(asked[of_records[name]], grid.phases[name])
    }


def recorded_seconds(index: RecordIndex) -> dict[str, float]:
    """Seconds of training of every recorded phase, by name."""
    table = index.table("phases", ["record", "seconds"])
    return {
        name: seconds
        for name, seconds in zip(table["record"].to_pylist(), table["seconds"].to_pylist(), strict=True)
        if seconds is not None
    }


def _listing(folder: Path) -> dict[str, Stamp]:
    """Time of change and bytes of each record."""
    found = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".json") and entry.name[0] != ".":
                with suppress(FileNotFoundError):
                    facts = entry.stat()
                    found[entry.name.removesuffix(".json")] = (facts.st_mtime_ns, facts.st_size)
    return found


def _folders(place: Path) -> list[Path]:
    """The segments; what an ended process has left half-written is removed after a while."""
    if not place.is_dir():
        return []
    found = []
    for path in sorted(place.iterdir()):
        if path.name[0] != ".":
            found.append(path)
        elif _is_old(path):
            _remove(path)
    return found


def _is_old(path: Path) -> bool:
    """Whether no process can still be about to use it."""
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _ABANDONED
    return False


def _open_segment(folder: Path, stamps: Mapping[str, Stamp], seen: set[str]) -> Segment:
    """A segment with its files open; of its records those count that are as they were and are not seen yet.

    Raises:
        FileNotFoundError: it, or one of its files, is not there.
        OSError, ValueError, KeyError: it is damaged, or of another version.
    """
    files = {name: pa.OSFile(str(folder / f"{name}.parquet")) for name in (*_SCHEMAS, "outcomes")}
    table = pq.ParquetFile(files["phases"]).read(columns=["record", "modified", "bytes"])
    if int((table.schema.metadata or {})[b"version"]) != INDEX_VERSION:
        raise ValueError("another version")
    names, modified, sizes = (column.to_pylist() for column in table.columns)
    holds = [
        stamps.get(name) == stamp and name not in seen
        for name, stamp in zip(names, zip(modified, sizes, strict=True), strict=True)
    ]
    return Segment(folder, files, np.array(names, object), np.array(holds, bool))


def _write_segment(place: Path, tables: RecordTables) -> Path:
    name = secrets.token_hex(6)
    temporary = place / f".{name}"
    temporary.mkdir(parents=True)
    try:
        for table_name in _SCHEMAS:
            table = getattr(tables, table_name).replace_schema_metadata({"version": str(INDEX_VERSION)})
            pq.write_table(table, temporary / f"{table_name}.parquet", compression="zstd", compression_level=1)
        # Compressed a page at a time; a dictionary of values that are all different would be in vain.
        options = {"compression": "zstd", "compression_level": 1, "use_dictionary": ["task", "language", "arrays"]}
        places = []
        with pq.ParquetWriter(temporary / "outcomes.parquet", OUTCOMES, write_statistics=False, **options) as writer:
            for place_of_rows, outcomes in tables.outcomes.items():
                if len(outcomes):
                    writer.write_table(outcomes, row_group_size=len(outcomes))
                    places.append(place_of_rows)
            writer.add_key_value_metadata({"groups": json.dumps(places)})
        temporary.rename(place / name)
    except BaseException:
        _remove(temporary)
        raise
    return place / name


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.unlink()

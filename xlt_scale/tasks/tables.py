"""Tables: tsv, csv, and JSON by lines or whole."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xlt_scale.errors import UserError
from xlt_scale.tasks.layouts import FileLayout
from xlt_scale.tasks.records import LineRecords, ObjectRecords, Records
from xlt_scale.tasks.text_files import lines_of, text_of


def read_table(path: Path, layout: FileLayout) -> Records:
    """The rows of a tsv, csv, jsonl or json file.

    Raises:
        UserError: the file is missing, has no rows, or is not of that format; with the line.
    """
    readers = {"tsv": _read_tsv, "csv": _read_csv, "jsonl": _read_jsonl, "json": _read_json}
    records = readers[layout.format](path, layout.header)
    if not len(records):
        raise UserError(f"{path}: the file has no rows; fetch it again")
    return records


def _read_tsv(path: Path, header: bool) -> Records:
    # Published TSV files do not quote: a field may begin with a quotation mark that is part of the sentence.
    lines = lines_of(path)
    rows = [line.split("\t") for line in lines]
    names = rows.pop(0) if header else None
    first = 2 if header else 1
    numbers: Sequence[int] = range(first, first + len(rows))
    if [""] in rows:
        numbers = [number for number, row in zip(numbers, rows, strict=True) if row != [""]]
        rows = [row for row in rows if row != [""]]
    return LineRecords(str(path), rows, numbers, names)


def _read_csv(path: Path, header: bool) -> Records:
    reader = csv.reader(io.StringIO(text_of(path), newline=""))
    rows: list[list[str]] = []
    numbers: list[int] = []
    start = 1
    try:
        for fields in reader:
            if fields:
                rows.append(fields)
                numbers.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: not CSV ({error}); is a quotation mark left open?") from None
    if not header:
        return LineRecords(str(path), rows, numbers, None)
    return LineRecords(str(path), rows[1:], numbers[1:], rows[0])


def _read_jsonl(path: Path, header: bool) -> Records:
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, row in json_rows(path):
        rows.append(row)
        numbers.append(number)
    return ObjectRecords(str(path), "line", rows, numbers)


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with one a line, with their line numbers.

    Raises:
        UserError: a line is no JSON object.
    """
    for number, line in enumerate(lines_of(path), start=1):
        if not line or line.isspace():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error.msg}); is the file whole?") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object on every line")
        yield number, row


def _read_json(path: Path, header: bool) -> Records:
    rows = load_json(path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, item {number}: expected a JSON object")
    return ObjectRecords(str(path), "item", rows, range(1, len(rows) + 1))


def load_json(path: Path) -> list[Any]:
    """The items of a JSON file: a list, or an object whose "data" is one.

    Raises:
        UserError: the file is not JSON, or holds no such list.
    """
    try:
        content = json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); is the file whole?") from None
    if isinstance(content, dict):
        content = content.get("data")
    if not isinstance(content, list):
        raise UserError(f'{path}: expected a list of objects, or an object whose "data" is one')
    return content

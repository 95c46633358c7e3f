"""Rows out of published files. Every error names the file and the line."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xlt_scale.errors import UserError
from xlt_scale.tasks.spec import Column, FileLayout


@dataclass(frozen=True)
class Row:
    """The raw text columns of one example and the line it was read from (counted from 1)."""

    line: int
    text: str
    text_pair: str | None
    label: str | None


def read_rows(path: Path, layout: FileLayout, language_code: str) -> Iterator[Row]:
    """The rows of one file in its layout, in file order.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a row lacks a column.
    """
    if layout.format == "text":
        yield from _read_text(path, layout, language_code)
        return
    wanted = {column: value.replace("{language}", language_code) for column, value in layout.where.items()}
    num_rows = 0
    for line, record in _RECORDS[layout.format](path, layout.header):
        num_rows += 1
        if any(_value(record, column, path, line) != value for column, value in wanted.items()):
            continue
        yield Row(
            line=line,
            text=_value(record, layout.text, path, line),
            text_pair=None if layout.text_pair is None else _value(record, layout.text_pair, path, line),
            label=None if layout.label is None else _value(record, layout.label, path, line),
        )
    if not num_rows:
        raise UserError(f"{path}: the file has no rows; fetch it again")


def _read_text(path: Path, layout: FileLayout, language_code: str) -> Iterator[Row]:
    lines = _lines(path)
    if not layout.pair_pattern:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Row(number, line, None, None)
        return
    pair_path = path.parent / layout.pair_pattern.replace("{language}", language_code).rsplit("/", 1)[-1]
    pairs = _lines(pair_path)
    if len(lines) != len(pairs):
        raise UserError(
            f"{path} has {len(lines)} lines but {pair_path.name} has {len(pairs)}: "
            "line i of one must translate line i of the other"
        )
    for number, (line, pair) in enumerate(zip(lines, pairs, strict=True), start=1):
        yield Row(number, line, pair, None)


def _text_of(path: Path) -> str:
    try:
        # Some editors begin a file with a byte order mark, which belongs neither to a column name nor to a sentence.
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8; convert the file to UTF-8") from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty; fetch it again")
    return text


def _lines(path: Path) -> list[str]:
    # Only line feeds end a line: Unicode's own line separators occur inside sentences.
    lines = _text_of(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


Record = dict[str, str] | list[str]


def _read_tsv(path: Path, header: bool) -> Iterator[tuple[int, Record]]:
    # Published TSV files do not quote: a field may begin with a quotation mark that is part of the sentence.
    lines = enumerate(_lines(path), start=1)
    names = next(lines)[1].split("\t") if header else None
    for number, line in lines:
        if line:
            fields = line.split("\t")
            yield number, fields if names is None else dict(zip(names, fields, strict=False))


def _read_csv(path: Path, header: bool) -> Iterator[tuple[int, Record]]:
    reader = csv.reader(io.StringIO(_text_of(path)))
    names = None
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}, line {start}: not CSV ({error}); is a quotation mark left open?") from None
        if fields is None:
            return
        if header and names is None:
            names = fields
        elif fields:
            yield start, fields if names is None else dict(zip(names, fields, strict=False))


def _read_jsonl(path: Path, header: bool) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error.msg}); is the file whole?") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object on every line")
        yield number, {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}


_RECORDS = {"tsv": _read_tsv, "csv": _read_csv, "jsonl": _read_jsonl}


def _value(record: Record, column: Column, path: Path, line: int) -> str:
    if isinstance(record, dict):
        if column in record:
            return record[str(column)]
        names = ", ".join(record)
        raise UserError(f"{path}, line {line}: no column {column!r}; the row has: {names}")
    if isinstance(column, int) and -len(record) <= column < len(record):
        return record[column]
    raise UserError(f"{path}, line {line}: column {column!r} is missing; the row has {len(record)} columns")

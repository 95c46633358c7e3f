"""Sentences of tagged words: a word and its tag on a line, and CoNLL-U."""

from collections.abc import Collection
from pathlib import Path

from xlt_scale.errors import UserError
from xlt_scale.tasks.layouts import Columns, FileLayout
from xlt_scale.tasks.records import ColumnRecords, Records
from xlt_scale.tasks.text_files import lines_of

TAGGED_COLUMNS = Columns(words="words", tags="tags")
"""The columns of the records that this module reads."""

_UPOS = 3
_NUM_CONLLU_COLUMNS = 10


class _Sentences:
    """Sentences as they are collected line by line."""

    def __init__(self) -> None:
        self.words: list[list[str]] = []
        self.tags: list[list[str]] = []
        self.starts: list[int] = []
        self._is_open = False

    def add(self, word: str, tag: str | None, line: int) -> None:
        if not self._is_open:
            self.words.append([])
            self.tags.append([])
            self.starts.append(line)
            self._is_open = True
        self.words[-1].append(word)
        if tag is not None:
            self.tags[-1].append(tag)

    def close(self) -> None:
        self._is_open = False

    def records(self, path: Path) -> Records:
        if not self.words:
            raise UserError(f"{path}: the file has no sentences; fetch it again")
        return ColumnRecords(str(path), "line", self.starts, {"words": self.words, "tags": self.tags})


def read_words(path: Path, layout: FileLayout, known_tags: Collection[str], prefixes: Collection[str]) -> Records:
    """Sentences of a file with one word a line, its tag after a tab or a space, and a blank line after each sentence.

    The columns are those of `words` and `tags`, or `text` and `label`, else the first and the second. A line without a
    tag has none (its sentence then has fewer tags than words). A -DOCSTART- line ends a sentence. A line that begins
    with # is a comment unless it has a tag; between spaces, one that the task knows.

    Args:
        prefixes: "<language>:" goes from the words where every word of the file begins with it (PAN-X).
    """
    word_column = _number(path, layout.words, layout.text, 0)
    tag_column = _number(path, layout.tags, layout.label, 1)
    lines = lines_of(path)
    separator = "\t" if any("\t" in line for line in lines[:100]) else " "
    sentences = _Sentences()
    for number, line in enumerate(lines, start=1):
        if not line or line.isspace() or line.startswith("-DOCSTART-"):
            sentences.close()
            continue
        fields = line.split(separator) if separator == "\t" else line.strip(" ").split(" ")
        tag = fields[tag_column] if -len(fields) <= tag_column < len(fields) and len(fields) > 1 else None
        if line[0] == "#" and line != "#" and (tag is None if separator == "\t" else tag not in known_tags):
            continue
        if not -len(fields) <= word_column < len(fields):
            raise UserError(
                f"{path}, line {number}: column {word_column} is missing; the row has {len(fields)} columns"
            )
        sentences.add(fields[word_column], tag, number)
    for prefix in prefixes:
        if all(word.startswith(prefix) for words in sentences.words for word in words):
            sentences.words = [[word[len(prefix) :] for word in words] for words in sentences.words]
    return sentences.records(path)


def _number(path: Path, column: object, other: object, default: int) -> int:
    found = next((item for item in (column, other) if item is not None), default)
    if not isinstance(found, int):
        raise UserError(f"{path}: column {found!r}: the columns of format 'words' are numbers from 0")
    return found


def read_conllu(path: Path) -> Records:
    """Words and universal part-of-speech tags of a CoNLL-U file; multiword ranges and empty nodes are no words.

    Raises:
        UserError: a line has another number of columns than ten.
    """
    sentences = _Sentences()
    for number, line in enumerate(lines_of(path), start=1):
        if not line or line.isspace():
            sentences.close()
        elif line[0] != "#":
            fields = line.split("\t")
            if len(fields) != _NUM_CONLLU_COLUMNS:
                raise UserError(f"{path}, line {number}: {len(fields)} columns; a word of CoNLL-U has ten, with tabs")
            if fields[0].isdecimal():
                sentences.add(fields[1], fields[_UPOS], number)
    return sentences.records(path)

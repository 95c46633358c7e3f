"""Labelled sets as files: each kind of item in the format of published data of its kind."""

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from xlt_scale.micro.items import ChoiceItem, Item, QuestionItem, SentenceItem, TaggedItem
from xlt_scale.micro.languages import Tongue

ENDINGS: dict[type[Item], str] = {
    SentenceItem: "tsv",
    TaggedItem: "tsv",
    QuestionItem: "json",
    ChoiceItem: "jsonl",
}
"""How the names of files end, by what they hold."""


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join([line + "\n" for line in lines]).encode())


def write_items(stem: Path, items: Sequence[Item], tongue: Tongue, rng: random.Random) -> None:
    """Write the items, all of one kind, in one language; the stem gets the ending of their format."""
    kind = type(items[0])
    rendered = [item.render(tongue, rng) for item in items]
    write_lines(stem.with_name(f"{stem.name}.{ENDINGS[kind]}"), _LINES[kind](rendered))


def _rows(rendered: Sequence[list[str]]) -> list[str]:
    return ["\t".join(row) for row in rendered]


def _objects(rendered: Sequence[dict[str, Any]]) -> list[str]:
    return [json.dumps(row) for row in rendered]


def _tagged_words(rendered: Sequence[list[tuple[str, str]]]) -> list[str]:
    """A word and its tag on a line, an empty line after each sentence."""
    return [line for sentence in rendered for line in (*[f"{word}\t{tag}" for word, tag in sentence], "")]


def _squad(rendered: Sequence[dict[str, Any]]) -> list[str]:
    """SQuAD's JSON, version 2, with one question to a passage."""
    paragraphs = []
    for number, row in enumerate(rendered):
        answers = row["answers"]
        asked = {"id": str(number), "question": row["question"], "answers": answers, "is_impossible": not answers}
        paragraphs.append({"context": row["context"], "qas": [asked]})
    return [json.dumps({"version": "micro", "data": [{"title": "micro", "paragraphs": paragraphs}]})]


_LINES: dict[type[Item], Any] = {
    SentenceItem: _rows,
    TaggedItem: _tagged_words,
    QuestionItem: _squad,
    ChoiceItem: _objects,
}

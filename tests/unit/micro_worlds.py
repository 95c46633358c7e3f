"""A micro world on disk, as its tests read it."""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from xlt_scale.micro import LANGUAGES, SOURCE_LANGUAGE, TRAINING_LANGUAGES, LabelledTask, write_micro_world
from xlt_scale.micro.formats import ENDINGS
from xlt_scale.micro.items import TaggedItem

WORLD_SEED = 3
CODES = [language.code for language in LANGUAGES]


@cache
def written_world() -> Path:
    """One world for all tests of a process; nobody changes it."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_micro_world(folder, WORLD_SEED)
    return folder


def languages_of(split: str) -> list[str]:
    """The languages that a labelled set's split is there in, the source language first."""
    codes = CODES if split == "test" else list(TRAINING_LANGUAGES)
    return [SOURCE_LANGUAGE, *(code for code in codes if code != SOURCE_LANGUAGE)]


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def rows_of(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in lines_of(path)]


def file_of(world: Path, task: LabelledTask, split: str, code: str) -> Path:
    return world / task.name / f"{split}-{code}.{ENDINGS[task.item]}"


def questions_of(path: Path) -> list[dict[str, Any]]:
    """context, question and answers of each item."""
    paragraphs = json.loads(path.read_text(encoding="utf-8"))["data"][0]["paragraphs"]
    return [{"context": paragraph["context"], **paragraph["qas"][0]} for paragraph in paragraphs]


def choices_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(path)]


def sentences_of(path: Path) -> list[list[tuple[str, str]]]:
    """Words and tags of each sentence."""
    blocks = path.read_text(encoding="utf-8").strip("\n").split("\n\n")
    return [[(word, tag) for word, tag in (line.split("\t") for line in block.splitlines())] for block in blocks]


def labels_of(world: Path, task: LabelledTask, split: str, code: str) -> list[Any]:
    """What each item asks to be said, as far as it is the same in every language."""
    path = file_of(world, task, split, code)
    match ENDINGS[task.item]:
        case "json":
            return [row["is_impossible"] for row in questions_of(path)]
        case "jsonl":
            return [row["label"] for row in choices_of(path)]
    if task.item is TaggedItem:
        return [sorted(tag for _, tag in sentence) for sentence in sentences_of(path)]
    return [row[-1] for row in rows_of(path)]


def texts_of(world: Path, task: LabelledTask, split: str, code: str) -> list[list[str]]:
    """The texts of each item."""
    path = file_of(world, task, split, code)
    match ENDINGS[task.item]:
        case "json":
            return [[row["context"], row["question"]] for row in questions_of(path)]
        case "jsonl":
            return [[row.get("context", ""), row.get("question", ""), *row["choices"]] for row in choices_of(path)]
    if task.item is TaggedItem:
        return [[" ".join(word for word, _ in sentence)] for sentence in sentences_of(path)]
    return [row[:-1] for row in rows_of(path)]

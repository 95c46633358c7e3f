"""Real published files, where XLT_SCALE_DATA names a folder of them: every one is read whole.

What is counted here is counted from the file by other means than the package's readers.
"""

import csv
import json
import os
from pathlib import Path

import pytest

from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import (
    ChoiceExamples,
    Examples,
    QuestionExamples,
    RankingExamples,
    TaggedExamples,
    TextExamples,
)
from xlt_scale.tasks.loading import DataSource, available_languages, find_origin, load_candidates, load_examples
from xlt_scale.tasks.spec import FileLayout, Split

ROOT = os.environ.get("XLT_SCALE_DATA", "")
CATALOGUE = {name: task for name, task in load_catalogue().items() if not task.generator and not task.parts}
SOURCE = DataSource({"": Path(ROOT)} if ROOT else {}, use_hub=False)
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
FOUND = [
    (name, split, language)
    for name, task in CATALOGUE.items()
    for split in SPLITS
    for language in (available_languages(task, split, SOURCE) if ROOT else [])
]

pytestmark = pytest.mark.skipif(not ROOT, reason="XLT_SCALE_DATA does not name a folder of published task files")


def count(path: Path, layout: FileLayout) -> int:
    """How many items the file holds."""
    if layout.format == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            return sum(1 for _ in csv.reader(file)) - layout.header
    text = path.read_text(encoding="utf-8")
    match layout.format:
        case "squad" | "squad_sentences":
            return sum(len(part["qas"]) for article in json.loads(text)["data"] for part in article["paragraphs"])
        case "conllu":
            return text.count("\n# sent_id = ") + text.startswith("# sent_id")
        case "words":
            return sum(1 for block in text.split("\n\n") if block.strip())
        case "hellaswag_text":
            return text.rstrip("\n").count("\n") // 6 + 1
        case _:
            return sum(1 for line in text.split("\n") if line.strip()) - layout.header


def has_answers(path: Path) -> bool:
    """Whether the copy of a file of questions still has the answers, which benchmarks take out of scored splits."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    return all(
        answer["text"]
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
        for answer in question["answers"]
    )


def load(name: str, split: Split, language: str) -> Examples:
    examples = load_examples(CATALOGUE[name], split, language, SOURCE)
    assert examples == load_examples(CATALOGUE[name], split, language, SOURCE)
    return examples


@pytest.mark.parametrize(("name", "split", "language"), FOUND)
def test_every_file_is_read_whole(name: str, split: Split, language: str) -> None:
    task = CATALOGUE[name]
    origin = find_origin(task, split, language, SOURCE)
    assert origin.layout is not None
    examples = load(name, split, language)
    if origin.layout.format == "squad":
        assert examples.is_labelled == all(map(has_answers, origin.files))
    assert len(examples) + examples.num_dropped == sum(count(path, origin.layout) for path in origin.files)
    match examples:
        case TextExamples(text_pairs=pairs, labels=labels):
            assert pairs is None or len(pairs) == len(examples)
            assert labels is None or len(labels) == len(examples)
            if task.kind == "classification":
                assert labels is not None and set(labels) == set(range(len(task.labels)))
        case ChoiceExamples(choices=choices, labels=labels):
            assert labels is not None and all(0 <= k < len(row) for k, row in zip(labels, choices, strict=True))
        case QuestionExamples(contexts=contexts, answers=answers):
            for context, found in zip(contexts, answers, strict=True):
                assert bool(found) == examples.is_labelled
                assert all(context[begin : begin + len(text)] == text for text, begin in found)
        case TaggedExamples(words=words, tags=tags):
            assert tags is not None and [len(row) for row in words] == [len(row) for row in tags]
        case RankingExamples(gold=gold, candidate_ids=ids):
            assert {name for names in gold for name in names} <= set(ids)


@pytest.mark.parametrize("name", ["xnli", "americasnli", "xcopa"])
def test_parallel_files_have_the_same_labels_row_by_row(name: str) -> None:
    languages = available_languages(CATALOGUE[name], "dev", SOURCE)
    if len(languages) < 2:
        pytest.skip(f"fewer than two languages of {name} below XLT_SCALE_DATA")
    first, *others = (load(name, "dev", language).columns["labels"] for language in languages)
    assert all(labels == first for labels in others)


def test_a_question_of_the_pool_of_lareqa_is_answered_once_in_every_language() -> None:
    languages = available_languages(CATALOGUE["lareqa"], "test", SOURCE)
    if not languages:
        pytest.skip("no files of lareqa below XLT_SCALE_DATA")
    pool = load_candidates(CATALOGUE["lareqa"], "test", SOURCE, languages)
    assert all([name.split(":")[0] for name in names] == languages for names in pool.gold)
    examples = load("lareqa", "test", languages[0])
    assert isinstance(examples, RankingExamples)
    assert pool.query_ids == examples.query_ids
    assert len(set(pool.candidate_ids)) == len(pool.candidates)

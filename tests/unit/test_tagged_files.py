"""Sentences of tagged words: a word and its tag on a line, CoNLL-U, and lists in JSON."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import TaggedExamples
from xlt_scale.tasks.loading import DataSource, load_examples, with_labels
from xlt_scale.tasks.spec import Split, TaskSpec

Write = Callable[[str, str], Path]
LABELS = ["O", "B-PER", "I-PER"]
WORDS = {"format": "words"}


def task(layout: dict[str, Any], **fields: Any) -> TaskSpec:
    files = [{"split": split, "pattern": f"{{language}}.{split}", **layout} for split in ("train", "dev", "test")]
    return load_catalogue({"own": {"kind": "tagging", "labels": LABELS, "files": files} | fields})["own"]


def load(spec: TaskSpec, root: Path, split: Split = "train", language: str = "en") -> TaggedExamples:
    examples = load_examples(spec, split, language, DataSource({"": root}, use_hub=False))
    assert isinstance(examples, TaggedExamples)
    return examples


def refusal(spec: TaskSpec, root: Path, split: Split = "train") -> str:
    with pytest.raises(UserError) as error:
        load(spec, root, split)
    message = str(error.value)
    assert "\n" not in message
    return message.removeprefix(str(root / f"en.{split}"))


@pytest.mark.parametrize("separator", ["\t", " "])
def test_a_blank_line_ends_a_sentence(write: Write, tmp_path: Path, separator: str) -> None:
    write("en.train", "Ada B-PER\nL. I-PER\n\n\nyes O".replace(" ", separator))
    examples = load(task(WORDS), tmp_path)
    assert examples.words == [["Ada", "L."], ["yes"]]
    assert examples.tags == [[1, 2], [0]]


def test_document_starts_and_comments_are_no_words_but_a_hash_is_one(write: Write, tmp_path: Path) -> None:
    write("en.train", "-DOCSTART- O\n\n# id = 5\n# O\nAda B-PER\n-DOCSTART- O\n# comment\nyes O\n")
    assert load(task(WORDS), tmp_path).words == [["#", "Ada"], ["yes"]]
    write("en.train", "# comment with\n#\tO\nAda\tB-PER\n")
    assert load(task(WORDS), tmp_path).words == [["#", "Ada"]]


def test_the_columns_of_words_and_tags_may_be_numbered(write: Write, tmp_path: Path) -> None:
    write("en.train", "1\tAda\tNNP\tB-PER\n2\tsaw\tVBD\tO\n")
    for columns in ({"words": 1, "tags": -1}, {"text": 1, "label": 3}):
        examples = load(task(WORDS | columns), tmp_path)
        assert (examples.words, examples.tags) == ([["Ada", "saw"]], [[1, 0]])


def test_the_language_before_every_word_of_panx_goes(write: Write, tmp_path: Path) -> None:
    write("en.train", "en:Ada\tB-PER\nen::\tO\n")
    assert load(task(WORDS), tmp_path).words == [["Ada", ":"]]
    write("en.train", "en:Ada\tB-PER\nsaw\tO\n")
    assert load(task(WORDS), tmp_path).words == [["en:Ada", "saw"]]


def test_a_file_of_words_alone_has_no_tags(write: Write, tmp_path: Path) -> None:
    write("en.test", "Ada\nsaw\n\nyes\n")
    examples = load(task(WORDS), tmp_path, "test")
    assert (examples.words, examples.tags) == ([["Ada", "saw"], ["yes"]], None)


def test_words_without_tags_are_refused_for_training(write: Write, tmp_path: Path) -> None:
    write("en.train", "Ada\nsaw\n")
    assert refusal(task(WORDS), tmp_path) == ", line 1: the sentence has 2 words but 0 tags"


def test_a_line_without_its_tag_is_named_with_its_sentence(write: Write, tmp_path: Path) -> None:
    write("en.dev", "yes\tO\n\nAda\tB-PER\nsaw\n")
    assert refusal(task(WORDS), tmp_path, "dev") == ", line 3: the sentence has 2 words but 1 tags"


def test_an_unknown_tag_is_named_with_its_word_and_the_mend(write: Write, tmp_path: Path) -> None:
    write("en.train", "yes\tO\n\nAda\tB-PER\nParis\tB-LOC\n")
    assert refusal(task(WORDS), tmp_path) == (
        ", line 3: tag 'B-LOC' of word 2 of the sentence, 'Paris', is not one of O, B-PER, I-PER; "
        "mend it, or declare it in [tasks.own] labels or label_aliases"
    )


def test_another_spelling_of_a_tag_is_read_by_its_alias(write: Write, tmp_path: Path) -> None:
    write("en.train", "Ada\tB-PERSON\n")
    assert load(task(WORDS, label_aliases={"B-PERSON": "B-PER"}), tmp_path).tags == [[1]]


def test_without_declared_labels_the_tags_of_the_source_language_are_the_labels(write: Write, tmp_path: Path) -> None:
    write("en.train", "buy\tS/NP\nit\tNP\n")
    write("en.dev", "so\tADV\n")
    spec = task(WORDS, labels=[])
    assert with_labels(spec, DataSource({"": tmp_path})).labels == ["ADV", "NP", "S/NP"]
    assert load(spec, tmp_path).tags == [[2, 1]]


def test_a_task_without_labels_and_files_asks_for_them(tmp_path: Path) -> None:
    assert refusal(task(WORDS, labels=[]), tmp_path) == (
        "task 'own': no labels, and no files in language 'en' to take them from; declare [tasks.own] labels"
    )


CONLLU = (
    "# sent_id = 1\n# text = vámonos ya\n"
    "1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tvamos\tir\tVERB\t_\t_\t0\troot\t_\t_\n"
    "2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_\n"
    "2.1\tfui\tir\tVERB\t_\t_\t_\t_\t_\t_\n"
    "3\tya\tya\tADV\t_\t_\t1\tadvmod\t_\t_\n"
    "\n"
    "1\tsí\tsí\tINTJ\t_\t_\t0\troot\t_\t_\n"
)
UPOS = ["ADV", "INTJ", "PRON", "VERB"]


def test_multiword_ranges_and_empty_nodes_of_conllu_are_no_words(write: Write, tmp_path: Path) -> None:
    write("en.train", CONLLU)
    examples = load(task({"format": "conllu"}, labels=UPOS), tmp_path)
    assert examples.words == [["vamos", "nos", "ya"], ["sí"]]
    assert examples.tags == [[3, 2, 0], [1]]


def test_a_line_of_conllu_with_too_few_columns_is_named(write: Write, tmp_path: Path) -> None:
    write("en.train", CONLLU + "2 x x VERB\n")
    assert refusal(task({"format": "conllu"}, labels=UPOS), tmp_path) == (
        ", line 10: 1 columns; a word of CoNLL-U has ten, with tabs"
    )


def test_the_treebanks_of_a_language_are_read_in_the_order_of_their_paths(write: Write, tmp_path: Path) -> None:
    word = "1\t{}\t_\tADV\t_\t_\t0\troot\t_\t_\n"
    for name in ("UD_German-HDT/de_hdt", "UD_German-GSD/de_gsd", "UD_Dutch-X/nl_x"):
        write(f"udpos/{name}-ud-train.conllu", word.format(name[-3:]))
    spec = task({"format": "conllu", "pattern": "udpos/UD_*/{language}_*-ud-train.conllu"}, labels=UPOS)
    assert load(spec, tmp_path, "train", "de").words == [["gsd"], ["hdt"]]


def test_lists_of_words_and_tags_are_read_from_json(write: Write, tmp_path: Path) -> None:
    layout = {"format": "jsonl", "words": "tokens", "tags": "ner"}
    write("en.train", '{"tokens": ["Ada", "saw"], "ner": ["B-PER", "O"]}\n{"tokens": [], "ner": []}\n')
    examples = load(task(layout), tmp_path)
    assert (examples.words, examples.tags, examples.num_dropped) == ([["Ada", "saw"]], [[1, 0]], 1)
    write("en.train", '{"tokens": ["Ada", "saw"], "ner": [1, 0]}\n')
    assert load(task(layout), tmp_path).tags == [[1, 0]]


def test_words_that_are_no_list_are_refused(write: Write, tmp_path: Path) -> None:
    write("en.train", '{"tokens": "Ada saw", "ner": ["B-PER", "O"]}\n')
    assert refusal(task({"format": "jsonl", "words": "tokens", "tags": "ner"}), tmp_path) == (
        ", line 1: column 'tokens' is no list, one item per word"
    )

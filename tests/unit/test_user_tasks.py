"""Tasks that a run file declares in `[tasks.NAME]`: every kind without code, and what is said of each mistake."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import (
    BitextExamples,
    ChoiceExamples,
    Examples,
    QuestionExamples,
    RankingExamples,
    TaggedExamples,
    TextExamples,
)
from xlt_scale.tasks.loading import DataSource, available_languages, load_examples

Write = Callable[[str, str], Path]


def load(root: Path, declaration: str, split: str = "train", language: str = "en") -> Examples:
    spec = load_catalogue({"own": tomllib.loads(declaration)})["own"]
    return load_examples(spec, split, language, DataSource({"": root}, use_hub=False))  # type: ignore[arg-type]


def refusal(root: Path, declaration: str, split: str = "train", language: str = "en") -> str:
    with pytest.raises(UserError) as error:
        load(root, declaration, split, language)
    message = str(error.value)
    assert "\n" not in message
    return message.removeprefix(f"{root}/").removeprefix("task 'own': ")


def task(kind: str, layout: str, fields: str = "") -> str:
    """The declaration of a task with one layout of files."""
    return f'kind = "{kind}"\n{fields}\nfiles = [{{ {layout} }}]'


SENTIMENT = """
kind = "classification"
labels = ["bad", "good"]
[[files]]
split = "train"
pattern = "own/reviews.tsv"
header = true
text = ["title", "body"]
label = "stars"
"""


def test_a_classification_task(write: Write, tmp_path: Path) -> None:
    write("own/reviews.tsv", "title\tbody\tstars\nNo.\tNot this.\tbad\n\tFine.\tgood\n")
    examples = load(tmp_path, SENTIMENT)
    assert isinstance(examples, TextExamples)
    assert (examples.texts, examples.labels) == (["No. Not this.", "Fine."], [0, 1])


def test_a_file_without_a_language_in_its_name_is_of_the_source_language(write: Write, tmp_path: Path) -> None:
    write("own/reviews.tsv", "title\tbody\tstars\nNo.\tNot this.\tbad\n")
    spec = load_catalogue({"own": tomllib.loads('source_language = "de"' + SENTIMENT)})["own"]
    assert available_languages(spec, "train", DataSource({"": tmp_path})) == ["de"]
    assert refusal(tmp_path, 'source_language = "de"' + SENTIMENT, language="fr") == (
        "no train data in language 'fr'; no layout of its files or of the hub is of that language"
    )


def test_a_file_may_be_given_by_its_absolute_path(write: Write, tmp_path: Path) -> None:
    path = write("elsewhere/reviews.tsv", "title\tbody\tstars\nNo.\tNot this.\tbad\n")
    spec = load_catalogue({"own": tomllib.loads(SENTIMENT.replace("own/reviews.tsv", str(path)))})["own"]
    for source in (DataSource({}, use_hub=False), DataSource({"": tmp_path / "x"}, use_hub=False)):
        assert len(load_examples(spec, "train", "en", source)) == 1
    path.unlink()
    with pytest.raises(UserError, match=f"no train data in language 'en'; there is no {path}"):
        load_examples(spec, "train", "en", DataSource({}, use_hub=False))


def test_absolute_paths_say_languages_too(write: Write, tmp_path: Path) -> None:
    for language in ("de", "sw"):
        write(f"elsewhere/{language}.txt", "x\n")
    layout = f'split = "train", pattern = "{tmp_path}/elsewhere/{{language}}.txt", format = "text"'
    declaration = task("masked_language_modeling", layout)
    spec = load_catalogue({"own": tomllib.loads(declaration)})["own"]
    assert available_languages(spec, "train", DataSource({})) == ["de", "sw"]


REGRESSION = (
    'kind = "regression"\nfiles = [{ split = "train", pattern = "own.tsv", text = 0, text_pair = 1, label = 2 }]'
)


def test_a_regression_task(write: Write, tmp_path: Path) -> None:
    write("own.tsv", "a\tb\t4.5\nc\td\t-1e1\n")
    examples = load(tmp_path, REGRESSION)
    assert isinstance(examples, TextExamples)
    assert examples.labels == [4.5, -10.0]
    write("own.tsv", "a\tb\t4.5\nc\td\tfour\n")
    assert refusal(tmp_path, REGRESSION) == (
        "own.tsv, line 2: label 'four' is no number; mend the row, or declare it in [tasks.own] unlabelled"
    )


CHOICES = """
kind = "multiple_choice"
[[files]]
split = "train"
pattern = "own.jsonl"
format = "jsonl"
text = ["story", "ask"]
choices = "ways.text"
label = "right"
"""


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ("", ["1", "0"]),
        ('labels = ["A", "B", "C"]', ["B", "A"]),
        ('labels = ["1", "2", "3"]', ["2", "1"]),
        ('label_aliases = { first = "0", second = "1" }', ["second", "first"]),
        ('labels = ["A", "B", "C"]', ["go home", "stay"]),
    ],
    ids=["from 0", "letters", "from 1", "aliases", "texts"],
)
def test_a_multiple_choice_task_with_any_spelling_of_what_is_right(
    write: Write, tmp_path: Path, fields: str, labels: list[str]
) -> None:
    write(
        "own.jsonl",
        f'{{"story": "Rain.", "ask": "Then?", "ways": {{"text": ["stay out", "go home"]}}, "right": "{labels[0]}"}}\n'
        f'{{"story": "Sun.", "ask": "Then?", "ways": {{"text": ["stay", "go", "x"]}}, "right": "{labels[1]}"}}\n',
    )
    examples = load(tmp_path, fields + CHOICES)
    assert isinstance(examples, ChoiceExamples)
    assert examples.contexts == ["Rain. Then?", "Sun. Then?"]
    assert examples.choices == [["stay out", "go home"], ["stay", "go", "x"]]
    assert examples.labels == [1, 0]


def test_choices_may_be_columns_and_lists_of_objects(write: Write, tmp_path: Path) -> None:
    columns = task("multiple_choice", 'split = "train", pattern = "own.tsv", text = 0, choices = [1, 2], label = 3')
    write("own.tsv", "Rain.\tstay\tgo\t1\n")
    examples = load(tmp_path, columns)
    assert isinstance(examples, ChoiceExamples)
    assert (examples.choices, examples.labels) == ([["stay", "go"]], [1])
    write("own.jsonl", '{"story": "a", "ask": "b", "ways": [{"text": "c"}, {"text": "d"}], "right": 0}\n')
    examples = load(tmp_path, CHOICES)
    assert isinstance(examples, ChoiceExamples)
    assert (examples.choices, examples.labels) == ([["c", "d"]], [0])


def test_a_label_that_names_no_choice_is_refused(write: Write, tmp_path: Path) -> None:
    write("own.jsonl", '{"story": "a", "ask": "b", "ways": {"text": ["c", "d"]}, "right": 2}\n')
    assert refusal(tmp_path, CHOICES) == (
        "own.jsonl, line 1: label '2' names none of the 2 choices (0 to 1); "
        "mend the row, or declare it in [tasks.own] labels, label_aliases or unlabelled"
    )


def test_choices_that_are_no_list_are_refused(write: Write, tmp_path: Path) -> None:
    write("own.jsonl", '{"story": "a", "ask": "b", "ways": {"text": "c"}, "right": 2}\n')
    assert refusal(tmp_path, CHOICES).startswith(
        "own.jsonl, line 1: column 'ways.text' is no list of at least two texts; name the column of the list "
    )


def test_values_of_a_column_may_stand_for_sentences(write: Write, tmp_path: Path) -> None:
    write("own.jsonl", '{"story": "Rain.", "ask": "cause", "ways": {"text": ["c", "d"]}, "right": 0}\n')
    declaration = CHOICES.replace('label = "right"', 'label = "right"\nvalues = { ask = { cause = "Why?" } }')
    examples = load(tmp_path, declaration)
    assert isinstance(examples, ChoiceExamples)
    assert examples.contexts == ["Rain. Why?"]


def test_a_tagging_task_a_span_task_and_a_bitext_task(write: Write, tmp_path: Path) -> None:
    write("own", "Ada B-PER\nsaw O\n")
    tagging = (
        'kind = "tagging"\nlabels = ["O", "B-PER"]\nfiles = [{ split = "train", pattern = "own", format = "words" }]'
    )
    assert isinstance(load(tmp_path, tagging), TaggedExamples)
    write("own", "Who?\tAda saw\tAda\n")
    span = 'kind = "span"\nfiles = [{ split = "train", pattern = "own", text = 0, text_pair = 1, answers = 2 }]'
    assert isinstance(load(tmp_path, span), QuestionExamples)
    bitext = 'kind = "bitext_mining"\nfiles = [{ split = "test", pattern = "own", text = 0, text_pair = 1 }]'
    write("own", "ja\tyes\nnein\t\n\tmaybe\n")
    examples = load(tmp_path, bitext, "test")
    assert isinstance(examples, BitextExamples)
    assert (examples.texts, examples.source_texts) == (["ja", "nein"], ["yes", "maybe"])
    assert examples.gold_pairs == [("0", "0")]


RANKING = 'kind = "dual_encoding"\nfiles = [{ split = "train", pattern = "own", text = 0, text_pair = 1 }]'


def test_a_ranking_task_has_every_candidate_once(write: Write, tmp_path: Path) -> None:
    write("own", "Who?\tAda\nWhere?\tat home\nAnd who else?\tAda\n")
    examples = load(tmp_path, RANKING)
    assert isinstance(examples, RankingExamples)
    assert (examples.candidates, examples.candidate_ids) == (["Ada", "at home"], ["en:0", "en:1"])
    assert examples.gold == [["en:0"], ["en:1"], ["en:0"]]


def test_a_rule_drops_rows_and_counts_them(write: Write, tmp_path: Path) -> None:
    write("own.tsv", "a\tb\t1\nNS\tb\t0\n\tb\t0\nc\tNS\t1\n")
    declaration = """
    kind = "classification"
    labels = ["0", "1"]
    [[files]]
    split = "train"
    pattern = "own.tsv"
    text = 0
    text_pair = 1
    label = 2
    drop_where = { 0 = ["NS", ""], 1 = ["NS", ""] }
    """
    examples = load(tmp_path, declaration)
    assert isinstance(examples, TextExamples)
    assert (examples.texts, examples.labels, examples.num_dropped) == (["a"], [1], 3)


def test_rows_may_be_kept_by_a_value_or_the_beginning_of_one(write: Write, tmp_path: Path) -> None:
    write("own.tsv", "english-1\tnews\ta\nfinnish-1\tnews\tb\nenglish-2\tblog\tc\n")
    declaration = """
    kind = "masked_language_modeling"
    language_codes = { en = "english" }
    [[files]]
    split = "train"
    pattern = "own.tsv"
    text = 2
    where = { 1 = "news" }
    where_prefix = { 0 = "{language}-" }
    """
    examples = load(tmp_path, declaration)
    assert isinstance(examples, TextExamples)
    assert (examples.texts, examples.num_dropped) == (["a"], 0)


def test_a_layout_may_say_which_languages_it_holds(write: Write, tmp_path: Path) -> None:
    write("german.txt", "ja\n")
    declaration = """
    kind = "masked_language_modeling"
    languages = ["de", "fr"]
    files = [{ split = "train", pattern = "german.txt", format = "text", languages = ["de"] }]
    """
    assert len(load(tmp_path, declaration, language="de")) == 1
    assert refusal(tmp_path, declaration, language="fr").startswith("no train data in language 'fr'")


def test_json_may_be_a_whole_list(write: Write, tmp_path: Path) -> None:
    declaration = task(
        "masked_language_modeling", 'split = "train", pattern = "own.json", format = "json", text = "a.b"'
    )
    write("own.json", '[{"a": {"b": "x"}}, {"a": {"b": "y"}}]')
    examples = load(tmp_path, declaration)
    assert isinstance(examples, TextExamples) and examples.texts == ["x", "y"]
    write("own.json", '{"data": [{"a": {"b": "x"}}]}')
    assert len(load(tmp_path, declaration)) == 1
    write("own.json", '[{"a": {"b": "x"}}, {"a": {"c": "y"}}]')
    assert refusal(tmp_path, declaration) == "own.json, item 2: no column 'a.b'; the row has: a"
    write("own.json", '[{"a": {"b": ["x"]}}]')
    assert refusal(tmp_path, declaration) == (
        "own.json, item 1: column 'a.b' holds a list, not a text; name what is in it, as in 'question.stem'"
    )


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ('kind = "classification"', "a classification task needs at least two labels"),
        ('kind = "classification"\nlabels = ["a", "a", "b"]', "a label is given twice"),
        (
            'kind = "multiple_choice"\nfiles = [{ split = "train", pattern = "x", label = 1 }]',
            "every file layout of a multiple_choice task needs its choices column",
        ),
        (
            task("multiple_choice", 'split = "train", pattern = "x", label = 1, choices = [2, 3], text_pair = 4'),
            "every file layout of a multiple_choice task has no text_pair; give `text` a list of columns",
        ),
        (
            'kind = "span"\nfiles = [{ split = "train", pattern = "x" }]',
            "every file layout of a span task needs its text_pair and answers columns",
        ),
        (
            'kind = "span"\nhub = [{ dataset = "x", splits = { train = "train" }, text_pair = "context" }]',
            "every hub layout of a span task needs its answers column",
        ),
        (
            'kind = "tagging"\nlabels = ["O"]\nfiles = [{ split = "train", pattern = "x", format = "jsonl" }]',
            "every file layout of a tagging task needs its words and tags columns",
        ),
        (
            'kind = "span"\nfiles = [{ split = "train", pattern = "x", format = "conllu" }]',
            "every file layout of a span task is of another format than 'conllu', which is for tagging",
        ),
        (
            'kind = "retrieval"\nfiles = [{ split = "test", pattern = "x", format = "text" }]',
            "every file layout of a retrieval task needs its pair_pattern, the file of the other side",
        ),
        (
            task(
                "classification", 'split = "train", pattern = "x", label = 1', 'labels = ["a", "b"]\nparts = ["snli"]'
            ),
            "a task of parts has no files or hub of its own; remove one of them",
        ),
        (
            'kind = "classification"\nlabels = ["a", "b"]\nsplit_shares = { train = 0.7, test = 0.4 }',
            "split_shares add up to more than 1",
        ),
        (
            'kind = "classification"\nlabels = ["a", "b"]\nparts = ["snli"]\nsplit_shares = { train = 0.7 }',
            "split_shares cut a task of its own files; declare them for the parts instead",
        ),
        (
            'kind = "bitext_mining"\nfiles = [{ split = "test", pattern = "x", format = "bitext" }]',
            "files of format 'bitext' need pair_pattern, the file that goes with the first",
        ),
    ],
)
def test_a_mistake_in_a_declaration_is_said_in_one_line(tmp_path: Path, declaration: str, message: str) -> None:
    assert refusal(tmp_path, declaration).removeprefix("task 'own': ") == message


def test_an_unknown_format_and_an_unknown_kind_are_answered_with_the_valid_ones(tmp_path: Path) -> None:
    assert "'tsv', 'csv', 'jsonl'" in refusal(tmp_path, SENTIMENT.replace("header = true", 'format = "excel"'))
    assert "'classification', 'regression'" in refusal(tmp_path, 'kind = "classify"')


def test_a_label_column_that_is_not_there_is_named_with_the_nearest(write: Write, tmp_path: Path) -> None:
    write("own/reviews.tsv", "title\tbody\tstar\nNo.\tNot this.\tbad\n")
    assert refusal(tmp_path, SENTIMENT) == "own/reviews.tsv: no column 'stars'; did you mean 'star'?"

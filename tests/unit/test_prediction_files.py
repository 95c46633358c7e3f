"""Prediction and label files in XTREME's layout, whole and broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.errors import UserError
from xlt_scale.evaluation.prediction_files import (
    file_name,
    read_labels,
    read_predictions,
    score_files,
    write_predictions,
)

Write = Callable[[str, str], Path]


def _squad(**answers: list[str]) -> list[dict[str, Any]]:
    questions = [
        {"id": name, "question": "?", "answers": [{"text": text, "answer_start": 0} for text in texts]}
        for name, texts in answers.items()
    ]
    return [{"title": "t", "paragraphs": [{"context": "c", "qas": questions}]}]


@pytest.mark.parametrize(
    ("metric", "kind", "expected"),
    [
        ("accuracy", "classification", "test-sw.tsv"),
        ("accuracy", "multiple_choice", "test-sw.jsonl"),
        ("tagging_f1", "tagging", "test-sw.tsv"),
        ("mlqa", "span", "test-sw.json"),
        ("map_at_20", "dual_encoding", "test-sw.json"),
        ("bitext_mining", "bitext_mining", "test-sw.tsv"),
    ],
)
def test_the_file_name_ends_as_xtreme_expects(metric: str, kind: str, expected: str) -> None:
    assert file_name(metric, "test", "sw", kind) == expected


@pytest.mark.parametrize(
    ("metric", "ending", "predictions"),
    [
        ("accuracy", "tsv", ["entailment", "neutral"]),
        ("accuracy", "jsonl", ["0", "1"]),
        ("accuracy_and_f1", "tsv", ["1", "0"]),
        ("correlation", "tsv", [0.1, -2.5e-8]),
        ("entity_f1", "tsv", [["B-PER", "O"], [], ["O"], []]),
        ("squad", "json", {"q-1": "東京", "q-2": ""}),
        ("squad_v2", "json", {"q": "ירושלים"}),
        ("mlqa", "json", {"q": 'a "b"\n'}),
        ("bitext_accuracy", "tsv", [3, 0, 12]),
        ("bitext_mining", "tsv", [("de-1", "en-2"), ("de-2", "en-1")]),
        ("bitext_mining", "tsv", []),
        ("map_at_20", "json", {"m": ["Q1", "Q2"]}),
    ],
)
def test_what_is_written_is_read_again(tmp_path: Path, metric: str, ending: str, predictions: Any) -> None:
    path = tmp_path / "task" / f"test-xx.{ending}"
    write_predictions(path, metric, predictions)
    assert read_predictions(path, metric) == predictions


def test_choices_are_written_as_numbers_as_xtreme_compares_them(tmp_path: Path) -> None:
    write_predictions(tmp_path / "test-et.jsonl", "accuracy", ["1", "0"])
    assert (tmp_path / "test-et.jsonl").read_text() == '{"label": 1}\n{"label": 0}\n'


def test_a_wrong_ending_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"squad is written to \.json"):
        write_predictions(tmp_path / "test-en.tsv", "squad", {})


def test_tatoeba_indices_may_stand_in_brackets(write: Write) -> None:
    assert read_predictions(write("test-de.tsv", "[12]\n3\n[ 4 ]\n"), "bitext_accuracy") == [12, 3, 4]


def test_two_empty_lines_make_an_empty_sentence(write: Write) -> None:
    path = write("test-de.tsv", "NOUN\n\n\nVERB\n")
    assert read_predictions(path, "tagging_f1") == [["NOUN"], [], ["VERB"]]


def test_an_empty_line_after_the_last_sentence_adds_none(write: Write) -> None:
    for text in ("NOUN\n\nVERB", "NOUN\n\nVERB\n", "NOUN\n\nVERB\n\n", "NOUN\r\n\r\nVERB\r\n"):
        assert read_predictions(write("test-de.tsv", text), "tagging_f1") == [["NOUN"], ["VERB"]]


def test_an_empty_label_is_an_item(write: Write) -> None:
    assert read_predictions(write("test-de.tsv", "a\n\nb\n"), "accuracy") == ["a", "", "b"]


def test_questions_are_read_with_and_without_data_around_them(write: Write) -> None:
    articles = _squad(a=["x", "y"], b=[])
    for content in (articles, {"version": "1.1", "data": articles}):
        path = write("test-en.json", json.dumps(content))
        assert read_labels(path, "squad_v2") == {"a": ["x", "y"], "b": []}


def test_xcopa_is_read_from_lines_of_json_and_of_text(write: Write) -> None:
    lines = write("test-et.jsonl", '{"premise": "p", "label": 1}\n{"premise": "q", "label": 0}\n')
    assert read_labels(lines, "accuracy") == read_labels(write("test-et.tsv", "1\n0\n"), "accuracy") == ["1", "0"]


@pytest.mark.parametrize(
    ("metric", "name", "text", "message"),
    [
        ("accuracy", "p.jsonl", '{"label": 1}\n{"answer": 1}\n', r'row 2: no "label"; write an object'),
        ("accuracy", "p.jsonl", '{"label": 1}\nlabel\n', r"row 2: not JSON .*; write the file anew"),
        ("correlation", "p.tsv", "0.5\nhigh\n", r"row 2: 'high' is no number; write one"),
        ("bitext_accuracy", "p.tsv", "1\n2.5\n", r"row 2: '2.5' is no sentence number; write one"),
        ("bitext_mining", "p.tsv", "a\tb\nc\n", r"row 2: 'c' is no pair; write two ids"),
        ("entity_f1", "p.tsv", "O\nBerlin\tB-LOC\n", r"row 2: 'Berlin\\tB-LOC' is more than a tag; write"),
        ("squad", "p.json", '{"q": "x",\n"q": "y"}', r"row 2: 'q' is given twice; keep one"),
        ("squad", "p.json", '{"q": "x"\n"r": "y"}', r"row 2: not JSON"),
        ("squad", "p.json", '["x"]', r"not an object; write"),
        ("squad", "p.json", '{"q": null}', r"the answer to 'q' is no text; write"),
        ("map_at_20", "p.json", '{"q": "Q1"}', r"the candidates of 'q' are no list of ids; write"),
    ],
)
def test_a_broken_file_is_said_with_row_and_mend(write: Write, metric: str, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"{name}.*{message}") as caught:
        read_predictions(write(name, text), metric)
    assert "\n" not in str(caught.value)


def test_broken_utf_8_is_said_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_bytes(b"a\nb\n\xff\n")
    with pytest.raises(UserError, match=r"p\.tsv, row 3: broken UTF-8; save the file as UTF-8"):
        read_predictions(tmp_path / "p.tsv", "accuracy")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"p\.tsv is missing"):
        read_predictions(tmp_path / "p.tsv", "accuracy")


def test_a_question_that_is_there_twice_is_said(write: Write) -> None:
    articles = _squad(a=["x"]) + _squad(a=["y"])
    with pytest.raises(UserError, match="'a' is given twice"):
        read_labels(write("l.json", json.dumps(articles)), "squad")


def test_another_json_than_squads_is_said(write: Write) -> None:
    with pytest.raises(UserError, match=r"not a SQuAD file \(no 'paragraphs'\); write data > paragraphs"):
        read_labels(write("l.json", '[{"qas": []}]'), "squad")


def test_labels_that_were_removed_are_not_scored_against(write: Write) -> None:
    with pytest.raises(UserError, match=r"every reference answer is empty.*take the file as it was published"):
        read_labels(write("l.json", json.dumps(_squad(a=[""], b=[""]))), "squad")


def test_an_unknown_metric_is_said_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="metric 'acuracy' is unknown; did you mean 'accuracy'"):
        read_predictions(tmp_path / "p.tsv", "acuracy")


def test_different_numbers_of_rows_name_both_files_and_both_counts(write: Write) -> None:
    predictions, labels = write("p.tsv", "a\nb\n"), write("l.tsv", "a\nb\nc\n")
    with pytest.raises(UserError, match=r"p\.tsv has 2 rows, its labels .*l\.tsv have 3; write one prediction"):
        score_files(predictions, labels, "accuracy")


def test_sentences_that_do_not_match_name_both_files(write: Write) -> None:
    predictions, labels = write("p.tsv", "O\n\nO\nO\n"), write("l.tsv", "O\n\nO\n")
    with pytest.raises(UserError, match=r"p\.tsv cannot be scored against .*l\.tsv: sentence 2 has 2 predicted tags"):
        score_files(predictions, labels, "entity_f1")
    with pytest.raises(UserError, match=r"p\.tsv has 2 sentences, its labels .* have 3"):
        score_files(predictions, write("l.tsv", "O\n\n\nO\n"), "entity_f1")


def test_a_language_without_rules_names_the_file(write: Write) -> None:
    predictions, labels = write("p.json", '{"a": "x"}'), write("l.json", json.dumps(_squad(a=["x"])))
    with pytest.raises(UserError, match=r"p\.json: MLQA has no rules for the language 'fi'"):
        score_files(predictions, labels, "mlqa", "fi")

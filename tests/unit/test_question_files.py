"""Questions about passages: SQuAD's JSON, QAMR, and tables; every answer is where its passage has it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.errors import UserError
from xlt_scale.tasks.catalogue import load_catalogue
from xlt_scale.tasks.examples import QuestionExamples
from xlt_scale.tasks.loading import DataSource, load_examples
from xlt_scale.tasks.spec import Split

Write = Callable[[str, str], Path]
CONTEXT = "Das Haus ist grün. Der Hund schläft."


def question(name: str, text: str = "grün", start: int = 13, **fields: Any) -> dict[str, Any]:
    return {"id": name, "question": "Wie?", "answers": [{"text": text, "answer_start": start}], **fields}


def squad(questions: list[dict[str, Any]], context: str = CONTEXT) -> str:
    return json.dumps(
        {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": questions}]}]}
    )


def load(root: Path, layout: dict[str, Any], split: Split = "dev", **fields: Any) -> QuestionExamples:
    table = {"kind": "span", "languages": ["en"], "files": [{"split": split, "pattern": "q", **layout}], **fields}
    examples = load_examples(load_catalogue({"own": table})["own"], split, "en", DataSource({"": root}, use_hub=False))
    assert isinstance(examples, QuestionExamples)
    return examples


def refusal(root: Path, layout: dict[str, Any], split: Split = "dev", **fields: Any) -> str:
    with pytest.raises(UserError) as error:
        load(root, layout, split, **fields)
    message = str(error.value)
    assert "\n" not in message
    return message.removeprefix(str(root / "q"))


SQUAD = {"format": "squad"}


def test_questions_are_read_with_their_passages_and_answers(write: Write, tmp_path: Path) -> None:
    write("q", squad([question("a"), question("b", "Der Hund", 19)]))
    examples = load(tmp_path, SQUAD)
    assert (examples.ids, examples.questions) == (["a", "b"], ["Wie?", "Wie?"])
    assert examples.contexts == [CONTEXT, CONTEXT]
    assert examples.answers == [[("grün", 13)], [("Der Hund", 19)]]


def test_the_data_wrapper_may_be_missing(write: Write, tmp_path: Path) -> None:
    write("q", json.dumps(json.loads(squad([question("a")]))["data"]))
    assert load(tmp_path, SQUAD).ids == ["a"]


def test_reference_answers_that_repeat_one_another_count_once(write: Write, tmp_path: Path) -> None:
    answers = [{"text": "grün", "answer_start": 13}] * 2 + [{"text": "ist grün", "answer_start": 9}]
    write("q", squad([question("a") | {"answers": answers}]))
    assert load(tmp_path, SQUAD).answers == [[("grün", 13), ("ist grün", 9)]]


def test_an_unanswerable_question_has_no_answers_and_its_plausible_ones_are_none(write: Write, tmp_path: Path) -> None:
    plausible = [{"text": "grün", "answer_start": 13}]
    write("q", squad([question("a", is_impossible=True) | {"answers": [], "plausible_answers": plausible}]))
    assert load(tmp_path, SQUAD, no_answer=True).answers == [[]]


def test_a_question_without_an_answer_is_refused_where_all_have_one(write: Write, tmp_path: Path) -> None:
    write("q", squad([question("a") | {"answers": []}]))
    assert refusal(tmp_path, SQUAD) == (
        ", question 'a': no answer; declare no_answer = true in [tasks.own] if questions may have none"
    )


def test_an_answer_at_the_wrong_place_is_named_with_its_question_and_the_mend(write: Write, tmp_path: Path) -> None:
    write("q", squad([question("a"), question("b", start=14)]))
    assert refusal(tmp_path, SQUAD) == (
        ", question 'b': the passage has 'rün.' at character 14, not the answer 'grün', "
        "which first occurs at 13; mend answer_start"
    )


def test_an_answer_with_white_space_that_the_passage_lacks_is_refused(write: Write, tmp_path: Path) -> None:
    write("q", squad([question("a", "grün ")]))
    assert refusal(tmp_path, SQUAD).startswith(", question 'a': the answer 'grün ' is not in the passage; ")


def test_answers_are_looked_for_where_the_declaration_says_so_and_counted(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = "grün ist das Haus, grün der Baum"
    path = write("q", squad([question("a", start=16), question("b", start=0)], context))
    with caplog.at_level("INFO", logger="xlt_scale"):
        examples = load(tmp_path, SQUAD | {"find_answers": True})
    assert examples.answers == [[("grün", 19)], [("grün", 0)]]
    assert caplog.messages == [f"{path}: 1 answers stand elsewhere than the file says; the nearest place is taken"]


def test_an_answer_that_is_nowhere_is_refused_even_then(write: Write, tmp_path: Path) -> None:
    write("q", squad([question("a", "blau")]))
    assert "the answer 'blau' is not in the passage" in refusal(tmp_path, SQUAD | {"find_answers": True})


def test_a_copy_in_which_every_answer_is_blank_can_be_asked_but_has_no_labels(write: Write, tmp_path: Path) -> None:
    write("q", squad([question("a", "", 0), question("b", "", 0)]))
    examples = load(tmp_path, SQUAD)
    assert (examples.ids, examples.answers, examples.is_labelled) == (["a", "b"], [[], []], False)


def test_a_single_blank_answer_is_refused(write: Write, tmp_path: Path) -> None:
    write("q", squad([question("a"), question("b", "", 0)]))
    for no_answer in (False, True):
        assert refusal(tmp_path, SQUAD, no_answer=no_answer) == (
            ", question 'b': the answer is empty: this copy has had its answers removed; fetch the publisher's file"
        )


def test_a_repeated_id_is_refused_where_predictions_are_scored(write: Write, tmp_path: Path) -> None:
    write("q", squad([question("a"), question("a")]))
    assert refusal(tmp_path, SQUAD) == ", question 'a': the id is there twice; give every question its own"
    assert load(tmp_path, SQUAD, "train").ids == ["a", "a"]


def test_json_of_another_form_is_named_with_its_place(write: Write, tmp_path: Path) -> None:
    write("q", json.dumps({"data": [{"paragraphs": [{"context": "x"}]}]}))
    assert refusal(tmp_path, SQUAD) == ", article 1, paragraph 1: no key 'qas'; fetch the file again"
    write("q", json.dumps([{"question": "x"}]))
    assert refusal(tmp_path, SQUAD) == ", article 1: no list of paragraphs; is this SQuAD's JSON?"
    write("q", '{"data": [')
    assert refusal(tmp_path, SQUAD).startswith(", line 1: not JSON (")


def test_a_table_may_hold_questions_with_the_text_of_their_answer(write: Write, tmp_path: Path) -> None:
    write("q", f"1\tWie?\t{CONTEXT}\tgrün\n2\tWer?\t{CONTEXT}\tDer Hund\n")
    examples = load(tmp_path, {"format": "tsv", "id": 0, "text": 1, "text_pair": 2, "answers": 3})
    assert (examples.ids, examples.answers) == (["1", "2"], [[("grün", 13)], [("Der Hund", 19)]])


def test_a_table_may_say_where_the_answer_begins(write: Write, tmp_path: Path) -> None:
    layout = {"format": "tsv", "text": 0, "text_pair": 1, "answers": 2, "answer_start": 3}
    write("q", "?\tja und ja\tja\t7\n")
    assert load(tmp_path, layout).answers == [[("ja", 7)]]
    write("q", "?\tja und ja\tja\t6\n")
    assert refusal(tmp_path, layout).startswith(", line 1, question '0': the passage has ' j' at character 6, ")


def test_a_table_without_ids_names_questions_by_their_number_over_all_files(write: Write, tmp_path: Path) -> None:
    for name in ("q-2", "q-1"):
        write(name, f"{name}?\tja\tja\n")
    examples = load(tmp_path, {"pattern": "q-*", "format": "tsv", "text": 0, "text_pair": 1, "answers": 2})
    assert (examples.ids, examples.questions) == (["0", "1"], ["q-1?", "q-2?"])


def test_json_lines_may_hold_answers_as_squad_has_them(write: Write, tmp_path: Path) -> None:
    layout = {"format": "jsonl", "id": "id", "text": "question", "text_pair": "context", "answers": "answers"}
    write("q", json.dumps(question("a", context=CONTEXT)) + "\n")
    assert load(tmp_path, layout).answers == [[("grün", 13)]]
    columns = {"text": ["grün", "Haus"], "answer_start": [13, 4]}
    write("q", json.dumps(question("a", context=CONTEXT) | {"answers": columns}) + "\n")
    assert load(tmp_path, layout).answers == [[("grün", 13), ("Haus", 4)]]
    write("q", json.dumps(question("a", context=CONTEXT) | {"answers": 3}) + "\n")
    assert refusal(tmp_path, layout) == (
        ", line 1, question 'a': answers are no {text, answer_start}, no list of them, and no text"
    )


QAMR = {"format": "qamr", "pair_pattern": "sentences"}


def test_the_word_numbers_of_qamr_become_places_in_the_sentence(write: Write, tmp_path: Path) -> None:
    write("sentences", "s:1\tThe old man walks\ns:2\tNobody knows\n")
    write("q", "s:1\t1 2\t76\t0\t3\tWho walks?\t1 2\t100:0 1 2\t93:1 2\ns:2\t0\t76\t0\t1\tWho knows?\t0\t100:\t93:0\n")
    examples = load(tmp_path, QAMR)
    assert examples.ids == ["s:1#1", "s:2#2"]
    assert examples.answers == [[("old man", 4), ("The old man", 0)], [("Nobody", 0)]]


def test_an_answer_of_qamr_with_a_gap_reaches_from_its_first_word_to_its_last(write: Write, tmp_path: Path) -> None:
    write("sentences", "s:1\tThe old man walks\n")
    write("q", "s:1\t1 2\t76\t0\t3\tWho?\t0 2\n")
    assert load(tmp_path, QAMR).answers == [[("The old man", 0)]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("s:9\t1\t7\t0\t3\tWho?\t0", ", line 1: sentence 's:9' is not in sentences"),
        ("s:1\t1\t7\t0\t3\tWho?\t4", ", line 1: answer '4' names a word that the sentence of 4 words lacks"),
        ("s:1\t1\t7\t0\t3\tWho?\tx", ", line 1: answer 'x' is no list of word numbers"),
        ("s:1\t1\t7\t0\t3\tWho?", ", line 1: column 6 is missing; the row has 6 columns"),
    ],
)
def test_a_broken_row_of_qamr_is_named(write: Write, tmp_path: Path, row: str, message: str) -> None:
    write("sentences", "s:1\tThe old man walks\n")
    write("q", f"{row}\n")
    assert refusal(tmp_path, QAMR) == message

"""Question answering in SQuAD's JSON (v1 and v2; also XQuAD, MLQA, TyDiQA-GoldP, XQuAD-R), and QAMR."""

from pathlib import Path
from typing import Any

from xlt_scale.errors import UserError
from xlt_scale.tasks.layouts import Columns
from xlt_scale.tasks.records import ColumnRecords, Records
from xlt_scale.tasks.tables import load_json
from xlt_scale.tasks.text_files import lines_of

QUESTION_COLUMNS = Columns(id="id", text="question", text_pair="context", answers="answers")
"""The columns of the records that this module reads."""


def read_squad(path: Path) -> Records:
    """The questions of a file, with the columns id, question, context, answers, and sentence_breaks: where the
    sentences of the passage begin and end, None where the file does not say.

    Raises:
        UserError: the file is not JSON of that form; with the article and paragraph (from 1) or the question.
    """
    names = ("id", "question", "context", "answers", "sentence_breaks")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for number, article in enumerate(load_json(path), start=1):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            raise UserError(f"{path}, article {number}: no list of paragraphs; is this SQuAD's JSON?")
        for position, paragraph in enumerate(paragraphs, start=1):
            _add_paragraph(columns, paragraph, f"{path}, article {number}, paragraph {position}")
    if not columns["id"]:
        raise UserError(f"{path}: the file has no questions; fetch it again")
    return ColumnRecords(str(path), "question", columns["id"], columns)


def _add_paragraph(columns: dict[str, list[Any]], paragraph: Any, place: str) -> None:
    try:
        context, questions = paragraph["context"], paragraph["qas"]
        for question in questions:
            columns["id"].append(str(question["id"]))
            columns["question"].append(question["question"])
            # Questions that cannot be answered have plausible answers, which are none.
            columns["answers"].append([] if question.get("is_impossible") else question["answers"])
    except KeyError as error:
        raise UserError(f"{place}: no key {error.args[0]!r}; fetch the file again") from None
    except (TypeError, AttributeError):
        raise UserError(f"{place}: not as in SQuAD's JSON (context, and qas with id, question, answers)") from None
    columns["context"] += [context] * len(questions)
    columns["sentence_breaks"] += [paragraph.get("sentence_breaks")] * len(questions)


def read_qamr(path: Path, sentences: Path) -> Records:
    """The questions of a QAMR file about the words of single sentences; a sentence is its words joined by spaces.

    A row holds the sentence's id, five columns of book-keeping with the question last, the numbers of the words that
    answer it, and after them what other annotators answered ("annotator:words"). An answer reaches from the first of
    its words to the last; the question is named by the sentence and the line.

    Raises:
        UserError: a row is too short, names a sentence that is not there, or words that it does not have.
    """
    words_of: dict[str, list[str]] = {}
    for number, line in enumerate(lines_of(sentences), start=1):
        name, tab, sentence = line.partition("\t")
        if not tab:
            raise UserError(f"{sentences}, line {number}: expected a sentence's id, a tab, and the sentence")
        words_of[name] = sentence.split(" ")
    columns: dict[str, list[Any]] = {"id": [], "question": [], "context": [], "answers": []}
    numbers = []
    for number, line in enumerate(lines_of(path), start=1):
        fields = line.split("\t")
        if len(fields) < 7:
            raise UserError(f"{path}, line {number}: column 6 is missing; the row has {len(fields)} columns")
        if fields[0] not in words_of:
            raise UserError(f"{path}, line {number}: sentence {fields[0]!r} is not in {sentences.name}")
        words = words_of[fields[0]]
        answers: dict[tuple[str, int], None] = {}
        for field in (fields[6], *(judgement.rpartition(":")[2] for judgement in fields[7:])):
            if field.strip():
                answers[_span(words, field, f"{path}, line {number}")] = None
        columns["id"].append(f"{fields[0]}#{number}")
        columns["question"].append(fields[5])
        columns["context"].append(" ".join(words))
        columns["answers"].append([{"text": text, "answer_start": start} for text, start in answers])
        numbers.append(number)
    return ColumnRecords(str(path), "line", numbers, columns)


def _span(words: list[str], field: str, place: str) -> tuple[str, int]:
    """(text, first character) from the first to the last of the words of these numbers."""
    try:
        numbers = [int(number) for number in field.split()]
    except ValueError:
        raise UserError(f"{place}: answer {field!r} is no list of word numbers") from None
    first, last = min(numbers), max(numbers)
    if first < 0 or last >= len(words):
        raise UserError(f"{place}: answer {field!r} names a word that the sentence of {len(words)} words lacks")
    return " ".join(words[first : last + 1]), sum(len(word) + 1 for word in words[:first])

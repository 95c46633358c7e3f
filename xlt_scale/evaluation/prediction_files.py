"""Prediction and label files in XTREME's layout: `<task>/<split>-<language>.<ending>`, one content per metric.

Line files (tsv) hold one item a line: a label, a number, a tag (an empty line after each sentence) or a pair of ids
with a tab between. JSON files hold `{id: answer text}` or `{id: [ids, best first]}`; labels of questions are SQuAD
files with or without the `data` around them. Lines of JSON hold objects with a `label` (XCOPA).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xlt_scale.errors import UserError, nearest
from xlt_scale.evaluation.scorers import SCORERS, Score

_TEXT_ANSWER_METRICS = ("squad", "squad_v2", "mlqa")
_LABEL_METRICS = ("accuracy", "accuracy_and_f1")
_TAG_METRICS = ("entity_f1", "tagging_f1", "token_accuracy")


def endings(metric: str, kind: str = "") -> tuple[str, ...]:
    """File name endings that a metric's files may have, the one that is written first.

    Args:
        kind: of the task declaration; multiple choice is written as lines of JSON, as XTREME-R wants XCOPA.
    """
    _check_metric(metric)
    if metric in _TEXT_ANSWER_METRICS or metric == "map_at_20":
        return ("json",)
    if metric in _LABEL_METRICS:
        return ("jsonl", "tsv") if kind == "multiple_choice" else ("tsv", "jsonl")
    return ("tsv",)


def file_name(metric: str, split: str, language: str, kind: str = "") -> str:
    """The name of a prediction file below its task's folder, such as `test-sw.tsv`."""
    return f"{split}-{language}.{endings(metric, kind)[0]}"


def write_predictions(path: Path, metric: str, predictions: Any) -> None:
    """Write predictions, in the form that the metric's scorer takes, as a file that XTREME's evaluator reads.

    Labels can be written as lines of text or, to a path that ends in `.jsonl`, as lines of JSON.
    """
    _check_metric(metric)
    if path.suffix.lstrip(".") not in endings(metric):
        raise ValueError(f"{path.name}: {metric} is written to .{' or .'.join(endings(metric))}")
    if isinstance(predictions, dict):
        text = json.dumps(predictions, ensure_ascii=False, indent=1) + "\n"
    elif path.suffix == ".jsonl":
        text = "".join(json.dumps({"label": _json_label(label)}, ensure_ascii=False) + "\n" for label in predictions)
    elif metric in _TAG_METRICS:
        text = "".join("".join(f"{tag}\n" for tag in sentence) + "\n" for sentence in predictions)
    elif metric == "bitext_mining":
        text = "".join(f"{left}\t{right}\n" for left, right in predictions)
    else:
        text = "".join(f"{item}\n" for item in predictions)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def read_predictions(path: Path, metric: str) -> Any:
    """The predictions of a file, in the form that the metric's scorer takes.

    Raises:
        UserError: the file is missing, is no UTF-8 or JSON, or a row does not hold what the metric is about.
    """
    return _reader(metric, is_labels=False)(path)


def read_labels(path: Path, metric: str) -> Any:
    """The labels of a file, in the form that the metric's scorer takes; questions: {id: reference answers}.

    Raises:
        UserError: as `read_predictions`.
    """
    return _reader(metric, is_labels=True)(path)


def score_files(predictions: Path, labels: Path, metric: str, language: str = "") -> Score:
    """Score a prediction file against its label file.

    Raises:
        UserError: a file cannot be read, or the two do not belong together.
    """
    found, gold = read_predictions(predictions, metric), read_labels(labels, metric)
    if isinstance(gold, list) and metric != "bitext_mining" and len(found) != len(gold):
        unit = "sentences" if metric in _TAG_METRICS else "rows"
        raise UserError(
            f"{predictions} has {len(found)} {unit}, its labels {labels} have {len(gold)}; "
            "write one prediction for each label, in the labels' order"
        )
    try:
        return SCORERS[metric].score(found, gold, language)
    except UserError as error:
        raise UserError(f"{predictions}: {error}") from None
    except ValueError as error:
        raise UserError(f"{predictions} cannot be scored against {labels}: {error}") from None


def _check_metric(metric: str) -> None:
    if metric not in SCORERS:
        raise UserError(f"metric {metric!r} is unknown; {nearest(metric, SCORERS)}")


def _reader(metric: str, is_labels: bool) -> Callable[[Path], Any]:
    _check_metric(metric)
    if metric in _TEXT_ANSWER_METRICS:
        return _read_references if is_labels else _read_answers
    readers: dict[str, Callable[[Path], Any]] = {
        "correlation": _read_numbers,
        "entity_f1": _read_tags,
        "token_accuracy": _read_tags,
        "tagging_f1": _read_tags,
        "bitext_accuracy": _read_line_numbers,
        "bitext_mining": _read_pairs,
        "map_at_20": _read_rankings,
    }
    return readers.get(metric, _read_class_labels)


def _json_label(label: Any) -> Any:
    """XTREME compares the values as they are, and XCOPA's labels are numbers."""
    return int(label) if re.fullmatch(r"-?\d+", str(label)) else str(label)


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is missing or no file; name the file that holds the predictions or labels")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, row {row}: broken UTF-8; save the file as UTF-8") from None


def _read_lines(path: Path) -> list[str]:
    """Rows without white space around them; an empty row is an item too, as in XTREME's reader."""
    text = _read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    return [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []


def _read_class_labels(path: Path) -> list[str]:
    if path.suffix != ".jsonl":
        return _read_lines(path)
    labels = []
    for row, line in enumerate(_read_lines(path), start=1):
        record = _parse(path, line, row)
        if not isinstance(record, dict) or not isinstance(record.get("label"), str | int):
            raise UserError(f'{path}, row {row}: no "label"; write an object such as {{"label": 1}} in each row')
        labels.append(str(record["label"]))
    return labels


def _read_numbers(path: Path) -> list[float]:
    numbers = []
    for row, line in enumerate(_read_lines(path), start=1):
        try:
            numbers.append(float(line))
        except ValueError:
            raise UserError(f"{path}, row {row}: {line!r} is no number; write one number a row") from None
    return numbers


def _read_line_numbers(path: Path) -> list[int]:
    """Whole numbers; XTREME's search writes each in brackets, which its evaluator then counts as wrong."""
    numbers = []
    for row, line in enumerate(_read_lines(path), start=1):
        match = re.fullmatch(r"\[?\s*(-?[0-9]+)\s*\]?", line)
        if match is None:
            raise UserError(f"{path}, row {row}: {line!r} is no sentence number; write one whole number from 0 a row")
        numbers.append(int(match[1]))
    return numbers


def _read_tags(path: Path) -> list[list[str]]:
    """Sentences: every empty row ends one, so that two in a row make an empty sentence, as in XTREME's reader."""
    sentences: list[list[str]] = []
    sentence: list[str] = []
    for row, line in enumerate(_read_lines(path), start=1):
        if len(line.split()) > 1:
            raise UserError(f"{path}, row {row}: {line!r} is more than a tag; write the tags alone, one a row")
        if line:
            sentence.append(line)
        else:
            sentences.append(sentence)
            sentence = []
    return [*sentences, sentence] if sentence else sentences


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for row, line in enumerate(_read_lines(path), start=1):
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 2 or not all(columns):
            raise UserError(f"{path}, row {row}: {line!r} is no pair; write two ids with a tab between them")
        pairs.append((columns[0], columns[1]))
    return pairs


def _parse(path: Path, text: str, row: int = 0) -> Any:
    """JSON whose objects name no key twice; `row` is that of the text in its file, 0 if it is the whole file."""

    def unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(members)
        if len(record) != len(members):
            names = [name for name, _ in members]
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            place = f"{path}, row {row}" if row else f"{path}, row {_row_of_second(text, twice)}"
            raise UserError(f"{place}: {twice!r} is given twice; keep one of them")
        return record

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, row {row or error.lineno}: not JSON ({error.msg}); write the file anew") from None
    except RecursionError:
        raise UserError(f"{path}: not JSON that can be read (nested too deeply); write the file anew") from None


def _row_of_second(text: str, name: str) -> int:
    """The row of a key's second occurrence, as near as can be told from the text."""
    key = re.escape(json.dumps(name, ensure_ascii=False))
    places = [match.start() for match in re.finditer(rf"{key}\s*:", text)]
    return text.count("\n", 0, places[1]) + 1 if len(places) > 1 else 1


def _read_answers(path: Path) -> dict[str, str]:
    answers = _parse(path, _read_text(path))
    if not isinstance(answers, dict):
        raise UserError(f"{path}: not an object; write {{question id: answer text}}")
    for name, answer in answers.items():
        if not isinstance(answer, str):
            raise UserError(f'{path}: the answer to {name!r} is no text; write a text, "" for no answer')
    return answers


def _read_references(path: Path) -> dict[str, list[str]]:
    content = _parse(path, _read_text(path))
    articles = content.get("data") if isinstance(content, dict) else content
    references: dict[str, list[str]] = {}
    try:
        for article in articles:  # type: ignore[union-attr]
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    name = str(question["id"])
                    if name in references:
                        raise UserError(f"{path}: the question id {name!r} is given twice; keep one of the questions")
                    references[name] = [str(answer["text"]) for answer in question["answers"]]
    except (KeyError, TypeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else "another nesting"
        raise UserError(
            f"{path}: not a SQuAD file ({missing}); write data > paragraphs > qas > id, answers > text"
        ) from None
    texts = [text for answers in references.values() for text in answers]
    # Against such a file the empty answer would be right everywhere.
    if texts and not any(text.strip() for text in texts):
        raise UserError(
            f"{path}: every reference answer is empty; XTREME's preparation removes the answers of its test files, "
            "take the file as it was published"
        )
    return references


def _read_rankings(path: Path) -> dict[str, list[str]]:
    rankings = _parse(path, _read_text(path))
    if not isinstance(rankings, dict):
        raise UserError(f"{path}: not an object; write {{query id: [candidate ids, best first]}}")
    for name, ids in rankings.items():
        if not isinstance(ids, list) or not all(isinstance(item, str | int) for item in ids):
            raise UserError(f"{path}: the candidates of {name!r} are no list of ids; write them in brackets")
    return {name: [str(item).strip() for item in ids] for name, ids in rankings.items()}

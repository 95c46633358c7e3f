"""Mewsli-X: mentions of entities in their sentence, and descriptions of entities."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import RankingExamples
from xlt_scale.tasks.layouts import FileLayout
from xlt_scale.tasks.records import spelling
from xlt_scale.tasks.tables import json_rows


def read_mentions(path: Path, language_code: str) -> RankingExamples:
    """Queries and gold entities of `wikinews_mentions-*.jsonl`, or of `wikipedia_pairs-*.jsonl` with descriptions.

    A query is the mention, a colon, and the one sentence that holds it, with the mention in braces, spaced as in
    XTREME's code (third_party/utils_mewslix.py). Rows of other languages are left out.

    Raises:
        UserError: a row lacks a field, or has no text (the published files need their texts put back first).
    """
    found = RankingExamples()
    known: set[str] = set()
    for number, row in json_rows(path):
        place = f"{path}, line {number}"
        try:
            for context, mention, entity in _mentions(row):
                if context["language"] != language_code:
                    continue
                found.query_ids.append(_name(mention["example_id"]))
                found.queries.append(_query(context, mention["mention_span"], place))
                found.gold.append([_name(mention["entity_id"])])
                if entity is not None and _name(entity["entity_id"]) not in known:
                    known.add(entity["entity_id"])
                    found.candidate_ids.append(entity["entity_id"])
                    found.candidates.append(_description(entity))
        except (KeyError, TypeError) as error:
            raise UserError(f"{place}: not as published for Mewsli-X ({error!r}); fetch the file again") from None
    return found


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _mentions(row: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]]:
    """(context, mention, entity or None) of a row: an article with mentions, or a mention with its entity."""
    if "contextual_mention" in row:
        pair = row["contextual_mention"]
        yield pair["context"], pair["mention"], row["entity"]
    else:
        for mention in row["mentions"]:
            yield row["context"], mention, None


def _query(context: dict[str, Any], span: dict[str, Any], place: str) -> str:
    text, start, end = context["text"], span["start"], span["end"]
    if not text:
        raise UserError(f"{place}: the article has no text; put the texts back with the publisher's get-mewsli-x.sh")
    if text[start:end] != span["text"]:
        raise UserError(f"{place}: the text has {text[start:end]!r} where the mention {span['text']!r} should be")
    begin, stop = 0, len(text)
    for sentence in context["sentence_spans"]:
        if sentence["start"] <= start and end <= sentence["end"]:
            begin, stop = sentence["start"], sentence["end"]
            break
    left, right = (_without_braces(part) for part in (text[begin:start], text[end:stop]))
    return _on_one_line(f"{span['text']}: {left} {{ {text[start:end]} }} {right}")


def _without_braces(text: str) -> str:
    """Braces mark the mention, so pairs of them in the text become parentheses."""
    return re.sub(r"\{(.*?)\}", r"(\1)", text)


def _on_one_line(text: str) -> str:
    return " ".join(text.splitlines()).replace("  ", " ").strip()


def _description(entity: Mapping[str, Any]) -> str:
    """The sentences of a description, one space between them; the whole where no sentences are marked."""
    text = _name(entity["description"])
    spans = entity.get("sentence_spans") or [{"start": 0, "end": len(text)}]
    return _on_one_line(" ".join(text[span["start"] : span["end"]] for span in spans))


def read_candidates(path: Path, layout: FileLayout) -> RankingExamples:
    """Candidates alone, one JSON object a line; by default with Mewsli-X's `entity_id` and `description`.

    Raises:
        UserError: a row lacks a column, or an id is there twice.
    """
    id_column, text_column = layout.id or "entity_id", layout.text or "description"
    found = RankingExamples(candidate_contexts=None if layout.context is None else [])
    known: set[str] = set()
    for number, row in json_rows(path):
        try:
            name = spelling(row[str(id_column)])
            text = _description(row) if text_column == "description" else spelling(row[str(text_column)])
            context = "" if layout.context is None else spelling(row[str(layout.context)])
        except KeyError as error:
            raise UserError(f"{path}, line {number}: no column {error}; the row has: {', '.join(row)}") from None
        if name in known:
            raise UserError(f"{path}, line {number}: candidate {name!r} is there twice; ids name the candidates")
        known.add(name)
        found.candidate_ids.append(name)
        found.candidates.append(text)
        if found.candidate_contexts is not None:
            found.candidate_contexts.append(context)
    if not known:
        raise UserError(f"{path}: the file has no rows; fetch it again")
    return found

"""Queries and candidates: questions and the sentences that answer them, and tables of pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from xlt_scale.errors import UserError
from xlt_scale.tasks.answers import checked_answers
from xlt_scale.tasks.examples import RankingExamples, join_examples
from xlt_scale.tasks.records import ColumnRecords
from xlt_scale.tasks.selection import Selection
from xlt_scale.tasks.sentence_splitting import sentence_breaks


def build_ranking(selection: Selection, name: str) -> RankingExamples:
    """Queries with their candidates, whose ids begin with `name` (the language).

    Of questions about passages (SQuAD's JSON, or a table with `answers`) every sentence of a passage is a candidate,
    with the passage as its context, and the sentences where an answer begins are the gold ones. Sentences are those
    of the file, or found by `sentence_breaks`. They are named "<name>:<number of the passage>:<number of the
    sentence>". Questions without an answer are dropped and counted.

    Of a table every row is a query and the candidate that answers it; the same candidate (by `candidate_id`, else by
    its text and context) occurs once.

    Raises:
        UserError: a row lacks a column, or an answer is not in its passage.
    """
    return _from_pairs(selection, name) if selection.columns.answers is None else _from_passages(selection, name)


def _from_passages(selection: Selection, name: str) -> RankingExamples:
    found = RankingExamples(candidate_contexts=[], num_dropped=selection.num_dropped)
    assert found.candidate_contexts is not None and selection.columns.text_pair is not None
    passages: dict[str, tuple[int, list[tuple[int, int]]]] = {}
    names, contexts = _query_ids(selection), selection.texts(selection.columns.text_pair)
    questions, published = selection.texts(selection.columns.text), _published_breaks(selection)
    for number, answers in enumerate(checked_answers(selection, names, contexts)):
        context = contexts[number]
        if context not in passages:
            breaks = _breaks(context, published[number], selection.place(number))
            passages[context] = len(passages), breaks
            found.candidate_ids += [f"{name}:{len(passages) - 1}:{place}" for place in range(len(breaks))]
            found.candidates += [context[begin:end] for begin, end in breaks]
            found.candidate_contexts += [context] * len(breaks)
        if not answers:
            found.num_dropped += 1
            continue
        passage, breaks = passages[context]
        found.query_ids.append(names[number])
        found.queries.append(questions[number])
        places = dict.fromkeys(_sentence_of(breaks, begin) for _, begin in answers)
        found.gold.append([f"{name}:{passage}:{place}" for place in places])
    return found


def _breaks(context: str, published: Any, place: str) -> list[tuple[int, int]]:
    """Where the sentences of a passage begin and end: as published, else as found."""
    if published is None:
        return sentence_breaks(context)
    try:
        breaks = [(int(begin), int(end)) for begin, end in published]
    except (TypeError, ValueError):
        breaks = [(-1, -1)]
    if not breaks or not all(0 <= begin < end <= len(context) for begin, end in breaks):
        raise UserError(f"{place}: sentence_breaks of its passage are no list of [begin, end]; fetch the file again")
    return breaks


def _published_breaks(selection: Selection) -> list[Any]:
    """For each row the sentences' (first character, character after the last), None where the file has none."""
    records = selection.records
    if isinstance(records, ColumnRecords) and "sentence_breaks" in records.columns:
        return selection.values("sentence_breaks")
    return [None] * len(selection)


def _sentence_of(breaks: list[tuple[int, int]], character: int) -> int:
    """The last sentence that begins at or before the character."""
    return max((number for number, (begin, _) in enumerate(breaks) if begin <= character), default=0)


def _from_pairs(selection: Selection, name: str) -> RankingExamples:
    columns = selection.columns
    assert columns.text_pair is not None
    queries, candidates = selection.texts(columns.text), selection.texts(columns.text_pair)
    contexts = None if columns.context is None else selection.texts(columns.context)
    keys: Iterable[object] = candidates if contexts is None else zip(candidates, contexts, strict=True)
    if columns.candidate_id is not None:
        keys = selection.texts(columns.candidate_id)
    found = RankingExamples(
        query_ids=_query_ids(selection),
        queries=queries,
        candidate_contexts=None if contexts is None else [],
        num_dropped=selection.num_dropped,
    )
    names: dict[object, str] = {}
    for number, key in enumerate(keys):
        if key not in names:
            names[key] = str(key) if columns.candidate_id is not None else f"{name}:{number}"
            found.candidate_ids.append(names[key])
            found.candidates.append(candidates[number])
            if found.candidate_contexts is not None and contexts is not None:
                found.candidate_contexts.append(contexts[number])
        found.gold.append([names[key]])
    return found


def _query_ids(selection: Selection) -> list[str]:
    if selection.columns.id is None:
        return [str(number) for number in range(len(selection))]
    return selection.texts(selection.columns.id)


def pool_candidates(examples: Sequence[RankingExamples], is_parallel: bool) -> RankingExamples:
    """The candidates of several languages together.

    Args:
        is_parallel: queries of the same id are the same question: the pool has each once, in the first language that
            has it, with the gold ids of all languages. Otherwise it has no queries.

    Raises:
        UserError: candidates with the same id differ.
    """
    pool = join_examples(examples)
    assert isinstance(pool, RankingExamples)
    texts = dict(zip(pool.candidate_ids, pool.candidates, strict=True))
    for part in examples:
        for name, text in zip(part.candidate_ids, part.candidates, strict=True):
            if texts[name] != text:
                raise UserError(f"candidate {name!r} is {texts[name]!r} in one language and {text!r} in another")
    if not is_parallel:
        return replace(pool, query_ids=[], queries=[], gold=[])
    gold: dict[str, list[str]] = {}
    queries: dict[str, str] = {}
    for query, text, names in zip(pool.query_ids, pool.queries, pool.gold, strict=True):
        queries.setdefault(query, text)
        gold.setdefault(query, []).extend(names)
    return replace(pool, query_ids=list(queries), queries=list(queries.values()), gold=list(gold.values()))

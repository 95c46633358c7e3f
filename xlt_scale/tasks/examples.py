"""Examples of a task in one language and split, one class per format.

All are columns of equal length in published order. `num_dropped` counts rows that a rule of the benchmark leaves out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self


@dataclass
class Examples:
    """Base of all formats; the length is that of the first column."""

    num_dropped: int = field(default=0, kw_only=True)

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[1].name))

    @property
    def columns(self) -> dict[str, Any]:
        """Every column by name; None for one that the examples do not have."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "num_dropped"}

    @property
    def is_labelled(self) -> bool:
        """Whether there are gold labels to score against; only prepared copies of test sets have none."""
        return all(self.columns.get(name, ()) is not None for name in ("labels", "tags"))

    def take(self, numbers: Sequence[int]) -> Self:
        """The examples of these numbers, in that order; columns that are not per example stay as they are."""
        size = len(self)
        chosen: dict[str, Any] = {
            name: [column[number] for number in numbers]
            for name, column in self.columns.items()
            if column is not None and name not in _SHARED and len(column) == size
        }
        return replace(self, **chosen)


# Columns that do not belong to single examples.
_SHARED = {"candidate_ids", "candidates", "candidate_contexts", "source_ids", "source_texts", "gold_pairs"}


@dataclass
class TextExamples(Examples):
    """Single texts or pairs: classification, regression, masked language modelling, retrieval of translations.

    `labels` are class numbers, or real numbers (regression), and None where the task has none.
    """

    texts: list[str] = field(default_factory=list)
    text_pairs: list[str] | None = None
    labels: list[int] | list[float] | None = None


@dataclass
class ChoiceExamples(Examples):
    """Multiple choice: what comes before, and any number of ways to go on. `labels` are numbers of choices."""

    contexts: list[str] = field(default_factory=list)
    choices: list[list[str]] = field(default_factory=list)
    labels: list[int] | None = None


@dataclass
class TaggedExamples(Examples):
    """Sentences as lists of words, each with the class number of its tag."""

    words: list[list[str]] = field(default_factory=list)
    tags: list[list[int]] | None = None


@dataclass
class QuestionExamples(Examples):
    """Questions about passages. An answer is (text, character where it begins in the context); none = unanswerable.

    `ids` name the questions in prediction files and need not be unique in training data.
    """

    ids: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    contexts: list[str] = field(default_factory=list)
    answers: list[list[tuple[str, int]]] = field(default_factory=list)

    @property
    def is_labelled(self) -> bool:
        return any(self.answers)


@dataclass
class BitextExamples(Examples):
    """Two monolingual collections and the pairs among them that are translations.

    `ids`, `texts`: the language's own side; `source_ids`, `source_texts`: the source language's. `gold_pairs` are
    (id, source id).
    """

    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    source_ids: list[str] = field(default_factory=list)
    source_texts: list[str] = field(default_factory=list)
    gold_pairs: list[tuple[str, str]] = field(default_factory=list)

    def take(self, numbers: Sequence[int]) -> Self:
        """These sentences of the language's own side, and what is gold among them."""
        taken = super().take(numbers)
        there = set(taken.ids)
        return replace(taken, gold_pairs=[pair for pair in self.gold_pairs if pair[0] in there])


@dataclass
class RankingExamples(Examples):
    """Queries of one language, candidates, and for each query the ids of the candidates that answer it.

    A candidate may have a second text, its context. The candidates may lack some of the gold ids: in a pool of several
    languages (`pool`, loading.py) they come from the other languages' files.
    """

    query_ids: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    gold: list[list[str]] = field(default_factory=list)
    candidate_ids: list[str] = field(default_factory=list)
    candidates: list[str] = field(default_factory=list)
    candidate_contexts: list[str] | None = None


def join_examples(parts: Sequence[Examples]) -> Examples:
    """Examples of one format, one after another; a column that any part lacks must be lacking in all of them.

    Candidates of the same id occur once.

    Raises:
        ValueError: parts of different formats, or some with and some without a column.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    joined: dict[str, Any] = {"num_dropped": sum(part.num_dropped for part in parts)}
    for name in first.columns:
        columns = [part.columns[name] for part in parts]
        if any(type(part) is not type(first) for part in parts) or any(
            (column is None) != (columns[0] is None) for column in columns
        ):
            raise ValueError(f"examples with and without {name} cannot be joined")
        joined[name] = None if columns[0] is None else [item for column in columns for item in column]
    if isinstance(first, RankingExamples):
        _keep_first_candidates(joined)
    return type(first)(**joined)


def _keep_first_candidates(columns: dict[str, Any]) -> None:
    places = {name: place for place, name in reversed(list(enumerate(columns["candidate_ids"])))}
    if len(places) < len(columns["candidate_ids"]):
        for name in ("candidate_ids", "candidates", "candidate_contexts"):
            if columns[name] is not None:
                columns[name] = [columns[name][place] for place in sorted(places.values())]

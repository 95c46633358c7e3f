"""Questions about passages, answered by a word of the passage, with and without questions that have no answer.

The clauses of a passage have no content word in common, and things of different kinds (words of different topics).
Their lengths vary without regard to the question: neither lengths nor counts say where the answer is, or whether there
is one.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial

from xlt_scale.micro.concepts import KINDS, NUMBERS, TIMES, TOPIC_NOUNS, TOPIC_VERBS
from xlt_scale.micro.items import LabelledTask, QuestionItem
from xlt_scale.micro.languages import Clause
from xlt_scale.micro.sentences import (
    PERSONS,
    TOPICS,
    AskedRole,
    Split,
    pick,
    question_about,
    split_of,
    thing_clause,
    what_kind,
)

_MakeClause = Callable[[random.Random], Clause]

NUM_CLAUSES = 3


# Clauses and questions vary in length, at their ends and within: what is learned by places in one language would be
# wrong in another, which shifts them in its own way.
def _sometimes(rng: random.Random, words: Sequence[str]) -> str:
    return pick(rng, words) if rng.random() < 0.5 else ""


def things(rng: random.Random, kinds: Sequence[str]) -> list[_MakeClause]:
    """What makes a clause about a thing of each kind."""

    def make(rng: random.Random, kind: str) -> Clause:
        return thing_clause(rng)._replace(object=pick(rng, KINDS[kind]), time=_sometimes(rng, TIMES))

    return [partial(make, kind=kind) for kind in kinds]


def _topic(rng: random.Random, topic: str) -> Clause:
    """A clause whose words are all of the topic."""
    noun, place = rng.sample(TOPIC_NOUNS[topic], 2)
    modifier, time = _sometimes(rng, NUMBERS), _sometimes(rng, TIMES)
    return Clause(pick(rng, PERSONS), pick(rng, TOPIC_VERBS[topic]), noun, modifier, place=place, time=time)


def _words(clause: Clause) -> set[str]:
    """The words that no other clause of a passage has."""
    return {clause.subject, clause.verb, clause.object, clause.place} - {""}


def ask_word(clause: Clause, role: AskedRole) -> Clause:
    """The question for the word of that role."""
    question = question_about(clause, role)
    return question._replace(modifier="") if role == "object" else question


def asked_clause(
    rng: random.Random, world_seed: int, split: Split, make: _MakeClause, ask: Callable[[Clause], Clause]
) -> tuple[Clause, Clause]:
    """A clause and its question, both of the split."""
    while True:
        clause = make(rng)
        if split_of(clause, world_seed) == split and split_of(question := ask(clause), world_seed) == split:
            return clause, question


def other_clauses(
    rng: random.Random, world_seed: int, split: Split, clause: Clause, makers: Sequence[_MakeClause]
) -> list[Clause]:
    """A clause of the split from each maker, none with a content word of another one or of the given clause."""
    clauses: list[Clause] = []
    used = _words(clause)
    while len(clauses) < len(makers):
        other = makers[len(clauses)](rng)
        if used.isdisjoint(_words(other)) and split_of(other, world_seed) == split:
            clauses.append(other)
            used |= _words(other)
    return clauses


def _at(place: int, clause: Clause, others: list[Clause]) -> tuple[Clause, ...]:
    return (*others[:place], clause, *others[place:])


def _sample_kinds(rng: random.Random, world_seed: int, split: Split) -> list[QuestionItem]:
    items = []
    for place in range(NUM_CLAUSES):
        first, *makers = things(rng, rng.sample(tuple(KINDS), NUM_CLAUSES))
        clause, question = asked_clause(rng, world_seed, split, first, what_kind)
        others = other_clauses(rng, world_seed, split, clause, makers)
        items.append(QuestionItem(_at(place, clause, others), question, "object", place))
    return items


def _sample_unanswerable(rng: random.Random, world_seed: int, split: Split) -> list[QuestionItem] | None:
    """Of each passage a question that it answers, and the same for a kind of which it has nothing."""
    kinds = rng.sample(tuple(KINDS), NUM_CLAUSES + 1)
    first, *makers = things(rng, kinds[:-1])
    clause, question = asked_clause(rng, world_seed, split, first, what_kind)
    without = question._replace(object=kinds[-1])
    if split_of(without, world_seed) != split:
        return None
    place = rng.randrange(NUM_CLAUSES)
    told = _at(place, clause, other_clauses(rng, world_seed, split, clause, makers))
    return [QuestionItem(told, question, "object", place), QuestionItem(told, without, "object", None)]


def _sample_topics(rng: random.Random, world_seed: int, split: Split) -> list[QuestionItem]:
    roles: tuple[AskedRole, ...] = ("object", "place")
    items = []
    for place in range(NUM_CLAUSES):
        role = pick(rng, roles)
        first, *makers = (partial(_topic, topic=topic) for topic in rng.sample(TOPICS, NUM_CLAUSES))
        clause, question = asked_clause(rng, world_seed, split, first, partial(ask_word, role=role))
        others = other_clauses(rng, world_seed, split, clause, makers)
        items.append(QuestionItem(_at(place, clause, others), question, role, place))
    return items


QUESTION_TASKS: tuple[LabelledTask, ...] = (
    LabelledTask(
        "micro-questions",
        "intermediate",
        "things",
        (),
        1 / NUM_CLAUSES,
        _sample_kinds,
        3000,
        "what thing of that kind is it? The answer is a word of the passage",
        QuestionItem,
    ),
    LabelledTask(
        "micro-unanswerable-questions",
        "intermediate",
        "things",
        ("answerable", "unanswerable"),
        1 / 2,
        _sample_unanswerable,
        4000,
        "the same questions, half of them about a kind of which the passage has nothing",
        QuestionItem,
    ),
    LabelledTask(
        "micro-topic-questions",
        "target",
        "topics",
        (),
        1 / NUM_CLAUSES,
        _sample_topics,
        4500,
        "what is it done to, or where? The answer is a word of the passage",
        QuestionItem,
    ),
)

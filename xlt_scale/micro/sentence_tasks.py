"""Sentences and pairs of sentences with a label.

Items are drawn in groups that share their frame, so that nothing about a frame can speak for a label.
"""

import random
from functools import partial

from xlt_scale.micro.concepts import (
    DEEDS,
    HANDLING,
    KIND_OF,
    LINKS,
    STATES,
    THINGS_WITH_SYNONYM,
    TIMES,
)
from xlt_scale.micro.items import LabelledTask, SentenceItem
from xlt_scale.micro.languages import Clause, Role
from xlt_scale.micro.sentences import (
    PERSONS,
    TOPICS,
    VALENCES,
    Split,
    draw,
    is_of,
    kinds_but,
    pick,
    split_of,
    thing_clause,
    topic_clause,
    valence_clause,
    with_word,
)


def _sample_nli(rng: random.Random, world_seed: int, split: Split) -> list[SentenceItem] | None:
    # One premise with both labels: nothing about a premise can then speak for a label.
    premise = draw(rng, world_seed, (split,), thing_clause)
    kind = KIND_OF[premise.object]
    right, wrong = premise._replace(object=kind), premise._replace(object=pick(rng, kinds_but(kind)))
    if not is_of(split, world_seed, right, wrong):
        return None
    return [SentenceItem("entailment", premise, right), SentenceItem("not_entailment", premise, wrong)]


def _sample_negated(rng: random.Random, world_seed: int, split: Split) -> list[SentenceItem]:
    """Who has a dog has an animal; who has no animal has no dog; never the other way round."""
    negated = rng.random() < 0.5

    def thing_clause_of_polarity(rng: random.Random) -> Clause:
        return thing_clause(rng)._replace(negated=negated)

    def pair(is_turned: bool, is_other_kind: bool) -> SentenceItem:
        while True:
            about_thing = draw(rng, world_seed, (split,), thing_clause_of_polarity)
            kind = KIND_OF[about_thing.object]
            kinds = kinds_but(kind) if is_other_kind else [kind]
            about_kinds = [about_thing._replace(object=kind) for kind in kinds]
            found = [clause for clause in about_kinds if split_of(clause, world_seed) == split]
            if found:
                first, second = about_thing, pick(rng, found)
                if is_turned != negated:
                    first, second = second, first
                return SentenceItem("not_entailment" if is_turned or is_other_kind else "entailment", first, second)

    return [pair(False, False), pair(False, False), pair(True, False), pair(False, True)]


def _sample_paraphrase(rng: random.Random, world_seed: int, split: Split) -> list[SentenceItem] | None:
    first = draw(rng, world_seed, (split,), thing_clause)._replace(object=pick(rng, THINGS_WITH_SYNONYM))
    choices: tuple[tuple[Role, tuple[str, ...]], ...] = (("object", THINGS_WITH_SYNONYM), ("verb", HANDLING))
    role, words = pick(rng, choices)
    other = pick(rng, [word for word in words if word != getattr(first, role)])
    second = with_word(first, role, other)
    if not is_of(split, world_seed, first, second):
        return None
    return [SentenceItem("same", first, first, role), SentenceItem("different", first, second, role)]


def _sample_valence(rng: random.Random, world_seed: int, split: Split) -> list[SentenceItem] | None:
    # The other label has the same frame and a word of the opposite list, so no frame can speak for a label.
    valence, opposite = rng.sample(VALENCES, 2)
    clause = draw(rng, world_seed, (split,), partial(valence_clause, valence=valence))
    word_valence = valence if clause.negated else opposite
    if clause.state:
        twin = clause._replace(state=pick(rng, STATES[word_valence]))
    else:
        twin = clause._replace(verb=pick(rng, DEEDS[word_valence]))
    if split_of(twin, world_seed) != split:
        return None
    return [SentenceItem(valence, clause), SentenceItem(opposite, twin)]


def _sample_topic(rng: random.Random, world_seed: int, split: Split) -> list[SentenceItem]:
    return [SentenceItem(t, draw(rng, world_seed, (split,), partial(topic_clause, topic=t))) for t in TOPICS]


def _sample_feeling(rng: random.Random, world_seed: int, split: Split) -> list[SentenceItem] | None:
    """Whoever is helped, or is not hurt, feels well; both feelings are tried on every deed."""
    subject, other = rng.sample(PERSONS, 2)
    word_valence = pick(rng, VALENCES)
    negated = rng.random() < 0.2
    time = pick(rng, ("", *TIMES))
    deed = Clause(subject, pick(rng, DEEDS[word_valence]), other, time=time, negated=negated)
    valence = VALENCES[1 - VALENCES.index(word_valence)] if negated else word_valence
    link = pick(rng, LINKS)
    items = []
    for felt, states in STATES.items():
        feelings = [Clause(other, link, state=state) for state in states]
        found = [clause for clause in feelings if split_of(clause, world_seed) == split]
        if not found or split_of(deed, world_seed) != split:
            return None
        items.append(SentenceItem("entailment" if felt == valence else "not_entailment", deed, pick(rng, found)))
    return items


_FOLLOWS = ("entailment", "not_entailment")

SENTENCE_TASKS: tuple[LabelledTask, ...] = (
    LabelledTask(
        "micro-nli",
        "intermediate",
        "things",
        _FOLLOWS,
        1 / 2,
        _sample_nli,
        6000,
        "does the second sentence follow, its object being the kind of the first one's object?",
    ),
    LabelledTask(
        "micro-negated-inference",
        "intermediate",
        "things",
        _FOLLOWS,
        1 / 2,
        _sample_negated,
        6000,
        "does the second sentence follow, from a thing to its kind, or with negation from the kind to the thing?",
    ),
    LabelledTask(
        "micro-paraphrase",
        "intermediate",
        "things",
        ("same", "different"),
        1 / 2,
        _sample_paraphrase,
        4000,
        "one word differs between the sentences: is it a synonym?",
    ),
    LabelledTask(
        "micro-valence",
        "target",
        "feelings",
        VALENCES,
        1 / 2,
        _sample_valence,
        2000,
        "is what the sentence says good or bad, negation included?",
    ),
    LabelledTask(
        "micro-topic",
        "target",
        "topics",
        TOPICS,
        1 / len(TOPICS),
        _sample_topic,
        2000,
        "which topic do two of the three topical words belong to?",
    ),
    LabelledTask(
        "micro-feeling-inference",
        "target",
        "feelings",
        _FOLLOWS,
        1 / 2,
        _sample_feeling,
        4000,
        "does the feeling of the second sentence follow from the deed of the first, negation included?",
    ),
)

"""Sampling of clauses from the parts of the world, and the split of all clauses into train, dev and test."""

import random
import zlib
from collections.abc import Callable
from typing import Literal

from xlt_scale.micro.concepts import (
    DEEDS,
    HANDLING,
    KIND_OF,
    KINDS,
    LINKS,
    NAMES,
    NUMBERS,
    PEOPLE,
    QUALITIES,
    STATES,
    THINGS,
    TIMES,
    TOPIC_NOUNS,
    TOPIC_VERBS,
)
from xlt_scale.micro.languages import Chooser, Clause

Split = Literal["train", "dev", "test"]
ClauseSampler = Callable[[random.Random], Clause]

VALENCES = tuple(STATES)
TOPICS = tuple(TOPIC_NOUNS)
_PERSONS = NAMES + PEOPLE


def split_of(clause: Clause, world_seed: int) -> Split:
    """The one split that a clause may occur in: 15 % dev, 20 % test, drawn by a hash of its meaning.

    Splitting meanings, not rows, keeps every test sentence out of all training data, in all languages at once.
    """
    draw = zlib.crc32(f"{world_seed}/{clause!r}".encode()) % 100
    return "test" if draw < 20 else "dev" if draw < 35 else "train"


def random_forms(rng: random.Random) -> Chooser:
    """A chooser that takes either synonym with the same chance."""
    return lambda _concept, count: rng.randrange(count)


def thing_clause(rng: random.Random) -> Clause:
    """Someone does something to a thing: "sailor paints red drum", "elun keeps 3 pear"."""
    modifier = rng.choice(("", rng.choice(QUALITIES), rng.choice(NUMBERS)))
    return Clause(rng.choice(_PERSONS), rng.choice(HANDLING), rng.choice(THINGS), modifier)


def valence_clause(rng: random.Random, valence: str) -> Clause:
    """Someone is in a state or does a deed: "king not seems cruel today" (positive), "garo robs farmer" (negative).

    A quarter of the clauses is negated whatever the valence, so neither the words nor their number give it away alone.
    """
    negated = rng.random() < 0.25
    word_valence = VALENCES[1 - VALENCES.index(valence)] if negated else valence
    subject, time = rng.choice(_PERSONS), rng.choice(("", rng.choice(TIMES)))
    if rng.random() < 0.5:
        return Clause(subject, rng.choice(LINKS), state=rng.choice(STATES[word_valence]), time=time, negated=negated)
    other = rng.choice([person for person in _PERSONS if person != subject])
    return Clause(subject, rng.choice(DEEDS[word_valence]), other, time=time, negated=negated)


def topic_clause(rng: random.Random, topic: str) -> Clause:
    """Two of verb, object and place are of the topic, the third is of another: "child sows seed at harbour" (farm)."""
    topics = [topic] * 3
    topics[rng.randrange(3)] = rng.choice([other for other in TOPICS if other != topic])
    verb = rng.choice(TOPIC_VERBS[topics[0]])
    noun = rng.choice(TOPIC_NOUNS[topics[1]])
    place = rng.choice([word for word in TOPIC_NOUNS[topics[2]] if word != noun])
    return Clause(rng.choice(_PERSONS), verb, noun, place=place)


def mixed_clause(rng: random.Random) -> Clause:
    """Words of all topics without regard to which go together."""
    nouns = [noun for words in TOPIC_NOUNS.values() for noun in words]
    noun, place = rng.sample(nouns, 2)
    return Clause(rng.choice(_PERSONS), rng.choice(TOPIC_VERBS[rng.choice(TOPICS)]), noun, place=place)


def any_clause(rng: random.Random) -> Clause:
    """A clause from any part of the world."""
    part = rng.randrange(3)
    if part == 0:
        clause = thing_clause(rng)
        # Kinds are spoken of as well as things are; without that their words would be rare in text.
        return _with_object(clause, KIND_OF[clause.object]) if rng.random() < 0.2 else clause
    if part == 1:
        return valence_clause(rng, rng.choice(VALENCES))
    return topic_clause(rng, rng.choice(TOPICS))


def _with_object(clause: Clause, thing: str) -> Clause:
    return Clause(clause.subject, clause.verb, thing, clause.modifier)


def coherent_pair(rng: random.Random) -> tuple[Clause, Clause]:
    """Two clauses that belong together, as neighbouring clauses of real text do.

    A thing is taken up again by its kind, a topic and a valence are kept: that is all that text without labels says
    about kinds, topics and valences.
    """
    part = rng.randrange(3)
    if part == 0:
        first = thing_clause(rng)
        second = Clause(rng.choice(_PERSONS), rng.choice(HANDLING), KIND_OF[first.object])
        return (first, second) if rng.random() < 0.5 else (second, first)
    if part == 1:
        valence = rng.choice(VALENCES)
        return valence_clause(rng, valence), valence_clause(rng, valence)
    topic = rng.choice(TOPICS)
    return topic_clause(rng, topic), topic_clause(rng, topic)


def draw(rng: random.Random, world_seed: int, splits: tuple[Split, ...], sampler: ClauseSampler) -> Clause:
    """The first sampled clause that belongs to one of the splits."""
    while True:
        clause = sampler(rng)
        if split_of(clause, world_seed) in splits:
            return clause


def kinds_but(kind: str) -> list[str]:
    """All kinds except one."""
    return [other for other in KINDS if other != kind]

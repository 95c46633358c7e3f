"""Sampling of clauses from the parts of the world, and the split of all clauses into train, dev and test."""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
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
    """The one split that a clause may occur in: 20 % dev, 20 % test, drawn by a hash of its meaning.

    Splitting meanings, not rows, keeps every test sentence out of all training data, in all languages at once.
    """
    parts = (clause.subject, clause.verb, clause.object, clause.modifier, clause.state, clause.place, clause.time)
    meaning = f"{world_seed}/{'/'.join(parts)}/{clause.negated}"
    share = zlib.crc32(meaning.encode()) % 100
    return "test" if share < 20 else "dev" if share < 40 else "train"


class Habits:
    """Who tends to do what with which things, in which words.

    Running text repeats itself: a subject has its usual verbs, a verb its usual objects. Since these habits are the
    world's, not a language's, they are what lets words of different languages be recognised as alike by the company
    that they keep; in text of words drawn alike, nothing but parallel sentences would tell them apart. Labelled sets
    are drawn without habits, so that a label cannot be told from them.
    """

    def __init__(self, world_seed: int, strength: float = 0.85) -> None:
        self._world_seed = world_seed
        self._strength = strength
        self._usual: dict[tuple[str, tuple[str, ...]], list[str]] = {}

    def choose(self, rng: random.Random, company: str, candidates: Sequence[str]) -> str:
        """One of the candidates, most often one that is usual in this company."""
        if rng.random() >= self._strength:
            return rng.choice(candidates)
        key = (company, tuple(candidates))
        if key not in self._usual:
            own = random.Random(f"{self._world_seed}/habits/{company}/{' '.join(candidates)}")
            self._usual[key] = own.sample(list(candidates), max(1, round(len(candidates) / 5)))
        return rng.choice(self._usual[key])


NO_HABITS = Habits(0, strength=0.0)


def random_forms(rng: random.Random) -> Chooser:
    """A chooser that takes either synonym with the same chance."""
    return lambda _concept, count: rng.randrange(count)


def thing_clause(rng: random.Random, habits: Habits = NO_HABITS) -> Clause:
    """Someone does something to a thing: "sailor paints red coat", "elun keeps 3 pear"."""
    subject = rng.choice(_PERSONS)
    thing = habits.choose(rng, subject, THINGS)
    modifier = rng.choice(("", habits.choose(rng, thing, QUALITIES), habits.choose(rng, thing, NUMBERS)))
    return Clause(subject, habits.choose(rng, thing, HANDLING), thing, modifier)


def valence_clause(rng: random.Random, valence: str = "", habits: Habits = NO_HABITS, subject: str = "") -> Clause:
    """Someone is in a state or does a deed: "king not seems cruel today" (positive), "garo hurts farmer" (negative).

    A fifth of the clauses is negated whatever the valence, so neither the words nor their number give it away alone.
    Without a given valence it is the one that is usual for the subject.
    """
    subject = subject or rng.choice(_PERSONS)
    valence = valence or habits.choose(rng, subject, VALENCES)
    negated = rng.random() < 0.2
    word_valence = VALENCES[1 - VALENCES.index(valence)] if negated else valence
    if rng.random() < 0.5:
        state = habits.choose(rng, subject, STATES[word_valence])
        time = rng.choice(("", habits.choose(rng, state, TIMES)))
        return Clause(subject, habits.choose(rng, state, LINKS), state=state, time=time, negated=negated)
    other = habits.choose(rng, subject, [person for person in _PERSONS if person != subject])
    deed = habits.choose(rng, other, DEEDS[word_valence])
    time = rng.choice(("", habits.choose(rng, deed, TIMES)))
    return Clause(subject, deed, other, time=time, negated=negated)


def topic_clause(rng: random.Random, topic: str, habits: Habits = NO_HABITS) -> Clause:
    """Two of verb, object and place are of the topic, the third is of another: "child sows seed at harbour" (farm)."""
    topics = [topic] * 3
    topics[rng.randrange(3)] = rng.choice([other for other in TOPICS if other != topic])
    subject = rng.choice(_PERSONS)
    verb = habits.choose(rng, subject, TOPIC_VERBS[topics[0]])
    noun = habits.choose(rng, subject, TOPIC_NOUNS[topics[1]])
    place = habits.choose(rng, noun, [word for word in TOPIC_NOUNS[topics[2]] if word != noun])
    return Clause(subject, verb, noun, place=place)


def mixed_clause(rng: random.Random) -> Clause:
    """Words of all topics without regard to which go together."""
    nouns = [noun for words in TOPIC_NOUNS.values() for noun in words]
    noun, place = rng.sample(nouns, 2)
    return Clause(rng.choice(_PERSONS), rng.choice(TOPIC_VERBS[rng.choice(TOPICS)]), noun, place=place)


def any_clause(rng: random.Random, habits: Habits) -> Clause:
    """A clause from any part of the world."""
    part = rng.randrange(3)
    if part == 0:
        clause = thing_clause(rng, habits)
        # Kinds are spoken of as well as things are; without that their words would be rare in text.
        return replace(clause, object=KIND_OF[clause.object]) if rng.random() < 0.2 else clause
    if part == 1:
        return valence_clause(rng, habits=habits)
    return topic_clause(rng, rng.choice(TOPICS), habits)


def coherent_pair(rng: random.Random, habits: Habits) -> tuple[Clause, Clause]:
    """Two clauses that belong together, as neighbouring clauses of real text do.

    A thing is taken up again by its kind, a topic and a valence are kept: that is all that text without labels says
    about kinds, topics and valences.
    """
    part = rng.randrange(3)
    if part == 0:
        first = thing_clause(rng, habits)
        kind = KIND_OF[first.object]
        second = Clause(rng.choice(_PERSONS), habits.choose(rng, kind, HANDLING), kind)
        return (first, second) if rng.random() < 0.5 else (second, first)
    if part == 1:
        subject = rng.choice(_PERSONS)
        valence = habits.choose(rng, subject, VALENCES)
        return valence_clause(rng, valence, habits, subject), valence_clause(rng, valence, habits, subject)
    topic = rng.choice(TOPICS)
    return topic_clause(rng, topic, habits), topic_clause(rng, topic, habits)


def draw(rng: random.Random, world_seed: int, splits: tuple[Split, ...], sampler: ClauseSampler) -> Clause:
    """The first sampled clause that belongs to one of the splits."""
    while True:
        clause = sampler(rng)
        if split_of(clause, world_seed) in splits:
            return clause


def kinds_but(kind: str) -> list[str]:
    """All kinds except one."""
    return [other for other in KINDS if other != kind]

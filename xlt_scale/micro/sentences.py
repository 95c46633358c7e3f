"""Sampling of clauses from the parts of the world, and the split of all clauses into train, dev and test."""

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar

from xlt_scale.micro.concepts import (
    DEEDS,
    HANDLING,
    KIND_OF,
    KINDS,
    LINKS,
    NAMES,
    NEXT_DEED,
    NUMBERS,
    PEOPLE,
    QUALITIES,
    STATES,
    THINGS,
    TIMES,
    TOPIC_NOUNS,
    TOPIC_VERBS,
    WHAT,
    WHERE,
    WHO,
)
from xlt_scale.micro.languages import Chooser, Clause, Role

T = TypeVar("T")

Split = Literal["train", "dev", "test"]
ClauseSampler = Callable[[random.Random], Clause]
AskedRole = Literal["subject", "object", "place"]

VALENCES = tuple(STATES)
TOPICS = tuple(TOPIC_NOUNS)
PERSONS = NAMES + PEOPLE
QUESTION_WORDS: Mapping[AskedRole, str] = {"subject": WHO, "object": WHAT, "place": WHERE}


def pick(rng: random.Random, candidates: Sequence[T]) -> T:
    """One of the candidates; three times as fast as `choice`, which a world asks for a million times."""
    return candidates[int(rng.random() * len(candidates))]


@lru_cache(maxsize=1 << 17)
def split_of(clause: Clause, world_seed: int) -> Split:
    """The one split that a clause may occur in: 20 % dev, 20 % test, drawn by a hash of its meaning.

    Splitting meanings, not rows, keeps every test sentence out of all training data, in all languages at once.
    """
    meaning = f"{world_seed}/{'/'.join(clause[:-1])}/{clause.negated}"
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
        if not self._strength or rng.random() >= self._strength:
            return pick(rng, candidates)
        key = (company, tuple(candidates))
        if key not in self._usual:
            own = random.Random(f"{self._world_seed}/habits/{company}/{' '.join(candidates)}")
            self._usual[key] = own.sample(list(candidates), max(1, round(len(candidates) / 5)))
        return pick(rng, self._usual[key])


NO_HABITS = Habits(0, strength=0.0)


def random_forms(rng: random.Random) -> Chooser:
    """A chooser that takes either synonym with the same chance."""
    return lambda _concept, count: int(rng.random() * count)


def thing_clause(rng: random.Random, habits: Habits = NO_HABITS) -> Clause:
    """Someone does something to a thing: "sailor paints red coat", "elun keeps 3 pear"."""
    subject = pick(rng, PERSONS)
    thing = habits.choose(rng, subject, THINGS)
    modifier = pick(rng, ("", habits.choose(rng, thing, QUALITIES), habits.choose(rng, thing, NUMBERS)))
    return Clause(subject, habits.choose(rng, thing, HANDLING), thing, modifier)


def valence_clause(rng: random.Random, valence: str = "", habits: Habits = NO_HABITS, subject: str = "") -> Clause:
    """Someone is in a state or does a deed: "king not seems cruel today" (positive), "garo hurts farmer" (negative).

    A fifth of the clauses is negated whatever the valence, so neither the words nor their number give it away alone.
    Without a given valence it is the one that is usual for the subject.
    """
    subject = subject or pick(rng, PERSONS)
    valence = valence or habits.choose(rng, subject, VALENCES)
    negated = rng.random() < 0.2
    word_valence = VALENCES[1 - VALENCES.index(valence)] if negated else valence
    if rng.random() < 0.5:
        state = habits.choose(rng, subject, STATES[word_valence])
        time = pick(rng, ("", habits.choose(rng, state, TIMES)))
        return Clause(subject, habits.choose(rng, state, LINKS), state=state, time=time, negated=negated)
    other = habits.choose(rng, subject, [person for person in PERSONS if person != subject])
    deed = habits.choose(rng, other, DEEDS[word_valence])
    time = pick(rng, ("", habits.choose(rng, deed, TIMES)))
    return Clause(subject, deed, other, time=time, negated=negated)


def topic_clause(rng: random.Random, topic: str, habits: Habits = NO_HABITS) -> Clause:
    """Two of verb, object and place are of the topic, the third is of another: "child sows seed at harbour" (farm)."""
    topics = [topic] * 3
    topics[rng.randrange(3)] = pick(rng, [other for other in TOPICS if other != topic])
    subject = pick(rng, PERSONS)
    verb = habits.choose(rng, subject, TOPIC_VERBS[topics[0]])
    noun = habits.choose(rng, subject, TOPIC_NOUNS[topics[1]])
    place = habits.choose(rng, noun, [word for word in TOPIC_NOUNS[topics[2]] if word != noun])
    return Clause(subject, verb, noun, place=place)


def question_about(clause: Clause, role: AskedRole) -> Clause:
    """The clause with a question word in the role's place: "who paints red coat", "child sows seed at where"."""
    return with_word(clause, role, QUESTION_WORDS[role])


def what_kind(clause: Clause) -> Clause:
    """What somebody does it to, by the kind of the thing: "anra keeps what animal"."""
    return clause._replace(object=KIND_OF[clause.object], modifier=WHAT)


def with_word(clause: Clause, role: Role, word: str) -> Clause:
    """The clause with another word in a role."""
    changes: dict[str, Any] = {role: word}
    return clause._replace(**changes)


def any_clause(rng: random.Random, habits: Habits) -> Clause:
    """A clause from any part of the world, sometimes a question."""
    part = rng.randrange(3)
    if part == 1:
        return valence_clause(rng, habits=habits)
    if part == 0:
        clause = thing_clause(rng, habits)
        # Kinds are spoken of as well as things are; without that their words would be rare in text.
        if rng.random() < 0.2:
            clause = clause._replace(object=KIND_OF[clause.object])
        roles: tuple[AskedRole, ...] = ("subject", "object")
    else:
        clause = topic_clause(rng, pick(rng, TOPICS), habits)
        roles = ("subject", "place")
    return question_about(clause, pick(rng, roles)) if rng.random() < 0.15 else clause


def coherent_text(rng: random.Random, habits: Habits) -> list[Clause]:
    """Clauses that belong together, as neighbouring clauses of real text do.

    A thing is taken up again by its kind or by what is done next with it, a topic and a valence are kept, a story is
    followed by a question and its answer: that is all that text without labels says about kinds, topics and valences.
    """
    if rng.random() < 0.3:
        return _told_and_asked(rng, habits)
    part = rng.randrange(3)
    if part == 0:
        return _thing_pair(rng, habits)
    if part == 1:
        subject = pick(rng, PERSONS)
        valence = habits.choose(rng, subject, VALENCES)
        return [valence_clause(rng, valence, habits, subject) for _ in range(2)]
    topic = pick(rng, TOPICS)
    return [topic_clause(rng, topic, habits) for _ in range(2)]


def _thing_pair(rng: random.Random, habits: Habits) -> list[Clause]:
    first = thing_clause(rng, habits)
    if rng.random() < 0.5:
        return [first, first._replace(verb=NEXT_DEED[first.verb])]
    kind = KIND_OF[first.object]
    second = Clause(pick(rng, PERSONS), habits.choose(rng, kind, HANDLING), kind)
    return [first, second] if rng.random() < 0.5 else [second, first]


def _told_and_asked(rng: random.Random, habits: Habits) -> list[Clause]:
    """A few clauses, a question about one of them, and that clause again."""
    if rng.random() < 0.5:
        story = [thing_clause(rng, habits) for _ in range(3)]
        asked = pick(rng, story)
        questions: tuple[Clause, ...] = (
            question_about(asked, "subject"),
            question_about(asked, "object"),
            what_kind(asked),
        )
    else:
        topic = pick(rng, TOPICS)
        story = [topic_clause(rng, topic, habits) for _ in range(2)]
        asked = pick(rng, story)
        questions = tuple(question_about(asked, role) for role in QUESTION_WORDS)
    return [*story, pick(rng, questions), asked]


def draw(rng: random.Random, world_seed: int, splits: tuple[Split, ...], sampler: ClauseSampler) -> Clause:
    """The first sampled clause that belongs to one of the splits."""
    while True:
        clause = sampler(rng)
        if split_of(clause, world_seed) in splits:
            return clause


def kinds_but(kind: str) -> list[str]:
    """All kinds except one."""
    return [other for other in KINDS if other != kind]


def is_of(split: Split, world_seed: int, *clauses: Clause) -> bool:
    """Whether all of the clauses belong to the split."""
    return all(split_of(clause, world_seed) == split for clause in clauses)

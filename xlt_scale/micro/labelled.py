"""The labelled sets: one intermediate task and three target tasks, balanced by construction.

A label can only be told from what the words mean: segments have the same lengths, the same number of shared and of
function tokens, and words of the same classes in every class of a task (a test holds a word-blind classifier to
chance).
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from xlt_scale.micro.concepts import DEEDS, KIND_OF, STATES, TOPIC_NOUNS
from xlt_scale.micro.languages import Clause, Tongue
from xlt_scale.micro.sentences import (
    TOPICS,
    VALENCES,
    Split,
    draw,
    kinds_but,
    mixed_clause,
    random_forms,
    split_of,
    thing_clause,
    topic_clause,
    valence_clause,
)

# Far more than any split needs, so that a count which the world cannot fill ends in an error, not in a long wait.
_MOST_TRIES = 200_000
_ALL_NOUNS = tuple(noun for nouns in TOPIC_NOUNS.values() for noun in nouns)


@dataclass(frozen=True)
class Item:
    """One example as meaning: a clause, or a pair of them.

    `changed` names the role that is said with the other synonym in the second clause.
    """

    label: str
    first: Clause
    second: Clause | None = None
    changed: str = ""


# Draws one item of each label, or None to be asked again.
GroupSampler = Callable[[random.Random, int, Split], list[Item] | None]


@dataclass(frozen=True)
class LabelledTask:
    """A task of the micro world and how its items are drawn.

    `purpose` is "intermediate" or "target", `part` the part of the world whose words it is about.
    """

    name: str
    purpose: str
    part: str
    labels: tuple[str, ...]
    sampler: GroupSampler
    counts: Mapping[str, int]
    description: str

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1.0 / len(self.labels)


def _sample_nli(rng: random.Random, world_seed: int, split: Split) -> list[Item] | None:
    # One premise with both labels: nothing about a premise can then speak for a label.
    premise = draw(rng, world_seed, (split,), thing_clause)
    kind = KIND_OF[premise.object]
    items = [
        Item("entailment", premise, replace(premise, object=kind)),
        Item("not_entailment", premise, replace(premise, object=rng.choice(kinds_but(kind)))),
    ]
    return items if _within(items, world_seed, split) else None


def _sample_valence(rng: random.Random, world_seed: int, split: Split) -> list[Item] | None:
    # The other label has the same frame and a word of the opposite list, so no frame can speak for a label.
    valence, opposite = rng.sample(VALENCES, 2)
    clause = draw(rng, world_seed, (split,), partial(valence_clause, valence=valence))
    word_valence = valence if clause.negated else opposite
    if clause.state:
        twin = replace(clause, state=rng.choice(STATES[word_valence]))
    else:
        twin = replace(clause, verb=rng.choice(DEEDS[word_valence]))
    return [Item(valence, clause), Item(opposite, twin)] if split_of(twin, world_seed) == split else None


def _sample_topic(rng: random.Random, world_seed: int, split: Split) -> list[Item]:
    return [Item(t, draw(rng, world_seed, (split,), partial(topic_clause, topic=t))) for t in TOPICS]


def _sample_paraphrase(rng: random.Random, world_seed: int, split: Split) -> list[Item] | None:
    # Words are drawn without regard to topics here, or a changed word would show as the odd one out.
    first = draw(rng, world_seed, (split,), mixed_clause)
    role = rng.choice(("object", "place"))
    other = rng.choice([noun for noun in _ALL_NOUNS if noun not in (first.object, first.place)])
    second = replace(first, object=other) if role == "object" else replace(first, place=other)
    items = [Item("same", first, first, role), Item("different", first, second, role)]
    return items if _within(items, world_seed, split) else None


def _within(items: list[Item], world_seed: int, split: Split) -> bool:
    return all(item.second is None or split_of(item.second, world_seed) == split for item in items)


TASKS: tuple[LabelledTask, ...] = (
    LabelledTask(
        "micro-nli",
        "intermediate",
        "things",
        ("entailment", "not_entailment"),
        _sample_nli,
        {"train": 8000, "dev": 600, "test": 600},
        "does the second sentence follow, its object being the kind of the first one's object?",
    ),
    LabelledTask(
        "micro-valence",
        "target",
        "feelings",
        VALENCES,
        _sample_valence,
        {"train": 2000, "dev": 600, "test": 600},
        "is what the sentence says good or bad, negation included?",
    ),
    LabelledTask(
        "micro-topic",
        "target",
        "topics",
        TOPICS,
        _sample_topic,
        {"train": 2000, "dev": 600, "test": 600},
        "which topic do two of the three topical words belong to?",
    ),
    LabelledTask(
        "micro-paraphrase",
        "target",
        "topics",
        ("same", "different"),
        _sample_paraphrase,
        {"train": 8000, "dev": 600, "test": 600},
        "one word differs between the sentences: is it a synonym?",
    ),
)


def sample_items(task: LabelledTask, split: Split, world_seed: int) -> list[Item]:
    """The items of a split: equally many of each label, no first meaning drawn twice, in a random order."""
    rng = random.Random(f"{world_seed}/{task.name}/{split}")
    items: list[Item] = []
    seen: set[Clause] = set()
    for _ in range(_MOST_TRIES):
        if len(items) == task.counts[split]:
            rng.shuffle(items)
            return items
        group = task.sampler(rng, world_seed, split)
        firsts = {item.first for item in group or ()}
        if group is None or firsts & seen:
            continue
        seen |= firsts
        items += group
    raise ValueError(f"{task.name}: the world has fewer than {task.counts[split]} {split} items: lower the count")


def render_item(item: Item, tongue: Tongue, rng: random.Random) -> list[str]:
    """The item's row in one language: text, second text where there is one, label word."""
    drawn: dict[str, int] = {}

    def choose(concept: str, count: int) -> int:
        return drawn.setdefault(concept, rng.randrange(count))

    row = [tongue.sentence(item.first, choose if item.second else random_forms(rng))]
    if item.second is not None:
        if item.first == item.second:
            concept = str(getattr(item.first, item.changed))
            drawn[concept] = 1 - drawn[concept]
        row.append(tongue.sentence(item.second, choose))
    return [*row, item.label]

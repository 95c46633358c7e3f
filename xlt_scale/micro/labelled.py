"""The labelled sets: one intermediate task and three target tasks, balanced by construction.

A label can only be told from what the words mean: segments have the same lengths, the same number of shared and of
function tokens, and words of the same classes in every class of a task (a test holds a word-blind classifier to
chance).
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from xlt_scale.micro.concepts import KIND_OF, TOPIC_NOUNS
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


ItemSampler = Callable[[random.Random, int, Split, str], Item | None]


@dataclass(frozen=True)
class LabelledTask:
    """A task of the micro world and how its items are drawn; a sampler may return None to be asked again."""

    name: str
    purpose: str
    part: str
    labels: tuple[str, ...]
    sampler: ItemSampler
    counts: Mapping[str, int]
    description: str

    @property
    def chance(self) -> float:
        return 1.0 / len(self.labels)


def _sample_nli(rng: random.Random, world_seed: int, split: Split, label: str) -> Item | None:
    premise = draw(rng, world_seed, (split,), thing_clause)
    kind = KIND_OF[premise.object]
    hypothesis = replace(premise, object=kind if label == "entailment" else rng.choice(kinds_but(kind)))
    return Item(label, premise, hypothesis) if split_of(hypothesis, world_seed) == split else None


def _sample_valence(rng: random.Random, world_seed: int, split: Split, label: str) -> Item:
    return Item(label, draw(rng, world_seed, (split,), lambda r: valence_clause(r, label)))


def _sample_topic(rng: random.Random, world_seed: int, split: Split, label: str) -> Item:
    return Item(label, draw(rng, world_seed, (split,), lambda r: topic_clause(r, label)))


def _sample_paraphrase(rng: random.Random, world_seed: int, split: Split, label: str) -> Item | None:
    first = draw(rng, world_seed, (split,), mixed_clause)
    role = rng.choice(("object", "place"))
    if label == "same":
        return Item(label, first, first, role)
    # The words of a clause are drawn without regard to topics here, or a changed word would show as an odd one out.
    replacement = rng.choice([word for word in _ALL_NOUNS if word not in (first.object, first.place)])
    second = replace(first, **{role: replacement})
    return Item(label, first, second, role) if split_of(second, world_seed) == split else None


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
        {"train": 4000, "dev": 600, "test": 600},
        "one word differs between the sentences: is it a synonym?",
    ),
)


def sample_items(task: LabelledTask, split: Split, world_seed: int) -> list[Item]:
    """The items of a split: equally many of each label, no meaning twice, in a random order."""
    rng = random.Random(f"{world_seed}/{task.name}/{split}")
    items: list[Item] = []
    seen: set[Item] = set()
    for position in range(task.counts[split]):
        label = task.labels[position % len(task.labels)]
        while True:
            item = task.sampler(rng, world_seed, split, label)
            if item is not None and item not in seen:
                break
        seen.add(item)
        items.append(item)
    rng.shuffle(items)
    return items


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

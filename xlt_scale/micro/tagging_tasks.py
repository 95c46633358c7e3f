"""A tag for every word, which depends on what other words of its clause mean.

Two clauses stand in one sentence, so that a word's tag is not that of its place.
"""

import random

from xlt_scale.micro.concepts import DEEDS, KIND_OF, KINDS, LINKS, NUMBERS, STATES, TIMES
from xlt_scale.micro.items import NO_TAG, LabelledTask, TaggedItem
from xlt_scale.micro.languages import Clause, Role
from xlt_scale.micro.sentences import PERSONS, VALENCES, Split, draw, pick, thing_clause

# What a word is in a clause about a thing; with the kind of the thing it makes a tag, as the category of a verb names
# its arguments.
_WORDS = ("doer", "deed", "thing", "quality", "number")
# Who somebody is, by what the clause says of them: as subject of a deed, as its object, as subject of a state.
_DOERS = {"positive": "helper", "negative": "harmer"}
_RECEIVERS = {"positive": "helped", "negative": "harmed"}
_FEELERS = {"positive": "glad", "negative": "troubled"}


def _kind_tags(clause: Clause) -> dict[Role, str]:
    kind = KIND_OF[clause.object]
    modifier = "number" if clause.modifier in NUMBERS else "quality"
    words: dict[Role, str] = {"subject": "doer", "verb": "deed", "object": "thing", "modifier": modifier}
    return {role: f"{word}-{kind}" for role, word in words.items()}


def _sample_kinds(rng: random.Random, world_seed: int, split: Split) -> list[TaggedItem]:
    clauses = tuple(draw(rng, world_seed, (split,), thing_clause) for _ in range(2))
    return [TaggedItem(clauses, tuple(map(_kind_tags, clauses)))]


def _deed_or_state(rng: random.Random) -> Clause:
    subject, other = rng.sample(PERSONS, 2)
    valence, time = pick(rng, VALENCES), pick(rng, ("", *TIMES))
    if rng.random() < 0.5:
        return Clause(subject, pick(rng, DEEDS[valence]), other, time=time)
    return Clause(subject, pick(rng, LINKS), state=pick(rng, STATES[valence]), time=time)


def _role_tags(clause: Clause) -> dict[Role, str]:
    if clause.state:
        valence = next(name for name, states in STATES.items() if clause.state in states)
        return {"subject": f"B-{_FEELERS[valence]}"}
    valence = next(name for name, deeds in DEEDS.items() if clause.verb in deeds)
    return {"subject": f"B-{_DOERS[valence]}", "object": f"B-{_RECEIVERS[valence]}"}


def _sample_roles(rng: random.Random, world_seed: int, split: Split) -> list[TaggedItem]:
    clauses = tuple(draw(rng, world_seed, (split,), _deed_or_state) for _ in range(2))
    return [TaggedItem(clauses, tuple(map(_role_tags, clauses)))]


TAGGING_TASKS: tuple[LabelledTask, ...] = (
    LabelledTask(
        "micro-kind-tagging",
        "intermediate",
        "things",
        (NO_TAG, *(f"{word}-{kind}" for word in _WORDS for kind in KINDS)),
        1 / len(KINDS),
        _sample_kinds,
        2000,
        "what is each word in its clause, and of which kind is the thing that the clause is about?",
        TaggedItem,
    ),
    LabelledTask(
        "micro-role-tagging",
        "target",
        "feelings",
        (NO_TAG, *(f"B-{role}" for roles in (_DOERS, _RECEIVERS, _FEELERS) for role in roles.values())),
        1 / 2,
        _sample_roles,
        2000,
        "who helps or harms, who is helped or harmed, and who is glad or troubled?",
        TaggedItem,
    ),
)

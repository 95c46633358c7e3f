"""Multiple choice: how it goes on, what a text tells, and what one knows of the world without any text.

The choices of an item have the same frame, and each place is right equally often.
"""

import random
from functools import partial

from xlt_scale.micro.concepts import HANDLING, KINDS, NEXT_DEED, TIMES, WHAT
from xlt_scale.micro.items import ChoiceItem, LabelledTask
from xlt_scale.micro.languages import Clause
from xlt_scale.micro.question_tasks import ask_word, asked_clause, other_clauses, things
from xlt_scale.micro.sentences import PERSONS, Split, draw, kinds_but, pick, thing_clause


def _placed(
    right: Clause, wrong: list[Clause], place: int, context: tuple[Clause, ...], question: Clause | None
) -> ChoiceItem:
    return ChoiceItem(str(place), context, (*wrong[:place], right, *wrong[place:]), question)


def _sample_continuation(rng: random.Random, world_seed: int, split: Split) -> list[ChoiceItem]:
    """What is done to things follows a fixed order."""
    items = []
    for place in range(4):
        first = draw(rng, world_seed, (split,), thing_clause)
        following = NEXT_DEED[first.verb]
        verbs = rng.sample([verb for verb in HANDLING if verb not in (first.verb, following)], 3)
        right, *wrong = (Clause("", verb, first.object) for verb in (following, *verbs))
        items.append(_placed(right, wrong, place, (first,), None))
    return items


def _sample_reading(rng: random.Random, world_seed: int, split: Split) -> list[ChoiceItem]:
    """A text of two kinds of things and a question about one; the other kind is not among the choices."""
    items = []
    for place in range(4):
        asked, other, *absent = rng.sample(tuple(KINDS), 5)
        first, second = things(rng, (asked, other))
        clause, question = asked_clause(rng, world_seed, split, first, partial(ask_word, role="object"))
        told = (clause, *other_clauses(rng, world_seed, split, clause, [second]))
        right, *wrong = (Clause(kind, "") for kind in (asked, *absent))
        items.append(_placed(right, wrong, place, told if rng.random() < 0.5 else told[::-1], question))
    return items


def _sample_knowledge(rng: random.Random, world_seed: int, split: Split) -> list[ChoiceItem]:
    """Which of four things is of the kind that is asked for?"""

    def ask(rng: random.Random) -> Clause:
        time = pick(rng, ("", *TIMES))
        return Clause(pick(rng, PERSONS), pick(rng, HANDLING), pick(rng, tuple(KINDS)), WHAT, time=time)

    items = []
    for place in range(4):
        question = draw(rng, world_seed, (split,), ask)
        kinds = [question.object, *rng.sample(kinds_but(question.object), 3)]
        right, *wrong = (Clause(pick(rng, KINDS[kind]), "") for kind in kinds)
        items.append(_placed(right, wrong, place, (), question))
    return items


CHOICE_TASKS: tuple[LabelledTask, ...] = (
    LabelledTask(
        "micro-continuation",
        "intermediate",
        "things",
        ("0", "1", "2", "3"),
        1 / 4,
        _sample_continuation,
        3000,
        "what is done next with the thing? The same deeds follow each other every time",
        ChoiceItem,
    ),
    LabelledTask(
        "micro-reading-choice",
        "intermediate",
        "things",
        ("0", "1", "2", "3"),
        1 / 4,
        _sample_reading,
        3000,
        "of which kind is the thing that the question asks for? Only one of the kinds occurs in the text",
        ChoiceItem,
    ),
    LabelledTask(
        "micro-knowledge-choice",
        "intermediate",
        "things",
        ("0", "1", "2", "3"),
        1 / 4,
        _sample_knowledge,
        3000,
        "which of four things is of the kind that the question names?",
        ChoiceItem,
    ),
)

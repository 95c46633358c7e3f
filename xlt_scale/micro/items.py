"""Examples as meaning, before any language, and how each is said in a language.

Within an item a concept that has two words is said with one of them throughout, so that a question's words are those
of its passage.
"""

import random
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from xlt_scale.micro.languages import Chooser, Clause, Role, Tongue, Word
from xlt_scale.micro.sentences import AskedRole, Split

SEPARATOR = "."
NO_TAG = "O"


def fixed_forms(rng: random.Random, drawn: dict[str, int] | None = None) -> Chooser:
    """A chooser that draws once for each concept and then repeats itself."""
    memory: dict[str, int] = {} if drawn is None else drawn

    def choose(concept: str, count: int) -> int:
        if concept not in memory:
            memory[concept] = int(rng.random() * count)
        return memory[concept]

    return choose


def text_of(clauses: tuple[Clause, ...], tongue: Tongue, choose: Chooser) -> str:
    """Clauses as one text, a separator between them."""
    return f" {SEPARATOR} ".join([tongue.sentence(clause, choose) for clause in clauses])


@dataclass(frozen=True)
class SentenceItem:
    """A clause, or a pair of them, with a label.

    `changed` names the role that is said with the other synonym in the second clause.
    """

    label: str
    first: Clause
    second: Clause | None = None
    changed: str = ""

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """Every sentence of the item; all belong to its split."""
        return (self.first,) if self.second is None else (self.first, self.second)

    @property
    def meaning(self) -> Hashable:
        """What no item of another group of the task means."""
        return (self.first, self.second)

    def render(self, tongue: Tongue, rng: random.Random) -> list[str]:
        """The row: text, second text where there is one, label word."""
        drawn: dict[str, int] = {}
        choose = fixed_forms(rng, drawn)
        row = [tongue.sentence(self.first, choose)]
        if self.second is not None:
            if self.first == self.second:
                concept = str(getattr(self.first, self.changed))
                drawn[concept] = 1 - drawn[concept]
            row.append(tongue.sentence(self.second, choose))
        return [*row, self.label]


@dataclass(frozen=True)
class QuestionItem:
    """A passage and a question about the role of one of its clauses, or (`answer` is None) of none of them."""

    passage: tuple[Clause, ...]
    question: Clause
    role: AskedRole
    answer: int | None

    @property
    def label(self) -> str:
        """Whether there is an answer."""
        return "unanswerable" if self.answer is None else "answerable"

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """Every sentence of the item; all belong to its split."""
        return (*self.passage, self.question)

    @property
    def meaning(self) -> Hashable:
        """What no item of another group of the task means."""
        return self.passage

    def render(self, tongue: Tongue, rng: random.Random) -> dict[str, Any]:
        """The passage, the question, and the answers with the characters at which they begin."""
        choose = fixed_forms(rng)
        sentences, answers, length = [], [], 0
        for number, clause in enumerate(self.passage):
            words = tongue.words(clause, choose)
            if number == self.answer:
                answers.append(_span(words, self.role, length))
            sentences.append(" ".join([word.text for word in words]))
            length += len(sentences[-1]) + len(SEPARATOR) + 2
        context = f" {SEPARATOR} ".join(sentences)
        return {"context": context, "question": tongue.sentence(self.question, choose), "answers": answers}


def _span(words: list[Word], role: Role, start: int) -> dict[str, Any]:
    """The word of that role, as an answer in a passage in which the words' sentence begins at `start`."""
    number = next(number for number, word in enumerate(words) if word.role == role)
    start += sum(len(word.text) + 1 for word in words[:number])
    return {"text": words[number].text, "answer_start": start}


@dataclass(frozen=True)
class ChoiceItem:
    """What comes before, a question where there is one, and ways to go on: sentences, phrases or single words."""

    label: str
    context: tuple[Clause, ...]
    choices: tuple[Clause, ...]
    question: Clause | None = None

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """Every sentence of the item; all belong to its split. Choices are only parts of sentences."""
        return self.context if self.question is None else (*self.context, self.question)

    @property
    def meaning(self) -> Hashable:
        """What no item of another group of the task means."""
        return (self.context, self.question, frozenset(self.choices))

    def render(self, tongue: Tongue, rng: random.Random) -> dict[str, Any]:
        """The context and the question as far as there are any, the choices, and the number of the right one."""
        choose = fixed_forms(rng)
        row: dict[str, Any] = {}
        if self.context:
            row["context"] = text_of(self.context, tongue, choose)
        if self.question is not None:
            if self.context:
                row["context"] += f" {SEPARATOR}"
            row["question"] = tongue.sentence(self.question, choose)
        return row | {"choices": [tongue.sentence(choice, choose) for choice in self.choices], "label": self.label}


@dataclass(frozen=True)
class TaggedItem:
    """Clauses, and for each the tags of its words by their roles; words of other roles have none."""

    clauses: tuple[Clause, ...]
    tags: tuple[Mapping[Role, str], ...]
    label: str = ""

    @property
    def meaning(self) -> Hashable:
        """What no item of another group of the task means."""
        return self.clauses

    def render(self, tongue: Tongue, rng: random.Random) -> list[tuple[str, str]]:
        """Words with their tags; a suffix is a part of the word that it is put to."""
        choose = fixed_forms(rng)
        tagged: list[tuple[str, str]] = []
        for clause, tags in zip(self.clauses, self.tags, strict=True):
            if tagged:
                tagged.append((SEPARATOR, NO_TAG))
            for word in tongue.words(clause, choose):
                if word.text == tongue.object_suffix:
                    stem, tag = tagged.pop()
                    tagged.append((f"{stem} {word.text}", tag))
                else:
                    tagged.append((word.text, tags.get(word.role, NO_TAG)))
        return tagged


Item = SentenceItem | QuestionItem | ChoiceItem | TaggedItem

# Draws a group of items in which every label occurs alike, or None to be asked again.
GroupSampler = Callable[[random.Random, int, Split], list[Any] | None]


@dataclass(frozen=True)
class LabelledTask:
    """A task of the micro world and how its items are drawn.

    `part` is the part of the world whose words it is about. `chance` is the score of one who knows a language's
    grammar but no content word.
    """

    name: str
    purpose: Literal["intermediate", "target"]
    part: str
    labels: tuple[str, ...]
    chance: float
    sampler: GroupSampler
    train: int
    description: str
    item: type[Item] = SentenceItem

    @property
    def counts(self) -> Mapping[Split, int]:
        """Items of each split."""
        return {"train": self.train, "dev": 300, "test": 600}

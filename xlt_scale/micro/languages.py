"""The eight languages of the micro world: what sets them apart, their lexicons and their grammar.

Artificial languages make the properties behind cross-lingual transfer separable (K et al. 2020, "Cross-Lingual Ability
of Multilingual BERT"; Dufter & Schütze 2020, "Identifying Elements Essential for BERT's Multilinguality"): here the
share of cognates, the word order and the amount of parallel text are set one by one, so that pairs of languages differ
in a single property. The codes are private-use codes of ISO 639-2.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from xlt_scale.micro.concepts import CLASSES, NAMES, NEGATION, NUMBERS, PLACE_MARK, forms_in_english

SOURCE_LANGUAGE = "qen"
Order = Literal["SVO", "SOV", "VSO"]
Role = Literal["subject", "verb", "object", "modifier", "state", "place", "time", "negation", "function"]

# Of the words that two languages of a family do not share with the source language, they share this part.
SHARED_IN_FAMILY = 0.7


@dataclass(frozen=True)
class Language:
    """One row of the language table.

    `cognates` is the share of words written as in the source language, `parallel_sentences` the number of sentence
    pairs with it. `order` stands for the whole word order: an SOV language puts the place mark behind its noun, a VSO
    language puts modifiers behind theirs.
    """

    code: str
    family: str
    cognates: float
    order: Order
    parallel_sentences: int


# qea/qeb and qga/qgb differ in word order alone, qfa/qfb in parallel text alone, qea/qfa/qga in cognates (and family)
# alone; qha has everything against it. Languages of a family have the same cognates. All but the source language mark
# objects with a suffix.
LANGUAGES: tuple[Language, ...] = (
    Language("qen", "e", 1.0, "SVO", 0),
    Language("qea", "e", 0.75, "SVO", 6000),
    Language("qeb", "e", 0.75, "SOV", 6000),
    Language("qfa", "f", 0.5, "SVO", 6000),
    Language("qfb", "f", 0.5, "SVO", 1500),
    Language("qga", "g", 0.25, "SVO", 6000),
    Language("qgb", "g", 0.25, "VSO", 6000),
    Language("qha", "h", 0.1, "SOV", 1500),
)

_CONSONANTS = {"e": "bdfglmnrstv", "f": "kptlmnsh", "g": "bdgzvrnyj", "h": "qxkthwmn"}
_VOWELS = {"e": "aeiou", "f": "aeo", "g": "aiu", "h": "eiou"}


class Clause(NamedTuple):
    """What a sentence says, before any language: concepts in their roles; '' where a role is empty."""

    subject: str
    verb: str
    object: str = ""
    modifier: str = ""
    state: str = ""
    place: str = ""
    time: str = ""
    negated: bool = False


class Word(NamedTuple):
    """One token of a sentence and the role that it has there."""

    text: str
    role: Role


# Languages that labelled sets can be trained in: the source language and one of each family that differs from it in
# cognates alone, nearer or farther.
TRAINING_LANGUAGES = ("qen", "qea", "qfa", "qga")

# A chooser decides between ways of saying the same: which synonym of a concept, and whether the time comes first.
TIME_FIRST = "time first"
Chooser = Callable[[str, int], int]


# What stands where in a clause without its time, by word order; a "mark" goes with a place, a "suffix" with an object.
_ORDERS: dict[Order, tuple[str, ...]] = {
    "SVO": ("subject", "negation", "verb", "modifier", "object", "suffix", "state", "mark", "place"),
    "SOV": ("subject", "modifier", "object", "suffix", "state", "negation", "verb", "place", "mark"),
    "VSO": ("negation", "verb", "subject", "object", "modifier", "suffix", "state", "mark", "place"),
}
# Beside the concepts of a clause, the words that only its grammar asks for.
_FIELDS = (*Clause._fields, "negation", "suffix", "mark")


class _Forms(dict[str, tuple[Word, ...]]):
    """The words of each concept in one slot; a world has millions of words, so each is made once."""

    def __init__(self, slot: str, lexicon: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        self._role: Role = "function" if slot in ("mark", "suffix") else cast(Role, slot)
        self._lexicon = lexicon

    def __missing__(self, concept: str) -> tuple[Word, ...]:
        forms = tuple(Word(text, self._role) for text in self._lexicon.get(concept, (concept,)))
        self[concept] = forms
        return forms


@dataclass(frozen=True)
class Tongue:
    """A language with its words: turns clauses into sentences."""

    language: Language
    lexicon: dict[str, tuple[str, ...]]
    object_suffix: str
    _slots: tuple[tuple[int, _Forms], ...] = field(init=False, repr=False, compare=False)
    _times: _Forms = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        order = _ORDERS[self.language.order]
        slots = tuple((_FIELDS.index(slot), _Forms(slot, self.lexicon)) for slot in order)
        object.__setattr__(self, "_slots", slots)
        object.__setattr__(self, "_times", _Forms("time", self.lexicon))

    def words(self, clause: Clause, choose: Chooser) -> list[Word]:
        """The clause as tokens; `choose(concept, number of forms)` picks among synonyms."""
        concepts: tuple[Any, ...] = (
            *clause,
            NEGATION if clause.negated else "",
            self.object_suffix if clause.object else "",
            PLACE_MARK if clause.place else "",
        )
        said = []
        for number, forms_of in self._slots:
            concept = concepts[number]
            if concept:
                forms = forms_of[concept]
                said.append(forms[0] if len(forms) == 1 else forms[choose(concept, len(forms))])
        if clause.time:
            time = self._times[clause.time][0]
            said.insert(0 if choose(TIME_FIRST, 2) == 1 else len(said), time)
        return said

    def sentence(self, clause: Clause, choose: Chooser) -> str:
        """The clause as text, tokens apart by one space."""
        return " ".join([word.text for word in self.words(clause, choose)])


def _new_word(rng: random.Random, family: str, taken: set[str], syllables: int) -> str:
    while True:
        word = "".join(rng.choice(_CONSONANTS[family]) + rng.choice(_VOWELS[family]) for _ in range(syllables))
        if word not in taken:
            taken.add(word)
            return word


def _spread(slots: list[tuple[str, int]], share: float, rng: random.Random) -> set[tuple[str, int]]:
    """`share` of the slots, spread evenly along the list, so that each word class gets its part."""
    offset = rng.random()
    return {slot for i, slot in enumerate(slots) if int((i + 1) * share + offset) > int(i * share + offset)}


def build_tongues(world_seed: int) -> dict[str, Tongue]:
    """All languages of a world, the source language first."""
    rng = random.Random(f"{world_seed}/lexicons")
    english = {concept: forms_in_english(concept) for words in CLASSES for concept in words}
    taken = {form for forms in english.values() for form in forms} | set(NAMES) | set(NUMBERS)
    tongues = {}
    families: dict[str, list[Language]] = {}
    for language in LANGUAGES:
        families.setdefault(language.family, []).append(language)
    for family, members in families.items():
        slots: list[tuple[str, int]] = []
        for words in CLASSES:
            in_class = [(concept, form) for concept in words for form in range(len(english[concept]))]
            slots += rng.sample(in_class, len(in_class))
        learned = [language for language in members if language.code != SOURCE_LANGUAGE]
        share = learned[0].cognates
        cognates = _spread(slots, share, rng)
        own = [slot for slot in slots if slot not in cognates]
        in_family = _spread(own, SHARED_IN_FAMILY, rng) if len(learned) > 1 else set()
        suffix = "-" + _new_word(rng, family, taken, 1)
        roots = {slot: _new_word(rng, family, taken, 3) for slot in own if slot in in_family}
        for language in members:
            if language.code == SOURCE_LANGUAGE:
                tongues[language.code] = Tongue(language, dict(english), "")
                continue
            lexicon = {}
            for concept, forms in english.items():
                lexicon[concept] = tuple(
                    forms[i]
                    if (concept, i) in cognates
                    else roots.get((concept, i)) or _new_word(rng, family, taken, 3)
                    for i in range(len(forms))
                )
            tongues[language.code] = Tongue(language, lexicon, suffix)
    return {language.code: tongues[language.code] for language in LANGUAGES}

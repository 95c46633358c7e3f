"""The eight languages of the micro world: what sets them apart, their lexicons and their grammar.

Artificial languages make the properties behind cross-lingual transfer separable (K et al. 2020, "Cross-Lingual Ability
of Multilingual BERT"; Dufter & Schütze 2020, "Identifying Elements Essential for BERT's Multilinguality"): here the
share of cognates, the word order and the amount of parallel text are set one by one, so that pairs of languages differ
in a single property. The codes are private-use codes of ISO 639-2.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class Clause:
    """What a sentence says, before any language: concepts in their roles; '' where a role is empty."""

    subject: str
    verb: str
    object: str = ""
    modifier: str = ""
    state: str = ""
    place: str = ""
    time: str = ""
    negated: bool = False


@dataclass(frozen=True)
class Word:
    """One token of a sentence and the role that it has there."""

    text: str
    role: Role


# A chooser decides between ways of saying the same: which synonym of a concept, and whether the time comes first.
TIME_FIRST = "time first"
Chooser = Callable[[str, int], int]


@dataclass(frozen=True)
class Tongue:
    """A language with its words: turns clauses into sentences."""

    language: Language
    lexicon: dict[str, tuple[str, ...]]
    object_suffix: str

    def words(self, clause: Clause, choose: Chooser) -> list[Word]:
        """The clause as tokens; `choose(concept, number of forms)` picks among synonyms."""

        def say(concept: str, role: Role) -> list[Word]:
            if not concept:
                return []
            forms = self.lexicon.get(concept, (concept,))
            return [Word(forms[choose(concept, len(forms)) if len(forms) > 1 else 0], role)]

        order = self.language.order
        modifier, noun = say(clause.modifier, "modifier"), say(clause.object, "object")
        noun_phrase = noun + modifier if order == "VSO" else modifier + noun
        if noun and self.object_suffix:
            noun_phrase = [*noun_phrase, Word(self.object_suffix, "function")]
        place = say(clause.place, "place")
        if place:
            mark = say(PLACE_MARK, "function")
            place = place + mark if order == "SOV" else mark + place
        verb = say(clause.verb, "verb")
        if clause.negated:
            verb = say(NEGATION, "negation") + verb
        parts = {"S": say(clause.subject, "subject"), "V": verb, "O": noun_phrase + say(clause.state, "state")}
        core = [word for letter in order for word in parts[letter]]
        time = say(clause.time, "time")
        front = bool(time) and choose(TIME_FIRST, 2) == 1
        return time + core + place if front else core + place + time

    def sentence(self, clause: Clause, choose: Chooser) -> str:
        """The clause as text, tokens apart by one space."""
        return " ".join(word.text for word in self.words(clause, choose))


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

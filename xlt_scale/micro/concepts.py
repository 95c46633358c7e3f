"""What the micro world is made of: its concepts, grouped by the part of the world they belong to.

The intermediate task lives in the part of things and their kinds, the target tasks in the parts of feelings and of
topics. The parts share only people, modifiers of time and the frame of a sentence, so a gain on a target task cannot
come from having seen its words with labels before.
"""

from collections.abc import Mapping

# Proper names and numbers are written alike in every language, as they nearly are in real text.
NAMES = ("anra", "bemil", "corto", "dalva", "elun", "fisko", "garo", "hilda")
NUMBERS = ("2", "3", "4", "5", "6")

PEOPLE = ("teacher", "farmer", "doctor", "child", "king", "sailor")
TIMES = ("today", "yesterday", "soon", "often")

# The part of things: every thing is of one kind.
KINDS: Mapping[str, tuple[str, ...]] = {
    "animal": ("dog", "cat", "horse", "goat", "bear"),
    "fruit": ("apple", "pear", "plum", "cherry", "grape"),
    "tool": ("hammer", "saw", "knife", "shovel", "needle"),
    "vehicle": ("cart", "train", "sled", "bicycle", "wagon"),
    "garment": ("coat", "shirt", "hat", "glove", "scarf"),
}
THINGS = tuple(thing for things in KINDS.values() for thing in things)
KIND_OF: Mapping[str, str] = {thing: kind for kind, things in KINDS.items() for thing in things}
HANDLING = ("sees", "finds", "keeps", "carries", "wants", "paints")
QUALITIES = ("big", "small", "red", "white", "old")

# The part of feelings: every state and every deed is good or bad.
STATES: Mapping[str, tuple[str, ...]] = {
    "positive": ("happy", "kind", "brave", "calm", "healthy"),
    "negative": ("sad", "cruel", "afraid", "angry", "sick"),
}
DEEDS: Mapping[str, tuple[str, ...]] = {
    "positive": ("praises", "helps", "thanks"),
    "negative": ("insults", "hurts", "blames"),
}
LINKS = ("is", "seems", "becomes")
NEGATION = "not"

# The part of topics: every word has one topic, every noun one synonym.
TOPIC_NOUNS: Mapping[str, tuple[str, ...]] = {
    "sea": ("boat", "shore", "wave", "harbour"),
    "farm": ("field", "barn", "seed", "crop"),
    "school": ("book", "lesson", "pupil", "exam"),
    "market": ("shop", "price", "coin", "stall"),
}
TOPIC_VERBS: Mapping[str, tuple[str, ...]] = {
    "sea": ("sails", "anchors"),
    "farm": ("sows", "reaps"),
    "school": ("teaches", "studies"),
    "market": ("sells", "pays"),
}
SYNONYMS: Mapping[str, str] = {
    "boat": "ship",
    "shore": "coast",
    "wave": "swell",
    "harbour": "port",
    "field": "meadow",
    "barn": "shed",
    "seed": "grain",
    "crop": "harvest",
    "book": "volume",
    "lesson": "class",
    "pupil": "student",
    "exam": "test",
    "shop": "store",
    "price": "cost",
    "coin": "money",
    "stall": "booth",
}
PLACE_MARK = "at"

# One tuple per word class: cognates are spread evenly over the classes, so that no task is favoured by chance.
CLASSES: tuple[tuple[str, ...], ...] = (
    PEOPLE,
    TIMES,
    tuple(KINDS),
    THINGS,
    HANDLING,
    QUALITIES,
    STATES["positive"] + STATES["negative"],
    DEEDS["positive"] + DEEDS["negative"],
    (*LINKS, NEGATION, PLACE_MARK),
    tuple(noun for nouns in TOPIC_NOUNS.values() for noun in nouns),
    tuple(verb for verbs in TOPIC_VERBS.values() for verb in verbs),
)


def forms_in_english(concept: str) -> tuple[str, ...]:
    """The words of the source language for a concept: one, or a pair of synonyms."""
    return (concept, SYNONYMS[concept]) if concept in SYNONYMS else (concept,)

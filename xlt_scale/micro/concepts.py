"""What the micro world is made of: its concepts, grouped by the part of the world they belong to.

The intermediate tasks live in the part of things and their kinds, the target tasks in the parts of feelings and of
topics. The parts share only people, question words, modifiers of time and the frame of a sentence, so a gain on a
target task cannot come from having seen its words with labels before.
"""

from collections.abc import Mapping

# Proper names and numbers are written alike in every language, as they nearly are in real text.
NAMES = ("anra", "bemil", "corto", "dalva", "elun", "fisko", "garo", "hilda")
NUMBERS = ("2", "3", "4", "5", "6")

PEOPLE = ("teacher", "farmer", "doctor", "child", "king", "sailor")
TIMES = ("today", "yesterday", "soon", "often")
# A question says one of these in the place of what it asks for, in every language alike.
WHO, WHAT, WHERE = "who", "what", "where"

# The part of things: every thing is of one kind, and what is done to things follows a fixed order, round and round.
KINDS: Mapping[str, tuple[str, ...]] = {
    "animal": ("dog", "cat", "horse", "goat", "bear"),
    "fruit": ("apple", "pear", "plum", "cherry", "grape"),
    "tool": ("hammer", "saw", "knife", "shovel", "needle"),
    "vehicle": ("cart", "train", "sled", "bicycle", "wagon"),
    "garment": ("coat", "shirt", "hat", "glove", "scarf"),
}
THINGS = tuple(thing for things in KINDS.values() for thing in things)
KIND_OF: Mapping[str, str] = {thing: kind for kind, things in KINDS.items() for thing in things}
HANDLING = ("sees", "wants", "finds", "carries", "keeps", "paints")
NEXT_DEED: Mapping[str, str] = dict(zip(HANDLING, HANDLING[1:] + HANDLING[:1], strict=True))
QUALITIES = ("big", "small", "red", "white", "old")
# Some things, and all that is done to them, have two words.
SYNONYMS: Mapping[str, str] = {
    "dog": "hound",
    "horse": "steed",
    "goat": "kid",
    "apple": "pippin",
    "pear": "quince",
    "plum": "damson",
    "hammer": "mallet",
    "knife": "blade",
    "shovel": "spade",
    "cart": "carriage",
    "sled": "sleigh",
    "bicycle": "bike",
    "coat": "cloak",
    "hat": "cap",
    "glove": "mitten",
    "sees": "spots",
    "wants": "desires",
    "finds": "discovers",
    "carries": "hauls",
    "keeps": "holds",
    "paints": "colours",
}
THINGS_WITH_SYNONYM = tuple(thing for thing in THINGS if thing in SYNONYMS)

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

# The part of topics: every word has one topic.
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
ALL_TOPIC_NOUNS = tuple(noun for nouns in TOPIC_NOUNS.values() for noun in nouns)
ALL_TOPIC_VERBS = tuple(verb for verbs in TOPIC_VERBS.values() for verb in verbs)
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
    (*LINKS, NEGATION, PLACE_MARK, WHO, WHAT, WHERE),
    ALL_TOPIC_NOUNS,
    ALL_TOPIC_VERBS,
)


def forms_in_english(concept: str) -> tuple[str, ...]:
    """The words of the source language for a concept: one, or a pair of synonyms."""
    return (concept, SYNONYMS[concept]) if concept in SYNONYMS else (concept,)

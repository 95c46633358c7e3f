"""Sentences of a passage, found simply."""

import re

# What ends a sentence, with what may close after it, before white space; scripts without spaces need none after it.
_END = re.compile(r"""[.!?…؟۔։।॥።]+["'”’»)\]]*(?=\s)|[。！？｡]+["'”’」』）]*""")


def sentence_breaks(text: str) -> list[tuple[int, int]]:
    """(first character, character after the last) of each sentence, without the white space around it.

    A sentence ends after a full stop, question or exclamation mark (also Arabic, Urdu, Armenian, Devanagari and
    Ethiopic ones) that white space follows, or after a Chinese or Japanese one. This also cuts after abbreviations;
    LAReQA cuts its English training passages with a splitter of its own. A passage without any end is one sentence.
    """
    breaks = []
    start = 0
    for stop in [*(match.end() for match in _END.finditer(text)), len(text)]:
        sentence = text[start:stop]
        stripped = sentence.strip()
        if stripped:
            begin = start + len(sentence) - len(sentence.lstrip())
            breaks.append((begin, begin + len(stripped)))
        start = stop
    return breaks

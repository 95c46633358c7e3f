"""What is known of ladders and sizes, in words, and as the tables of docs/ladders.md.

python -m xlt_scale.sizes.words docs/ladders.md writes the tables into the page.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from xlt_scale.sizes.ladders import LADDERS, SIZES, Ladder
from xlt_scale.sizes.model_size import ModelSize

TABLES_BEGIN = "## Every size\n"
_ABOVE = {"both": "both counts", "total": "the total alone", "": "-"}


def languages_in_words(ladder: Ladder) -> str:
    """Which languages it was pre-trained on, and whether mostly on English; '' where nothing was pre-trained."""
    english = {"yes": ", mostly English", "no": "", "unknown": ", share of English not known"}[ladder.mostly_english]
    return "" if ladder.pretraining == "none" else ladder.languages + english


def padding_in_words(ladder: Ladder) -> str:
    """Whether it runs on real tokens only, and why not."""
    return "unpadded" if ladder.unpadded else f"padded: {ladder.why_padded}"


def positions_in_words(size: ModelSize) -> str:
    """How many tokens a sequence may have."""
    return str(size.num_position_slots) if size.num_position_slots else "no limit"


def unverified_in_words(ladder: Ladder, members: Sequence[ModelSize]) -> str:
    """Facts of the ladder and of these members that no source was found for; '' = none."""
    of_members = [f"{size.name}: {', '.join(what)}" for size in members if (what := ladder.sizes[size.name].unverified)]
    return "; ".join([*ladder.unverified, *of_members])


def tables() -> str:
    """The last part of docs/ladders.md: a table for each family, and what is confounded in it."""
    return "\n".join([TABLES_BEGIN + _HOW_TO_READ, *(_table(ladder) for ladder in LADDERS.values())])


_HOW_TO_READ = """Written by `python -m xlt_scale.sizes.words docs/ladders.md`; `xlt-scale sizes` prints the same.
`(?)`: something of this size is not verified, see below its table.
"""


def _table(ladder: Ladder) -> str:
    members = [SIZES[name] for name in ladder.sizes]
    facts = "; ".join(filter(None, [ladder.licence, languages_in_words(ladder), padding_in_words(ladder)]))
    about = f"{ladder.about} {facts[0].upper()}{facts[1:]}. Tokenizer: {ladder.tokenizer}."
    heads = ("size", "parameters", "without embeddings", "above 10 B by", "layers", "width", "positions", "hub name")
    lines = [f"### {ladder.family}", _wrapped(about), "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for size in members:
        name = f"`{size.name}`" + (" (?)" if ladder.sizes[size.name].unverified else "")
        counts = (f"{size.num_parameters:,}", f"{size.num_non_embedding_parameters:,}", _ABOVE[size.above_ten_billion])
        shape = (str(size.num_layers), str(size.hidden_size), positions_in_words(size))
        lines.append(f"| {' | '.join((name, *counts, *shape, size.hub_name or '-'))} |")
    notes: dict[str, list[str]] = {}
    for name, member in ladder.sizes.items():
        notes.setdefault(member.notes, []).append(f"`{name}`")
    if said := [f"{', '.join(names)}: {note}." for note, names in notes.items() if note]:
        lines += ["", _wrapped(" ".join(said))]
    if ladder.confounded:
        lines += ["", "Confounded:", *(_wrapped(f"- {what}", "  ") for what in ladder.confounded)]
    if unverified := unverified_in_words(ladder, members):
        lines += ["", _wrapped(f"Not verified: {unverified}.")]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    return fill(text, 140, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(page.read_text(encoding="utf-8").partition(TABLES_BEGIN)[0] + tables(), encoding="utf-8")

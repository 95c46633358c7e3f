"""Bitext mining: two collections of sentences with ids, and the gold pairs among them (BUCC)."""

from pathlib import Path

from xlt_scale.errors import UserError
from xlt_scale.tasks.examples import BitextExamples
from xlt_scale.tasks.text_files import lines_of


def read_bitext(path: Path, source_path: Path, gold_path: Path) -> BitextExamples:
    """The two sides (id, tab, sentence) and the gold pairs (id, tab, id of the source side).

    A sentence that occurs again on its side is dropped and counted; the first stays. Gold pairs are those of the file:
    one that names a dropped copy can no longer be found, as in XTREME, which moreover pairs no sentence that has
    copies.

    Raises:
        UserError: a line lacks its tab, an id is there twice, or a gold pair names an id that no sentence has.
    """
    ids, texts, all_ids = _read_side(path)
    source_ids, source_texts, all_source_ids = _read_side(source_path)
    pairs = []
    for number, line in enumerate(lines_of(gold_path), start=1):
        own, _, source = line.partition("\t")
        for name, known, file in ((own, all_ids, path), (source, all_source_ids, source_path)):
            if name not in known:
                raise UserError(
                    f"{gold_path}, line {number}: {name!r} is no id of {file.name}; do the files belong together?"
                )
        pairs.append((own, source))
    num_dropped = len(all_ids) - len(ids) + len(all_source_ids) - len(source_ids)
    return BitextExamples(ids, texts, source_ids, source_texts, pairs, num_dropped=num_dropped)


def _read_side(path: Path) -> tuple[list[str], list[str], set[str]]:
    """Ids and texts without repeated sentences, and all ids."""
    all_ids: set[str] = set()
    kept: dict[str, str] = {}
    for number, line in enumerate(lines_of(path), start=1):
        name, tab, text = line.partition("\t")
        if not tab:
            raise UserError(f"{path}, line {number}: expected an id, a tab, and a sentence")
        if name in all_ids:
            raise UserError(f"{path}, line {number}: id {name!r} is there twice; ids name the sentences")
        all_ids.add(name)
        kept.setdefault(text, name)
    return list(kept.values()), list(kept), all_ids

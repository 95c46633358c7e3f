"""One published file, in any format, as examples of the task's kind."""

from pathlib import Path

from xlt_scale.tasks.bitext_files import read_bitext
from xlt_scale.tasks.building import build_examples
from xlt_scale.tasks.entity_files import read_mentions
from xlt_scale.tasks.examples import Examples
from xlt_scale.tasks.layouts import TABLE_FORMATS, Columns, FileLayout
from xlt_scale.tasks.plain_files import (
    HELLASWAG_COLUMNS,
    TEXT_COLUMNS,
    TEXT_PAIR_COLUMNS,
    read_hellaswag_text,
    read_text,
    read_text_pair,
)
from xlt_scale.tasks.records import Records
from xlt_scale.tasks.sources import code_of, companion
from xlt_scale.tasks.spec import TaskSpec
from xlt_scale.tasks.squad import QUESTION_COLUMNS, read_qamr, read_squad
from xlt_scale.tasks.tables import read_table
from xlt_scale.tasks.tagged_files import TAGGED_COLUMNS, read_conllu, read_words


def read_file(spec: TaskSpec, path: Path, layout: FileLayout, language: str, name: str = "") -> Examples:
    """The examples of one file of the layout, in file order.

    Args:
        name: what the names of candidates begin with; default: the language.

    Raises:
        UserError: the file is missing, empty, broken, or holds what the task does not allow; with file and line.
    """
    code = code_of(spec, layout, language)
    if layout.format == "bitext":
        pair, gold = (companion(path, layout, text, code) for text in (layout.pair_pattern, layout.gold_pattern))
        return read_bitext(path, pair, gold)
    if layout.format == "mentions":
        return read_mentions(path, code)
    records, columns = _read_records(spec, path, layout, language, code)
    return build_examples(spec, layout.split, records, columns, name or language, code)


def read_tags(spec: TaskSpec, path: Path, layout: FileLayout, language: str) -> set[str]:
    """Every tag of a file of tagged words."""
    records, columns = _read_records(spec, path, layout, language, code_of(spec, layout, language))
    assert isinstance(columns.tags, str | int)
    return {tag for tags in records.column(columns.tags) for tag in tags}


def _read_records(spec: TaskSpec, path: Path, layout: FileLayout, language: str, code: str) -> tuple[Records, Columns]:
    """The records of a file, and which of their columns hold what."""
    if layout.format in TABLE_FORMATS:
        return read_table(path, layout), layout
    columns: Columns
    match layout.format:
        case "words":
            known = {*spec.labels, *spec.label_aliases}
            records, columns = read_words(path, layout, known, [f"{language}:", f"{code}:"]), TAGGED_COLUMNS
        case "conllu":
            records, columns = read_conllu(path), TAGGED_COLUMNS
        case "squad" | "squad_sentences":
            records, columns = read_squad(path), QUESTION_COLUMNS
        case "qamr":
            sentences = companion(path, layout, layout.pair_pattern, code)
            records, columns = read_qamr(path, sentences), QUESTION_COLUMNS
        case "hellaswag_text":
            records, columns = read_hellaswag_text(path), HELLASWAG_COLUMNS
        case "text" if layout.pair_pattern:
            pair = companion(path, layout, layout.pair_pattern, code)
            records, columns = read_text_pair(path, pair), TEXT_PAIR_COLUMNS
        case "text":
            records, columns = read_text(path), TEXT_COLUMNS
        case _:
            raise ValueError(f"format {layout.format!r} holds no examples")
    rules = ("where", "where_prefix", "drop_where", "values", "find_answers")
    return records, columns.model_copy(update={name: getattr(layout, name) for name in rules})

"""How the examples of a task are published: which files or hub data set, in which format, in which columns."""

from typing import Literal

from pydantic import Field, model_validator

from xlt_scale.config import Options

TaskKind = Literal[
    "masked_language_modeling",
    "classification",
    "regression",
    "multiple_choice",
    "span",
    "tagging",
    "retrieval",
    "bitext_mining",
    "dual_encoding",
]
Split = Literal["train", "dev", "test"]
Format = Literal[
    "tsv",
    "csv",
    "jsonl",
    "json",
    "text",
    "words",
    "conllu",
    "squad",
    "squad_sentences",
    "hellaswag_text",
    "qamr",
    "bitext",
    "mentions",
    "candidates",
]

Column = str | int | list[str | int]
"""A column by name or, in files without a header, by number (from 0; negative ones count from the end). A dotted name
goes down into nested JSON ('question.stem'), and through a list of objects collects a list ('question.choices.text').
A list of columns is joined by a space; empty ones are left out."""

TABLE_FORMATS: frozenset[Format] = frozenset({"tsv", "csv", "jsonl", "json"})
"""Formats whose columns the declaration names; the others know their own."""

KINDS_OF_FORMAT: dict[Format, frozenset[TaskKind]] = {
    "text": frozenset({"masked_language_modeling", "retrieval"}),
    "words": frozenset({"tagging"}),
    "conllu": frozenset({"tagging"}),
    "squad": frozenset({"span", "dual_encoding"}),
    "squad_sentences": frozenset({"span", "dual_encoding"}),
    "hellaswag_text": frozenset({"multiple_choice"}),
    "qamr": frozenset({"span"}),
    "bitext": frozenset({"bitext_mining"}),
    "mentions": frozenset({"dual_encoding"}),
    "candidates": frozenset({"dual_encoding"}),
}
"""What a format that is no table can be read for."""


class Columns(Options):
    """Which columns of a record hold what; which of them are read depends on the task's kind.

    A label is looked up as it is spelt in the file among the task's `labels` and `label_aliases`. Of a multiple choice
    task `labels` are the spellings of the choices in their order (["A", "B", "C"]); without them a label is the number
    of the choice, from 0; a label that is neither may be the text of the choice itself.
    """

    text: Column = Field(0, description="first text; of a span task the question, of a choice task what comes before")
    text_pair: Column | None = Field(
        None, description="second text; of a span task the passage, of a ranking task the candidate that is the answer"
    )
    label: Column | None = Field(None, description="class, number (regression), or which choice is right")
    choices: Column | list[Column] | None = Field(
        None, description="multiple choice: a list of columns, one per choice, or one column that holds a list"
    )
    id: Column | None = Field(
        None, description="span, ranking: what names the question or query; default: its number from 0"
    )
    answers: Column | None = Field(
        None, description="span: SQuAD's answers ({text, answer_start} or a list of them), or the text of the answer"
    )
    answer_start: Column | None = Field(
        None, description="span, where `answers` is a text: the character it begins at; default: where it first occurs"
    )
    find_answers: bool = Field(
        False,
        description="span: look in the passage for an answer that is not at its character; the nearest place is taken "
        "and counted; else it is an error",
    )
    candidate_id: Column | None = Field(None, description="ranking: what names the candidate; default: by its text")
    context: Column | None = Field(None, description="ranking: a second text that goes with the candidate")
    words: Column | None = Field(None, description="tagging: list of words; format 'words': number of the column")
    tags: Column | None = Field(
        None, description="tagging: list of tags, one per word; format 'words': number of the column"
    )
    where: dict[str, str] = Field(
        default_factory=dict, description="keep rows whose column has this value; {language} is filled in"
    )
    where_prefix: dict[str, str] = Field(
        default_factory=dict, description="keep rows whose column begins so; {language} is filled in"
    )
    drop_where: dict[str, list[str]] = Field(
        default_factory=dict, description="rows whose column has one of these values are dropped and counted"
    )
    values: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="column -> {value in the file: text that stands for it}"
    )
    languages: list[str] = Field(
        default_factory=list,
        description="languages it holds; default: every one where {language} occurs in it, else the source language",
    )
    language_codes: dict[str, str] = Field(
        default_factory=dict, description="codes or names that {language} stands for here, if not the task's"
    )

    def has(self, language: str) -> bool:
        """Whether it says which rows are of that language."""
        if self.languages:
            return language in self.languages
        return any("{language}" in text for text in self._texts_with_language())

    def _texts_with_language(self) -> list[str]:
        return [*self.where.values(), *self.where_prefix.values()]


class FileLayout(Columns):
    """One way in which a split of a task is published as files."""

    split: Split
    pattern: str = Field(
        description="path below the data root, or an absolute one; {language} is filled in; * matches within a name, "
        "and all files that match are read in the order of their sorted paths"
    )
    format: Format = "tsv"
    header: bool = Field(False, description="the first line of a tsv or csv file names the columns")
    pair_pattern: str = Field("", description="format 'text', 'bitext', 'qamr': a second file that goes with the first")
    gold_pattern: str = Field("", description="format 'bitext': the file of gold pairs")

    def _texts_with_language(self) -> list[str]:
        # Mentions say their language themselves.
        own = "{language}" if self.format == "mentions" else ""
        return [self.pattern, own, *super()._texts_with_language()]

    @model_validator(mode="after")
    def _has_its_other_files(self) -> "FileLayout":
        if self.format in ("bitext", "qamr") and not self.pair_pattern:
            raise ValueError(f"files of format {self.format!r} need pair_pattern, the file that goes with the first")
        if self.format == "bitext" and not self.gold_pattern:
            raise ValueError("files of format 'bitext' need gold_pattern, the file of gold pairs")
        if "*" in self.pattern and (self.pair_pattern or self.gold_pattern):
            raise ValueError("a pattern with * matches several files, which have no pair_pattern or gold_pattern")
        return self


class HubLayout(Columns):
    """Where a task lies on the Hugging Face hub.

    Where the data set names the classes of a column, its numbers are read by these names if the task knows any of them
    as a label or alias; otherwise a class is spelt as its number.
    """

    dataset: str
    config: str = Field("", description="configuration name; {language} is filled in")
    revision: str = Field(
        "",
        description="commit, tag or branch; '' = the newest, recorded when resolved; 'refs/convert/parquet' where the "
        "data set is a script, which `datasets` no longer runs",
    )
    splits: dict[Split, str] = Field(description="our split -> its name there; a+b is both, one after another")
    text: Column = "text"
    label: Column | None = "label"

    def _texts_with_language(self) -> list[str]:
        return [self.config, *self.splits.values(), *super()._texts_with_language()]


def missing_columns(kind: TaskKind, columns: Columns) -> list[str]:
    """Names of the columns that a task of that kind needs and the declaration of a table does not give."""
    needed = {
        "classification": ["label"],
        "regression": ["label"],
        "multiple_choice": ["choices", "label"],
        "span": ["text_pair", "answers"],
        "tagging": ["words", "tags"],
        "bitext_mining": ["text_pair"],
        "retrieval": ["text_pair"],
        "dual_encoding": ["text_pair"],
    }
    return [name for name in needed.get(kind, []) if getattr(columns, name) is None]

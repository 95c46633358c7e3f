"""The declaration of a task: a task is data, not a class."""

from typing import Literal

from pydantic import Field, model_validator

from xlt_scale.config import Options

TaskKind = Literal["masked_language_modeling", "classification", "multiple_choice", "span", "tagging", "retrieval"]
Split = Literal["train", "dev", "test"]
Column = str | int


class FileLayout(Options):
    """One way in which a split of a task is published as files."""

    split: Split
    pattern: str = Field(description="path below the data root; {language} is filled in")
    format: Literal["tsv", "csv", "jsonl", "text"] = "tsv"
    header: bool = Field(False, description="the first line of a tsv or csv file names the columns")
    text: Column = 0
    text_pair: Column | None = None
    label: Column | None = None
    where: dict[str, str] = Field(default_factory=dict, description="keep rows whose column has this value")
    pair_pattern: str = Field("", description="format 'text': a second file, line by line the pair of the first")


class HubLayout(Options):
    """Where a task lies on the Hugging Face hub."""

    dataset: str
    config: str = Field("", description="configuration name; {language} is filled in")
    revision: str = Field("", description="commit, tag or branch; '' = the newest, recorded when resolved")
    splits: dict[Split, str]
    text: str = "text"
    text_pair: str = ""
    label: str = "label"


class TaskSpec(Options):
    """What is learned or scored, and where its examples are found."""

    name: str
    kind: TaskKind
    description: str = ""
    head: str = Field("", description="tasks with one head name share their head; default: the task's name")
    labels: list[str] = Field(default_factory=list, description="label words in the order of the classes")
    label_aliases: dict[str, str] = Field(default_factory=dict, description="spellings in files -> label word")
    unlabelled: list[str] = Field(default_factory=list, description="rows with these labels are dropped and counted")
    metric: Literal["loss", "accuracy"] = "accuracy"
    languages: list[str] = Field(default_factory=list, description="[] = every language there is a file for")
    language_codes: dict[str, str] = Field(default_factory=dict, description="code in file and hub names, if another")
    source_language: str = "en"
    parallel: bool = Field(False, description="row i of a split is the same item in every language")
    evaluation_split: Split = Field("test", description="the split that is scored, when its labels are public")
    generator: Literal["", "micro"] = Field("", description="'micro': files are written by the micro benchmark")
    files: list[FileLayout] = Field(default_factory=list)
    hub: list[HubLayout] = Field(default_factory=list, description="tried in order, first with the split wins")
    join_lines: bool = Field(False, description="masked language modelling: fill sequences with consecutive lines")

    @model_validator(mode="after")
    def _is_consistent(self) -> "TaskSpec":
        if self.kind == "classification" and len(self.labels) < 2:
            raise ValueError(f"task {self.name!r}: a classification task needs at least two labels")
        if self.kind == "classification" and any(layout.label is None for layout in self.files):
            raise ValueError(f"task {self.name!r}: every file layout of a classification task needs its label column")
        if self.join_lines and any(layout.text_pair is not None or layout.pair_pattern for layout in self.files):
            raise ValueError(f"task {self.name!r}: join_lines is for single texts, not for pairs; remove one of them")
        for alias, label in self.label_aliases.items():
            if label not in self.labels:
                raise ValueError(f"task {self.name!r}: alias {alias!r} stands for {label!r}, which is no label of it")
        if not self.head:
            object.__setattr__(self, "head", "mlm" if self.kind == "masked_language_modeling" else self.name)
        return self

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing, where it is known from the declaration alone."""
        return 1.0 / len(self.labels) if self.kind == "classification" else None

"""The declaration of a task: a task is data, not a class."""

from typing import Literal

from pydantic import Field, model_validator

from xlt_scale.config import Count, Options, Positive
from xlt_scale.tasks.layouts import (
    KINDS_OF_FORMAT,
    TABLE_FORMATS,
    Column,
    Columns,
    FileLayout,
    Format,
    HubLayout,
    Split,
    TaskKind,
    missing_columns,
)

__all__ = ["Column", "Columns", "FileLayout", "HubLayout", "Metric", "Split", "TaskKind", "TaskSpec", "TaskType"]

Metric = Literal[
    "loss",
    "accuracy",
    "accuracy_and_f1",
    "correlation",
    "entity_f1",
    "tagging_f1",
    "token_accuracy",
    "squad",
    "squad_v2",
    "mlqa",
    "bitext_accuracy",
    "bitext_mining",
    "map_at_20",
]
TaskType = Literal[
    "",
    "language modeling",
    "natural language inference",
    "paraphrase",
    "sentiment",
    "similarity",
    "question answering",
    "commonsense",
    "tagging",
    "retrieval",
    "classification",
]

DEFAULT_METRICS: dict[TaskKind, Metric] = {
    "masked_language_modeling": "loss",
    "classification": "accuracy",
    "regression": "correlation",
    "multiple_choice": "accuracy",
    "span": "squad",
    "tagging": "entity_f1",
    "retrieval": "bitext_accuracy",
    "bitext_mining": "bitext_mining",
    "dual_encoding": "map_at_20",
}


class TaskSpec(Options):
    """What is learned or scored, and where its examples are found."""

    name: str
    kind: TaskKind
    description: str = ""
    head: str = Field("", description="tasks with one head name share their head; default: the task's name")
    labels: list[str] = Field(
        default_factory=list,
        description="label words in the order of the classes; of multiple choice the spellings of the choices in their "
        "order, [] = numbers from 0; of tagging [] = every tag in the source language's files",
    )
    label_aliases: dict[str, str] = Field(
        default_factory=dict, description="spellings in files -> label word (multiple choice without labels: -> number)"
    )
    unlabelled: list[str] = Field(default_factory=list, description="rows with these labels are dropped and counted")
    metric: Metric = Field("accuracy", description="how predictions are scored; default: by kind")
    max_length: int = Field(0, description="tokens per sequence of this task; 0 = model.max_length")
    stride: int = Field(128, description="span: tokens that neighbouring windows of a long passage share")
    no_answer: bool = Field(False, description="span: questions may have no answer in the passage")
    languages: list[str] = Field(default_factory=list, description="[] = every language there is a file for")
    language_codes: dict[str, str] = Field(default_factory=dict, description="code in file and hub names, if another")
    source_language: str = "en"
    translations: bool = Field(
        False, description="other languages than the declared ones may be trained on where a file of them is there"
    )
    parallel: bool = Field(False, description="row i of a split is the same item in every language")
    evaluation_split: Split = Field("test", description="the split that is scored, when its labels are public")
    split_shares: dict[Split, Positive] = Field(
        default_factory=dict,
        description="cut one published split at random: {train = 0.7, test = 0.3} of `shared_split`, by split_seed; "
        "examples with the same first text (passage, context, premise) stay together unless the task is parallel",
    )
    shared_split: Split = Field("train", description="the published split that split_shares cuts")
    split_seed: Count = 1
    generator: Literal["", "micro"] = Field("", description="'micro': files are written by the micro benchmark")
    files: list[FileLayout] = Field(default_factory=list)
    hub: list[HubLayout] = Field(default_factory=list, description="tried in order, first with the split wins")
    parts: list[str] = Field(
        default_factory=list, description="the union of these tasks, one after another (ANLI+ = anli, mnli, snli)"
    )
    part_tasks: list["TaskSpec"] = Field(
        default_factory=list, description="declarations of the parts; filled in by the catalogue", repr=False
    )
    join_lines: bool = Field(False, description="masked language modelling: fill sequences with consecutive lines")
    type: TaskType = Field("", description="what is asked for")
    domain: Literal["general", "task-specific", "artificial"] = "general"
    source_text: str = Field("", description="where the texts come from")
    trained_by: list[str] = Field(
        default_factory=list, description="tasks that the benchmark trains for this one, one after another"
    )
    overlaps: dict[str, str] = Field(
        default_factory=dict, description="other task -> training data or passages that it shares with this one"
    )
    licence: str = ""
    substitute: str = Field("", description="a free task in place of one whose data are licensed")

    @model_validator(mode="after")
    def _is_consistent(self) -> "TaskSpec":
        problem = self._problem()
        if problem:
            raise ValueError(f"task {self.name!r}: {problem}")
        if not self.head:
            object.__setattr__(self, "head", "mlm" if self.kind == "masked_language_modeling" else self.name)
        if "metric" not in self.model_fields_set:
            object.__setattr__(self, "metric", DEFAULT_METRICS[self.kind])
        return self

    def _problem(self) -> str:
        """What does not hold together, or ''."""
        if self.kind == "classification" and len(self.labels) < 2 and not self.parts:
            return "a classification task needs at least two labels"
        if len(set(self.labels)) < len(self.labels):
            return "a label is given twice"
        if self.join_lines and any(layout.text_pair is not None or layout.pair_pattern for layout in self.files):
            return "join_lines is for single texts, not for pairs; remove one of them"
        counts_choices = self.kind == "multiple_choice" and not self.labels
        for alias, label in self.label_aliases.items():
            if label not in self.labels and not (counts_choices and label.isdecimal()) and not self.parts:
                return f"alias {alias!r} stands for {label!r}, which is no label of it"
        if self.parts and (self.files or self.hub):
            return "a task of parts has no files or hub of its own; remove one of them"
        if self.parts and self.split_shares:
            return "split_shares cut a task of its own files; declare them for the parts instead"
        if sum(self.split_shares.values()) > 1 + 1e-9:
            return "split_shares add up to more than 1"
        layouts: list[tuple[str, Columns]] = [("file", layout) for layout in self.files]
        for place, layout in [*layouts, *(("hub", hub) for hub in self.hub)]:
            problem = self._layout_problem(layout)
            if problem:
                return f"every {place} layout of a {self.kind} task {problem}"
        return ""

    def _layout_problem(self, layout: Columns) -> str:
        if isinstance(layout, FileLayout) and layout.format not in TABLE_FORMATS:
            if self.kind not in KINDS_OF_FORMAT[layout.format]:
                return f"is of another format than {layout.format!r}, which is for {_either(layout.format)}"
            if layout.format == "text" and self.kind == "retrieval" and not layout.pair_pattern:
                return "needs its pair_pattern, the file of the other side"
            return ""
        missing = missing_columns(self.kind, layout)
        if missing:
            return f"needs its {' and '.join(missing)} column{'s' if len(missing) > 1 else ''}"
        if self.kind == "multiple_choice" and layout.text_pair is not None:
            return "has no text_pair; give `text` a list of columns"
        return ""

    @property
    def is_trainable(self) -> bool:
        """Whether there is something to learn: retrieval by an encoder's own states has no head."""
        return self.kind not in ("retrieval", "bitext_mining")

    @property
    def num_classes(self) -> int:
        """Outputs of the task's head; 0 where their number is not the declaration's to say."""
        if self.kind == "regression":
            return 1
        return len(self.labels) if self.kind in ("classification", "tagging") else 0

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing, where it is known from the declaration alone."""
        return 1.0 / len(self.labels) if self.kind == "classification" else None


def _either(format: Format) -> str:
    return " or ".join(sorted(KINDS_OF_FORMAT[format]))

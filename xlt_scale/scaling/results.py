"""What a study's analysis reads and what it returns: the plain tables between records, statistics and report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

QuestionKind = Literal["size", "compare", "rank", "alignment", "grid"]
"""What a study asks: how gains change with size; how groups of arms differ; which group is best; whether gains are
larger where arm and target are of one group; the whole grid of arms and targets."""


@dataclass(frozen=True)
class SizeFacts:
    """A model size (or checkpoint) of the study.

    Attributes:
        family: architecture family ('XLM-R', 'Qwen3'); the model type where it is of no ladder.
        num_parameters: of the encoder, without pooler and heads.
        is_bidirectional_decoder: whether it is a decoder that is read in both directions.
    """

    name: str
    family: str
    is_pre_norm: bool
    num_parameters: int
    num_non_embedding_parameters: int
    is_bidirectional_decoder: bool = False


@dataclass(frozen=True)
class ArmFacts:
    """An arm of the study: what is trained before the target tasks.

    Attributes:
        tasks: the intermediate tasks, in the order of training; those of a mixture together; [] = the baseline.
        languages: what they are trained in.
        group: arms that a question compares together.
    """

    name: str
    label: str
    tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class TargetFacts:
    """A target of the study: what is trained for it and what it is scored on.

    Attributes:
        trained: the task trained; '' = nothing is, the encoder itself is scored (retrieval).
        tasks: the tasks scored.
        group: targets that are averaged together; the type of task by default.
        languages: what it is trained in.
    """

    name: str
    label: str
    trained: str
    tasks: tuple[str, ...]
    group: str
    languages: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskFacts:
    """A scored task: its scorer's headline metric, and whether item j is the same item in every language."""

    name: str
    type: str
    metric: str
    scorer: str
    is_parallel: bool
    source_language: str


@dataclass(frozen=True)
class StudyFacts:
    """What a study is about, without its records.

    Attributes:
        question: one sentence, as the user asks it.
        baseline: the arm that gains are taken against.
        reference_size: where log10(N / N_reference) is 0.
        seeds: by size the pairs (intermediate seed, target seed) that were planned.
        adapters: by size and arm what the arm's intermediate phases train in place of all weights ('lora-16'), by size
            and '' what the target phases do; phases that train all weights are left out.
        numbers: by size the kinds of numbers that its phases are trained in ('bf16 + adamw_8bit').
    """

    name: str
    question: str
    kind: QuestionKind
    baseline: str
    sizes: tuple[SizeFacts, ...]
    arms: tuple[ArmFacts, ...]
    targets: tuple[TargetFacts, ...]
    tasks: tuple[TaskFacts, ...]
    reference_size: str = ""
    seeds: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    adapters: Mapping[tuple[str, str], str] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)


class ItemSource(Protocol):
    """Outcomes item by item."""

    def values(self, records: Sequence[str], task: str, language: str) -> np.ndarray:
        """Item values of records, float32 [records, items], in points: the mean over items is the record's score.

        For F1 over counts they are the score plus each item's influence on it (2 c_j - F1 (p_j + g_j), scaled), so that
        resampling items is resampling rows whatever the metric.

        Raises:
            KeyError: a record has no outcomes of that task and language.
        """
        ...


RUN_COLUMNS = {
    "record": "name of the record",
    "size": "name of the size",
    "arm": "name of the arm",
    "target": "name of the target",
    "task": "scored task",
    "language": "ISO code",
    "intermediate_seed": "seed of the intermediate phases; of the baseline, that of the pair; -1 = of every pair",
    "target_seed": "seed of the target phase within its intermediate seed; -1 = of every pair",
    "rule": "checkpoint rule: last, best",
    "score": "headline metric, 0 to 100",
    "chance": "score of guessing; nan where not known",
    "is_trained_language": "whether the target phase was trained in this language; scores in others are zero-shot",
    "same_data": "'' or why arm and target share data: such cells are left out of headline means",
    "first_loss": "training loss at the start of the target phase; nan without training",
    "last_loss": "and at its end",
    "gpu_hours": "of the target phase, devices x hours; processor hours on CPUs",
    "arm_gpu_hours": "of the intermediate phases above it, each once however many targets follow",
    "tokens": "real tokens of the target phase",
}
"""Columns of `StudyResults.runs`: one row per record, scored task and language."""


@dataclass(frozen=True)
class StudyResults:
    """Everything that a study has measured so far.

    Attributes:
        runs: a row per record, task and language (`RUN_COLUMNS`).
        curves: learning curves: record, size, arm, target ('' = an intermediate phase), phase, step, share (of the
            phase's steps), loss, dev (nan where not scored).
        missing: planned runs without a record: size, arm, target, intermediate_seed, target_seed, why.
        record_paths: file of each record, relative to the study's folder.
        software: versions and revisions over all records: name, value, records.
    """

    facts: StudyFacts
    runs: pd.DataFrame
    items: ItemSource
    curves: pd.DataFrame
    missing: pd.DataFrame
    record_paths: Mapping[str, str]
    software: pd.DataFrame


ESTIMATE_COLUMNS = {
    "gain": "the estimate, in points unless `scale` says otherwise",
    "standard_error": "seeds and items together",
    "degrees_of_freedom": "Satterthwaite; nan where one seed leaves none",
    "low": "lower end of the 95 % interval",
    "high": "upper end",
    "p": "two-sided, unadjusted, of that t statistic",
    "p_permutation": "two-sided, sign flips over seeds and items; nan where not computed",
    "seed_share": "share of the variance that is the seeds'",
    "num_intermediate_seeds": "clusters",
    "num_pairs": "run pairs",
}

CELL_COLUMNS = {
    **{name: RUN_COLUMNS[name] for name in ("size", "arm", "target", "task", "language")},
    "language_family": "family of the language",
    "is_seen": "whether pre-training saw the language; None where not known",
    "is_trained_language": RUN_COLUMNS["is_trained_language"],
    "same_data": RUN_COLUMNS["same_data"],
    "base": "mean score of the baseline",
    "with_arm": "mean score of the arm",
    **ESTIMATE_COLUMNS,
    "p_bh": "Benjamini-Hochberg over all cells",
    "log_error_ratio": "log(error with) - log(error without); negative = fewer errors",
    "num_collapsed": "run pairs with a collapsed run",
    "records": "names of the records behind it: list of (baseline record, arm's record)",
}
"""One row per size, arm (not the baseline), target, task and language."""

GROUP_COLUMNS = {
    "size": "name of the size",
    "arm": "name of the arm",
    "group_kind": "task | target group | headline | family | seen | trained | gap",
    "group": "name of the task, target group or language family; 'all' of the headline",
    "task": "of kinds family, seen, trained, gap: the task, or 'all'",
    "base": "mean score of the baseline over the group",
    "with_arm": "mean score of the arm over the group",
    **ESTIMATE_COLUMNS,
    "p_holm": "Holm over the pre-registered rows (tasks of one size and arm); nan for others",
    "log_error_ratio": "mean over cells",
    "log_error_low": "its 95 % interval",
    "log_error_high": "",
    "num_cells": "cells averaged",
    "num_excluded": "cells left out because arm and target share data",
    "cells": "positions of the averaged rows in the table of cells: list of int",
}
"""One row per size, arm and group of cells. Means are over languages within a task, then over tasks within a group,
then over groups; languages that the target was trained in are left out wherever others remain (zero-shot)."""

SLOPE_COLUMNS = {
    "arm": "name of the arm; 'all' = the mean over arms that are not flagged",
    "group_kind": "as in the table of groups",
    "group": "as in the table of groups",
    "variant": "primary; else the sensitivity check: non-embedding, without SIZE, post-norm only, pre-norm only, "
    "without collapsed runs, ...",
    "family": "architecture family of the fitted sizes; '' = several, with one slope and an intercept for each",
    "scale": "points | log error",
    **ESTIMATE_COLUMNS,
    "gain": "slope b: change of the gain per tenfold parameters",
    "intercept": "gain at the reference size; nan of several families, each of which has one of its own",
    "p_falling": "one-sided p of b < 0 on points; of b > 0 on log error ratios (the advantage shrinks)",
    "lack_of_fit_p": "p of the straight line with four sizes or more; nan with fewer",
    "num_sizes": "sizes in the fit",
}
"""One row per arm, group, variant and scale: gain = a + b log10(N / N_reference); with several architecture families
gain = a_family + b log10(N / N_reference), except in the variants of one family and of one intercept."""

PREDICTION_COLUMNS = {
    "arm": "name of the arm",
    "group_kind": "as in the table of groups",
    "group": "as in the table of groups",
    "family": "architecture family whose line it is",
    "num_parameters": "the size that is asked about",
    "gain": "value of the fitted line, points",
    "low": "95 % confidence interval of the line",
    "high": "",
    "prediction_low": "95 % prediction interval of a new size",
    "prediction_high": "",
    "is_extrapolated": "outside the sizes that were run",
}


@dataclass(frozen=True)
class Answer:
    """What the report says first.

    Attributes:
        verdict: a few words: 'diminishes', 'grows', 'cannot tell', 'headroom only', 'no change', 'A better', ...
        sentences: the answer in plain sentences with numbers, intervals, level and numbers of seeds.
        caveats: what a sceptical reviewer would ask: one intermediate seed, architecture confounded with size, ...
    """

    verdict: str
    sentences: tuple[str, ...]
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class Analysis:
    """Everything that a report shows.

    Attributes:
        power: what this plan can detect, and what more would: quantity, group, value, unit, note.
        collapse: size, arm, target, num_runs, num_collapsed, rate, reasons, records (list).
        costs: size, arm, gpu_hours, gain, low, high, points_per_gpu_hour, unit ('GPU hours' or 'processor hours').
        extra: tables of the question's kind by title (comparisons of groups, ranks, alignment), each a DataFrame that
            the report prints as it is.
        methods: paragraphs with the exact numbers of seeds, items and tests.
        notes: what was left out or could not be computed, once each.
    """

    results: StudyResults
    answer: Answer
    cells: pd.DataFrame
    groups: pd.DataFrame
    slopes: pd.DataFrame
    predictions: pd.DataFrame
    collapse: pd.DataFrame
    costs: pd.DataFrame
    power: pd.DataFrame
    extra: Mapping[str, pd.DataFrame]
    methods: tuple[str, ...]
    notes: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

"""XTREME and XTREME-R: their tasks and languages, and how scores by language become task, group and benchmark scores.

A task's score is the plain mean over its languages with English among them; for question answering, of exact match
and F1. A benchmark's total is the plain mean of its tasks, not of its groups. Means of incomplete lists are given but
marked, and go into no group and no total.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from xlt_scale.evaluation.scorers import COUNTS, SCORERS
from xlt_scale.tasks.languages import describe

Values = Mapping[str, float]


@dataclass(frozen=True)
class BenchmarkTask:
    """A task in a benchmark. `languages` are in the order of XTREME's evaluator."""

    name: str
    metric: str
    languages: tuple[str, ...]
    group: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Benchmark:
    """Tasks whose scores have a mean."""

    name: str
    tasks: dict[str, BenchmarkTask]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Task names by group, in the benchmark's order."""
        groups: dict[str, list[str]] = {}
        for task in self.tasks.values():
            groups.setdefault(task.group, []).append(task.name)
        return groups


def _benchmark(name: str, *tasks: tuple[str, str, str, str]) -> Benchmark:
    return Benchmark(
        name,
        {
            task: BenchmarkTask(task, metric, tuple(codes.split()), group, "multiple_choice" if task == "xcopa" else "")
            for task, metric, group, codes in tasks
        },
    )


_XNLI = "ar bg de el en es fr hi ru sw th tr ur vi zh"
_UDPOS = "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh"
_PANX = (
    "ar he vi id jv ms tl eu ml ta te af nl en de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw yo my zh kk tr et "
    "fi hu"
)
_TATOEBA = "ar he vi id jv tl eu ml ta te af nl de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw zh kk tr et fi hu"
_XQUAD = "en es de el ru tr ar vi th zh hi"
_MLQA = "en es de ar hi vi zh"
_TYDIQA = "en ar bn fi id ko ru sw te"

XTREME = _benchmark(
    "xtreme",
    ("pawsx", "accuracy", "classification", "de en es fr ja ko zh"),
    ("xnli", "accuracy", "classification", _XNLI),
    ("panx", "entity_f1", "structured prediction", _PANX),
    ("udpos", "tagging_f1", "structured prediction", _UDPOS),
    ("bucc2018", "bitext_mining", "retrieval", "de fr ru zh"),
    ("tatoeba", "bitext_accuracy", "retrieval", _TATOEBA),
    ("xquad", "squad", "question answering", _XQUAD),
    ("mlqa", "mlqa", "question answering", _MLQA),
    ("tydiqa", "squad", "question answering", _TYDIQA),
)
XTREME_R = _benchmark(
    "xtreme-r",
    ("xnli", "accuracy", "classification", _XNLI),
    ("xcopa", "accuracy", "classification", "et ht id it qu sw ta th tr vi zh"),
    ("panx", "entity_f1", "structured prediction", f"{_PANX} qu pl uk az lt pa gu ro"),
    ("udpos", "tagging_f1", "structured prediction", f"{_UDPOS} lt pl uk wo ro"),
    ("xquad", "squad", "question answering", f"{_XQUAD} ro"),
    ("mlqa", "mlqa", "question answering", _MLQA),
    ("tydiqa", "squad", "question answering", _TYDIQA),
    ("tatoeba", "bitext_accuracy", "retrieval", f"{_TATOEBA} az lt pl uk ro"),
    ("mewslix", "map_at_20", "retrieval", "ar de en es fa ja pl ro ta tr uk"),
    ("lareqa", "map_at_20", "retrieval", "ar de el en es hi ru th tr vi zh"),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in (XTREME, XTREME_R)}


@dataclass(frozen=True)
class TaskSummary:
    """A task over its languages; every number is None where there is nothing to take it over.

    Attributes:
        by_language: the task value of each language that has scores, in the task's order.
        metrics: the mean over these languages of each metric that is no count.
        value: the mean of `by_language`: the task's score if `is_complete`.
        gap: score in the source language minus the mean of the others (cross-lingual gap); None without source
            language. `gap_seen`, `gap_unseen`: the same against the languages that are, or are not, in XLM-R's
            pre-training data.
        seen, unseen, families, scripts: means over languages other than the source language.
        missing: languages of the task without scores.
        extra: languages with scores that the task has not; they count nowhere.
    """

    name: str
    group: str
    by_language: dict[str, float]
    metrics: dict[str, float]
    value: float | None
    value_without_source: float | None
    gap: float | None
    gap_seen: float | None
    gap_unseen: float | None
    seen: float | None
    unseen: float | None
    families: dict[str, float]
    scripts: dict[str, float]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every language of the task has scores."""
        return not self.missing


@dataclass(frozen=True)
class BenchmarkSummary:
    """A benchmark over its tasks.

    Attributes:
        groups: mean of the tasks of each group, None unless all of them are complete.
        total: mean of the tasks, None unless all are complete. `total_without_source`: the same over the tasks'
            `value_without_source`.
        gap: mean cross-lingual gap of the tasks that have one, None unless all tasks are complete.
        families, scripts: mean over the tasks that have languages of the family or script.
        missing: one sentence for each task that is not complete.
    """

    name: str
    tasks: dict[str, TaskSummary]
    groups: dict[str, float | None]
    total: float | None
    total_without_source: float | None
    gap: float | None
    families: dict[str, float] = field(default_factory=dict)
    scripts: dict[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def task_value(metric: str, values: Values) -> float:
    """What counts as the score of a task in one language: the headline; for answers, the mean of exact match and F1."""
    if "exact_match" in values:
        return (values["exact_match"] + values["f1"]) / 2
    return values[SCORERS[metric].headline]


def summarise_task(task: BenchmarkTask, scores: Mapping[str, Values], source_language: str = "en") -> TaskSummary:
    """Means of a task over languages.

    Args:
        scores: language -> metric -> number.
        source_language: the language that was trained on; it stays out of gaps and of means by seen, family and script.
    """
    present = [language for language in task.languages if language in scores]
    by_language = {language: task_value(task.metric, scores[language]) for language in present}
    others = [language for language in present if language != source_language]
    seen = _mean(by_language[language] for language in others if describe(language).seen is True)
    unseen = _mean(by_language[language] for language in others if describe(language).seen is False)
    transferred = _mean(by_language[language] for language in others)
    names = [
        name
        for name in (scores[present[0]] if present else ())
        if name not in COUNTS and all(name in scores[language] for language in present)
    ]

    def gap(mean: float | None) -> float | None:
        return by_language[source_language] - mean if source_language in by_language and mean is not None else None

    return TaskSummary(
        name=task.name,
        group=task.group,
        by_language=by_language,
        metrics={name: fmean(scores[language][name] for language in present) for name in names},
        value=_mean(by_language.values()),
        value_without_source=transferred,
        gap=gap(transferred),
        gap_seen=gap(seen),
        gap_unseen=gap(unseen),
        seen=seen,
        unseen=unseen,
        families=_means_by(lambda code: describe(code).family, others, by_language),
        scripts=_means_by(lambda code: describe(code).script, others, by_language),
        missing=tuple(language for language in task.languages if language not in scores),
        extra=tuple(language for language in scores if language not in task.languages),
    )


def summarise_benchmark(benchmark: Benchmark, scores: Mapping[str, Mapping[str, Values]]) -> BenchmarkSummary:
    """Task, group and benchmark means.

    Args:
        scores: task -> language -> metric -> number; tasks that the benchmark has not are left out.
    """
    tasks = {name: summarise_task(task, scores.get(name, {})) for name, task in benchmark.tasks.items()}
    is_complete = all(task.is_complete for task in tasks.values())
    return BenchmarkSummary(
        name=benchmark.name,
        tasks=tasks,
        groups={
            group: _mean(tasks[name].value for name in names)
            if all(tasks[name].is_complete for name in names)
            else None
            for group, names in benchmark.groups.items()
        },
        total=_mean(task.value for task in tasks.values()) if is_complete else None,
        total_without_source=_mean(task.value_without_source for task in tasks.values()) if is_complete else None,
        gap=_mean(task.gap for task in tasks.values()) if is_complete else None,
        families=_means_over_tasks([task.families for task in tasks.values()]),
        scripts=_means_over_tasks([task.scripts for task in tasks.values()]),
        missing=tuple(_missing(task) for task in tasks.values() if not task.is_complete),
    )


def benchmark_totals(scores: Mapping[str, Mapping[str, Values]]) -> dict[str, dict[str, Any]]:
    """For each benchmark that any of the tasks belongs to, its total and group means, None while something is missing,
    and what is missing; as it stands in scores.json.

    Args:
        scores: task -> language -> metric -> number; languages without gold labels have no metric and count as missing.
    """
    totals = {}
    for name, benchmark in BENCHMARKS.items():
        own = {task: SCORERS[spec.metric].headline for task, spec in benchmark.tasks.items() if task in scores}
        scored = {
            task: {code: values for code, values in scores[task].items() if headline in values}
            for task, headline in own.items()
        }
        if scored:
            summary = summarise_benchmark(benchmark, scored)
            totals[name] = {
                "total": summary.total,
                "total_without_english": summary.total_without_source,
                "cross_lingual_gap": summary.gap,
                "groups": summary.groups,
                "missing": list(summary.missing),
            }
    return totals


def _missing(task: TaskSummary) -> str:
    if not task.by_language:
        return f"{task.name}: no scores"
    return f"{task.name}: no scores in {', '.join(task.missing)}"


def _mean(values: Iterable[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return fmean(given) if given else None


def _means_by(
    kind_of: Callable[[str], str], languages: Sequence[str], by_language: Mapping[str, float]
) -> dict[str, float]:
    kinds: dict[str, list[float]] = {}
    for language in languages:
        kinds.setdefault(kind_of(language), []).append(by_language[language])
    return {kind: fmean(kinds[kind]) for kind in sorted(kinds)}


def _means_over_tasks(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    kinds = sorted({kind for part in parts for kind in part})
    return {kind: fmean(part[kind] for part in parts if kind in part) for kind in kinds}

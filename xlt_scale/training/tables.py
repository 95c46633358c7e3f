"""The tables at the end of a run: scores by language, and the gains over a phase's baseline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from xlt_scale.config import RunOptions
from xlt_scale.tasks.languages import describe
from xlt_scale.training.setup import read_json

Scores = Mapping[str, Mapping[str, float]]
"""Metrics by language."""


def score_tables(folder: Path, options: RunOptions) -> list[Table]:
    """A table per scored task: languages by family, one column per phase, and the gain over a phase's baseline. Behind
    them the benchmarks' totals, by phase and for the run, which takes each task from the last phase scored on it.
    """
    files = {
        phase.name: read_json(folder / "phases" / phase.name / "scores.json")
        for phase in options.phases
        if phase.evaluate
    }
    baselines = {phase.name: phase.baseline for phase in options.phases if phase.baseline}
    scores = {phase: found.get("scores", {}) for phase, found in files.items()}
    headlines = {task: name for found in files.values() for task, name in _headlines(found).items()}
    tables = []
    for task, metric in headlines.items():
        by_phase = {phase: _with_metric(found[task], metric) for phase, found in scores.items() if task in found}
        if any(by_phase.values()):
            tables.append(_task_table(task, metric, by_phase, baselines))
    totals = {phase: found.get("benchmarks", {}) for phase, found in files.items()}
    if len(totals) > 1:
        totals["the run"] = read_json(folder / "scores.json").get("benchmarks", {})
    return tables + _benchmark_tables(totals)


def _benchmark_tables(by_phase: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Table]:
    """A table per benchmark of which some phase has a whole group: group means and total by phase."""
    tables = []
    for name in dict.fromkeys(name for found in by_phase.values() for name in found):
        found = {phase: totals[name] for phase, totals in by_phase.items() if name in totals}
        found = {
            phase: totals for phase, totals in found.items() if any(v is not None for v in totals["groups"].values())
        }
        if not found:
            continue
        groups = next(iter(found.values()))["groups"]
        rows = {group: [totals["groups"][group] for totals in found.values()] for group in groups}
        rows["total (mean of tasks)"] = [totals["total"] for totals in found.values()]
        table = Table(title=f"{name} (- where a task or language is missing)", title_justify="left")
        table.add_column("group")
        for phase in found:
            table.add_column(phase, justify="right", overflow="fold")
        for group, values in rows.items():
            table.add_row(group, *("-" if value is None else f"{value:.2f}" for value in values))
        tables.append(table)
    return tables


def _with_metric(scores: Scores, metric: str) -> Scores:
    """The languages that could be scored: data without gold labels have predictions only."""
    return {language: values for language, values in scores.items() if metric in values}


def _headlines(file: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    return file.get("request", {}).get("headlines", {})  # type: ignore[return-value]


def _task_table(task: str, metric: str, scores: Mapping[str, Scores], baselines: Mapping[str, str]) -> Table:
    gains = [(phase, base) for phase, base in baselines.items() if phase in scores and base in scores]
    languages = sorted(
        {language for found in scores.values() for language in found}, key=lambda code: (describe(code).family, code)
    )
    chances = {
        language: values["chance"]
        for found in scores.values()
        for language, values in found.items()
        if "chance" in values
    }
    table = Table(title=f"{task}: {metric.replace('_', ' ')}{_unit(metric)}", title_justify="left")
    table.add_column("language")
    table.add_column("family")
    if chances:
        table.add_column("chance", justify="right")
    for phase in scores:
        table.add_column(phase, justify="right", overflow="fold")
    for phase, base in gains:
        table.add_column(f"gain of {phase} over {base}", justify="right", overflow="fold")
    for language in languages:
        values = {phase: found[language][metric] for phase, found in scores.items() if language in found}
        chance = [f"{chances[language]:.1f}" if language in chances else ""] if chances else []
        table.add_row(language, describe(language).family, *chance, *_cells(values, list(scores), gains))
    common = [language for language in languages if all(language in found for found in scores.values())]
    if len(common) > 1:
        values = {phase: mean(found[language][metric] for language in common) for phase, found in scores.items()}
        chance = [f"{mean(chances[language] for language in common):.1f}"] if chances.keys() >= set(common) else [""]
        table.add_section()
        table.add_row(
            "mean", f"{len(common)} languages", *(chance if chances else []), *_cells(values, list(scores), gains)
        )
    return table


def _cells(values: Mapping[str, float], phases: Sequence[str], gains: Sequence[tuple[str, str]]) -> list[str]:
    cells = [f"{values[phase]:.1f}" if phase in values else "" for phase in phases]
    return cells + [
        f"{values[phase] - values[base]:+.1f}" if phase in values and base in values else "" for phase, base in gains
    ]


def _unit(metric: str) -> str:
    return "" if metric in ("pearson", "spearman") else " in percent"

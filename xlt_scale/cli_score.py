"""`xlt-scale score`: anybody's predictions against labels, in XTREME's file layout."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xlt_scale.errors import UserError, nearest

if TYPE_CHECKING:
    from xlt_scale.evaluation.benchmarks import BenchmarkSummary, TaskSummary
    from xlt_scale.evaluation.folder_scores import FolderScores


def score(
    predictions: Annotated[Path, typer.Argument(help="Folder with a folder per task, one task's folder, or a file.")],
    labels: Annotated[Path, typer.Argument(help="The labels, laid out and named alike.")],
    benchmark: Annotated[
        str, typer.Option(help="xtreme or xtreme-r: also the group means and the total.", show_default=False)
    ] = "",
    task: Annotated[
        str, typer.Option(help="The task, where the folder's name does not say it; or the only one to score.")
    ] = "",
    language: Annotated[str, typer.Option(help="Likewise the language.")] = "",
    metric: Annotated[str, typer.Option(help="How to score a task that is not declared (docs/scoring.md).")] = "",
    split: Annotated[str, typer.Option(help="Files are named SPLIT-LANGUAGE.tsv, .json or .jsonl.")] = "test",
    items: Annotated[
        Path | None, typer.Option(help="Folder for the outcome of every item, for paired tests.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Score prediction files against label files, yours or anybody's, in the layout of XTREME.

    The layout is TASK/test-LANGUAGE.tsv (.json for questions and rankings, .jsonl for xcopa). Give two folders of
    tasks, two folders of one task, or two files. Means by family and script are in the output of --json.

    Examples:

    xlt-scale score predictions labels --benchmark xtreme

    xlt-scale score predictions/xnli labels/xnli --items outcomes

    xlt-scale score sw.tsv gold.tsv --task xnli --language sw
    """
    from xlt_scale.evaluation.benchmarks import BENCHMARKS, summarise_benchmark, summarise_task
    from xlt_scale.evaluation.folder_scores import score_paths

    if benchmark and benchmark not in BENCHMARKS:
        raise UserError(f"benchmark {benchmark!r} is unknown; {nearest(benchmark, BENCHMARKS)}")
    found = score_paths(predictions, labels, task, language, metric, split)
    whole = summarise_benchmark(BENCHMARKS[benchmark], found.values) if benchmark else None
    in_benchmark = whole.tasks if whole else {}
    tasks = {
        name: in_benchmark.get(name) or summarise_task(found.tasks[name], found.values[name]) for name in found.scores
    }
    if items is not None:
        _write_items(found, items, split)
    if as_json:
        print(json.dumps(_as_json(found, tasks, whole), indent=1, ensure_ascii=False))
        return
    console = Console()
    if len(tasks) == 1:
        _print_one_task(console, found, next(iter(tasks.values())))
    else:
        _print_languages(console, tasks)
        _print_tasks(console, tasks)
    if whole:
        _print_benchmark(console, whole)
    for note in _notes(found, tasks, whole):
        console.print(f"[yellow]note[/yellow]  {escape(note)}", highlight=False, soft_wrap=True)


def _number(value: float | None, is_complete: bool = True) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if is_complete else f"({value:.2f})"


def _table(title: str, first: str, others: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _print_one_task(console: Console, found: "FolderScores", task: "TaskSummary") -> None:
    """Languages in rows, metrics in columns."""
    by_language = found.values[task.name]
    names = list(task.metrics) or list(next(iter(by_language.values())))
    table = _table(task.name, "language", [name.replace("_", " ") for name in names])
    for language in (*task.by_language, *task.extra):
        table.add_row(language, *(_number(by_language[language].get(name)) for name in names))
    if len(task.by_language) > 1 or task.missing:
        table.add_section()
        table.add_row("mean", *(_number(task.metrics.get(name), task.is_complete) for name in names))
    console.print(table)
    if len(task.by_language) > 1:
        parts = {
            "task score": task.value,
            "without English": task.value_without_source,
            "cross-lingual gap": task.gap,
            "seen languages": task.seen,
            "unseen languages": task.unseen,
        }
        said = ", ".join(
            f"{name} {_number(value, task.is_complete)}" for name, value in parts.items() if value is not None
        )
        console.print(said, highlight=False, soft_wrap=True)


def _print_languages(console: Console, tasks: dict[str, "TaskSummary"]) -> None:
    """Languages in rows, tasks in columns: there are far more languages. As many columns as fit beside each other."""
    languages = sorted({language for task in tasks.values() for language in task.by_language}, key=_english_first)
    summaries = list(tasks.values())
    number = max(1, (console.width - 8) // 11)
    title = "Score by language (questions: mean of exact match and F1)"
    for start in range(0, len(summaries), number):
        shown = summaries[start : start + number]
        table = _table(title if not start else "", "language", [task.name for task in shown])
        for language in languages:
            if any(language in task.by_language for task in shown):
                table.add_row(language, *(_number(task.by_language.get(language)) for task in shown))
        console.print(table)


def _english_first(language: str) -> tuple[bool, str]:
    return language != "en", language


def _print_tasks(console: Console, tasks: dict[str, "TaskSummary"]) -> None:
    columns = ["languages", "score", "without en", "gap", "seen", "unseen"]
    table = _table("Score by task (in parentheses: languages are missing)", "task", columns)
    for task in tasks.values():
        numbers = (task.value, task.value_without_source, task.gap, task.seen, task.unseen)
        table.add_row(
            task.name,
            f"{len(task.by_language)}/{len(task.by_language) + len(task.missing)}",
            *(_number(number, task.is_complete) for number in numbers),
        )
    console.print(table)
    several = [task for task in tasks.values() if len(task.metrics) > 1]
    for task in several:
        means = ", ".join(f"{name} {_number(value, task.is_complete)}" for name, value in task.metrics.items())
        console.print(f"[bold]{task.name}[/bold]  {means}", highlight=False, soft_wrap=True)
    if several:
        console.print()


def _print_benchmark(console: Console, whole: "BenchmarkSummary") -> None:
    table = _table(whole.name, "group", ["score"])
    for group, value in whole.groups.items():
        table.add_row(group, _number(value))
    table.add_section()
    table.add_row("total (mean of tasks)", _number(whole.total))
    table.add_row("total without English", _number(whole.total_without_source))
    table.add_row("cross-lingual gap", _number(whole.gap))
    console.print(table)


def _notes(found: "FolderScores", tasks: dict[str, "TaskSummary"], whole: "BenchmarkSummary | None") -> list[str]:
    """What is missing or was left out, each said once."""
    notes = list(found.notes)
    if whole and whole.missing:
        notes.append(f"{whole.name} is not complete, hence no total. " + "; ".join(whole.missing))
    for name, task in tasks.items():
        if task.missing and not (whole and name in whole.tasks):
            notes.append(f"{name}: labels but no predictions in {', '.join(task.missing)}")
        if task.extra:
            place = whole.name if whole else name
            notes.append(f"{name}: {', '.join(task.extra)} not in {place}, hence in no mean")
        if whole and name not in whole.tasks:
            notes.append(f"{name}: not in {whole.name}, hence in no mean of it")
    for name, by_language in found.values.items():
        for language, values in by_language.items():
            if values.get("missing"):
                notes.append(f"{name}, {language}: {values['missing']:.0f} items have no prediction and score 0")
            if values.get("unexpected"):
                notes.append(f"{name}, {language}: {values['unexpected']:.0f} predictions have ids without a label")
    return notes


def _as_json(
    found: "FolderScores", tasks: dict[str, "TaskSummary"], whole: "BenchmarkSummary | None"
) -> dict[str, Any]:
    from xlt_scale.evaluation.scorers import SCORERS

    result: dict[str, Any] = {"tasks": {}, "benchmark": None, "notes": _notes(found, tasks, whole)}
    for name, task in tasks.items():
        metric = found.tasks[name].metric
        result["tasks"][name] = {
            "metric": metric,
            "version": SCORERS[metric].version,
            "complete": task.is_complete,
            "scores": found.values[name],
            **{key: value for key, value in asdict(task).items() if key != "name"},
        }
    if whole:
        result["benchmark"] = {key: value for key, value in asdict(whole).items() if key != "tasks"}
    return result


def _write_items(found: "FolderScores", folder: Path, split: str) -> None:
    """One file of arrays for each language of each task: `<folder>/<task>/<split>-<language>.safetensors`."""
    from safetensors.numpy import save_file

    from xlt_scale.evaluation.scorers import SCORERS

    for name, by_language in found.scores.items():
        metric = found.tasks[name].metric
        (folder / name).mkdir(parents=True, exist_ok=True)
        for language, outcome in by_language.items():
            about = {"task": name, "language": language, "metric": metric, "version": SCORERS[metric].version}
            save_file(outcome.items, folder / name / f"{split}-{language}.safetensors", metadata=about)

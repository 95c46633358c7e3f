"""What earlier starts have scored of a phase: it stays, as long as it was scored in the way that is asked for now.

scores.json has, under "request", how each task was scored. Tasks and languages come together there from several starts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Scores = Mapping[str, Mapping[str, float]]
"""Metrics by language."""

Table = Mapping[str, Any]
"""What is in scores.json; {} where there is none."""


def left_to_score(table: Table, wanted: Mapping[str, Table]) -> dict[str, list[str]]:
    """The languages of each wanted task that have no scores yet, or others than those wanted; tasks without any are
    left out.

    Args:
        wanted: by task its languages, and beside them everything that decides its scores.
    """
    left = {}
    for task, request in wanted.items():
        there = table["scores"][task] if _was_scored_so(table, task, request) else {}
        languages = [language for language in request["languages"] if language not in there]
        if languages:
            left[task] = languages
    return left


def with_scores(table: Table, task: str, request: Table, scores: Scores) -> dict[str, dict[str, Any]]:
    """The "scores" and "tasks" of the table when a task has been scored in more languages; its scores of another way
    go.
    """
    earlier = table["scores"][task] if _was_scored_so(table, task, request) else {}
    together = {**earlier, **scores}
    order = [code for code in request["languages"] if code in together]
    order += [code for code in together if code not in order]
    requests = {**_tasks(table), task: {**request, "languages": order}}
    return {
        "scores": {**table.get("scores", {}), task: {code: together[code] for code in order}},
        "tasks": requests,
    }


def remove_outdated(folder: Path, table: Table, task: str, request: Table) -> None:
    """Remove what earlier starts have written of the task's split in another way: a folder of predictions is of one
    way. Called on rank 0.

    Raises:
        OSError: a file cannot be removed.
    """
    before = _tasks(table).get(task)
    if before is None or _was_scored_so(table, task, request) or before.get("split") != request["split"]:
        return
    for kind in ("predictions", "labels", "outcomes"):
        for language in before.get("languages", ()):
            for path in (folder / kind / task).glob(f"{before['split']}-{language}.*"):
                path.unlink()


def _was_scored_so(table: Table, task: str, request: Table) -> bool:
    """Whether the table has scores of the task that were made as the request says, in whatever languages."""
    before = _tasks(table).get(task)
    return (
        before is not None
        and task in table.get("scores", {})
        and {**before, "languages": ()} == {**request, "languages": ()}
    )


def _tasks(table: Table) -> Mapping[str, Table]:
    tasks: Mapping[str, Table] = table.get("request", {}).get("tasks", {})
    return tasks

"""What a run shows at its end, from the files of its phases."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from xlt_scale.config import RunOptions
from xlt_scale.evaluation.benchmarks import XTREME_R
from xlt_scale.evaluation.scorers import SCORERS
from xlt_scale.training.publishing import publish_scores
from xlt_scale.training.tables import score_tables

Scores = dict[str, dict[str, dict[str, float]]]


def options(**evaluated: list[str]) -> RunOptions:
    phases: list[dict[str, Any]] = [
        {"name": name, "task": "mnli", "steps": 1, "evaluate": tasks} for name, tasks in evaluated.items()
    ]
    if len(phases) > 1:
        phases[-1]["baseline"] = phases[0]["name"]
    return RunOptions.model_validate({"model": {"name": "somewhere"}, "phases": phases})


def write_scores(run: Path, phase: str, scores: Scores) -> None:
    folder = run / "phases" / phase
    for task, by_language in scores.items():
        for language in by_language:
            for name in ("predictions", "labels"):
                path = folder / name / task / f"test-{language}.tsv"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{name} of {phase}\n")
    metrics = {"tatoeba": "accuracy", "xnli": "accuracy", "tydiqa": "f1"}
    headlines = {task: metrics.get(task, "accuracy") for task in scores}
    table = {"scores": scores, "request": {"tasks": dict.fromkeys(scores), "headlines": headlines}}
    (folder / "scores.json").write_text(json.dumps(table))


def shown(run: Path, options: RunOptions) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    publish_scores(run, options)
    console.print(*score_tables(run, options), sep="\n")
    return console.export_text()


def accuracy(value: float, **facts: float) -> dict[str, float]:
    return {"accuracy": value, **facts}


def test_gains_and_means_are_over_the_languages_that_both_phases_have(tmp_path: Path) -> None:
    write_scores(tmp_path, "alone", {"xnli": {"de": accuracy(40.0, chance=33.3), "sw": accuracy(36.0, chance=33.3)}})
    write_scores(tmp_path, "after", {"xnli": {"de": accuracy(50.0), "sw": accuracy(37.0), "fr": accuracy(99.0)}})
    text = shown(tmp_path, options(alone=["xnli"], after=["xnli"]))
    assert "gain of after over alone" in text
    assert "+10.0" in text
    mean = next(line for line in text.splitlines() if "2 languages" in line)
    assert [cell.strip() for cell in mean.split("│") if "." in cell][-3:] == ["38.0", "43.5", "+5.5"]


def test_data_without_gold_labels_have_no_table(tmp_path: Path) -> None:
    write_scores(tmp_path, "only", {"tydiqa": {"ar": {"num_items": 5.0}}, "xnli": {"de": accuracy(40.0)}})
    text = shown(tmp_path, options(only=["tydiqa", "xnli"]))
    assert "xnli: accuracy in percent" in text
    assert "tydiqa" not in text


def test_the_run_shows_every_task_by_the_last_phase_scored_on_it(tmp_path: Path) -> None:
    write_scores(tmp_path, "first", {"xnli": {"de": accuracy(40.0)}, "tatoeba": {"de": accuracy(5.0)}})
    write_scores(tmp_path, "second", {"xnli": {"de": accuracy(50.0)}})
    publish_scores(tmp_path, options(first=["xnli", "tatoeba"], second=["xnli"]))
    table = json.loads((tmp_path / "scores.json").read_text())
    assert table["scores"]["xnli"]["de"]["accuracy"] == 50.0
    assert table["phases"] == {"xnli": "second", "tatoeba": "first"}
    assert (tmp_path / "predictions" / "xnli" / "test-de.tsv").read_text() == "predictions of second\n"
    assert (tmp_path / "labels" / "tatoeba" / "test-de.tsv").read_text() == "labels of first\n"


def test_links_of_an_earlier_start_are_replaced(tmp_path: Path) -> None:
    write_scores(tmp_path, "first", {"xnli": {"de": accuracy(40.0)}})
    (tmp_path / "predictions").symlink_to("phases/gone/predictions")
    for _ in range(2):
        publish_scores(tmp_path, options(first=["xnli"]))
    assert [path.name for path in (tmp_path / "predictions").rglob("*.tsv")] == ["test-de.tsv"]


def whole_benchmark(value: float) -> Scores:
    def values(metric: str) -> dict[str, float]:
        names = ("exact_match", "f1") if metric in ("squad", "mlqa") else (SCORERS[metric].headline,)
        return dict.fromkeys(names, value)

    return {name: {code: values(task.metric) for code in task.languages} for name, task in XTREME_R.tasks.items()}


def test_a_benchmark_whose_tasks_are_spread_over_phases_has_its_total(tmp_path: Path) -> None:
    scores = whole_benchmark(60.0)
    tasks = list(scores)
    parts = {"one": tasks[:4], "two": tasks[4:]}
    for phase, names in parts.items():
        write_scores(tmp_path, phase, {name: scores[name] for name in names})
    text = shown(tmp_path, options(**parts))
    of_xtreme_r = text.partition("xtreme-r")[2]
    total = next(line for line in of_xtreme_r.splitlines() if "total (mean of tasks)" in line)
    assert "60.00" in total
    assert json.loads((tmp_path / "scores.json").read_text())["benchmarks"]["xtreme-r"]["total"] == pytest.approx(60.0)


def test_a_missing_language_leaves_no_total_and_is_named(tmp_path: Path) -> None:
    scores = whole_benchmark(60.0)
    del scores["xnli"]["ur"]
    write_scores(tmp_path, "only", scores)
    publish_scores(tmp_path, options(only=list(scores)))
    totals = json.loads((tmp_path / "scores.json").read_text())["benchmarks"]["xtreme-r"]
    assert totals["total"] is None
    assert totals["missing"] == ["xnli: no scores in ur"]

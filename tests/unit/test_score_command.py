"""`xlt-scale score`, on hand-written folders and on the published mock files of XTREME."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from safetensors import safe_open
from typer.testing import CliRunner

from xlt_scale.cli_score import score
from xlt_scale.evaluation.benchmarks import XTREME, XTREME_R

app = typer.Typer()
app.command()(score)

# The expectation of XTREME's own test, evaluate_test.py.
PUBLISHED = {
    "pawsx": {"accuracy": 51.42857142857143},
    "xnli": {"accuracy": 30.666666666666668},
    "tatoeba": {"accuracy": 53.611111111111114},
    "bucc2018": {"f1": 55.0, "precision": 55.0, "recall": 55.0},
    "panx": {"f1": 57.50793650793652, "precision": 54.729166666666664, "recall": 62.750000000000014},
    "udpos": {"f1": 70.21746048354693, "precision": 71.02232625883823, "recall": 69.54982073976082},
    "xquad": {"exact_match": 77.27272727272727, "f1": 79.9586776859504},
    "mlqa": {"exact_match": 57.142857142857146, "f1": 81.76870748299321},
    "tydiqa": {"exact_match": 88.88888888888889, "f1": 97.22222222222223},
    "mewslix": {"map_at_20": 14.39025156130419},
}


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)


def _json(*arguments: str | Path) -> dict[str, Any]:
    result = _run(*arguments, "--json")
    assert result.exception is None, result.exception
    return json.loads(result.stdout)


def _error(*arguments: str | Path) -> str:
    message = str(_run(*arguments).exception)
    assert "\n" not in message
    return message


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """Two tasks in three languages; 3 of 4 and 2 of 4 right in xnli, and one entity of two in panx."""
    _write(
        tmp_path / "labels",
        {
            "xnli/test-en.tsv": "neutral\nneutral\nentailment\ncontradiction\n",
            "xnli/test-sw.tsv": "neutral\nneutral\nentailment\ncontradiction\n",
            "panx/test-yo.tsv": "B-PER\n\nB-LOC\nI-LOC\n",
        },
    )
    _write(
        tmp_path / "predictions",
        {
            "xnli/test-en.tsv": "neutral\nneutral\nentailment\nneutral\n",
            "xnli/test-sw.tsv": "neutral\nneutral\nneutral\nneutral\n",
            "panx/test-yo.tsv": "B-PER\n\nB-LOC\nO\n",
        },
    )
    return tmp_path / "predictions", tmp_path / "labels"


@pytest.fixture
def mock(tmp_path: Path) -> Path:
    """A copy of XTREME's mock files, to which a test may add."""
    data = os.environ.get("XLT_SCALE_DATA")
    if not data or not (Path(data) / "targets" / "xtreme_mock").is_dir():
        pytest.skip("XLT_SCALE_DATA names no folder with targets/xtreme_mock")
    return Path(shutil.copytree(Path(data) / "targets" / "xtreme_mock", tmp_path / "mock"))


def test_a_folder_of_tasks_is_scored_task_by_task(small: tuple[Path, Path]) -> None:
    tasks = _json(*small)["tasks"]
    assert tasks["xnli"]["by_language"] == {"en": 75.0, "sw": 50.0}
    assert tasks["xnli"]["value"] == 62.5
    assert tasks["xnli"]["gap"] == 25.0
    assert tasks["panx"]["by_language"] == {"yo": 50.0}
    assert tasks["panx"]["version"].endswith("(xtreme_f1@seqeval-1.2.2)")


def test_a_tasks_folder_is_scored_alone(small: tuple[Path, Path]) -> None:
    predictions, labels = small
    for arguments in (
        (predictions / "xnli", labels / "xnli"),
        (predictions / "xnli", labels),
        (*small, "--task", "xnli"),
    ):
        assert list(_json(*arguments)["tasks"]) == ["xnli"]


def test_two_files_are_scored_as_the_named_task(small: tuple[Path, Path]) -> None:
    files = [folder / "xnli" / "test-sw.tsv" for folder in small]
    assert _json(*files, "--task", "xnli")["tasks"]["xnli"]["by_language"] == {"sw": 50.0}
    assert _json(*files, "--metric", "accuracy", "--language", "xx")["tasks"]["accuracy"]["value"] == 50.0
    assert "give --task" in _error(*files)


def test_people_get_tables(small: tuple[Path, Path]) -> None:
    output = _run(*small, "--benchmark", "xtreme").stdout
    assert "Score by language" in output
    assert "(62.50)" in output
    assert output.count("xtreme is not complete, hence no total") == 1
    assert "bucc2018: no scores" in output
    assert "total (mean of tasks)" in output


def test_one_task_is_shown_by_language_and_metric(small: tuple[Path, Path]) -> None:
    output = _run(small[0] / "panx", small[1] / "panx").stdout
    assert [word for word in ("language", "f1", "precision", "recall", "token accuracy") if word not in output] == []


def test_a_label_file_without_prediction_is_said_and_marks_the_mean(small: tuple[Path, Path]) -> None:
    (small[0] / "xnli" / "test-sw.tsv").unlink()
    output = _run(small[0] / "xnli", small[1] / "xnli").stdout
    assert "xnli: labels but no predictions in sw" in output
    assert "(75.00)" in output


def test_a_prediction_file_without_labels_is_an_error(small: tuple[Path, Path]) -> None:
    (small[1] / "xnli" / "test-sw.tsv").unlink()
    assert "has no test file in 'sw'; add it" in _error(*small)


def test_a_language_that_the_task_has_not_is_an_error(small: tuple[Path, Path]) -> None:
    shutil.copy(small[0] / "xnli" / "test-sw.tsv", small[0] / "xnli" / "test-fi.tsv")
    assert "test-fi.tsv: xnli has no language 'fi'" in _error(*small)


def test_a_folder_of_another_name_is_not_scored_and_said(small: tuple[Path, Path]) -> None:
    _write(small[0], {"panxx/test-yo.tsv": "O\n"})
    assert "panxx was not scored: task 'panxx' is unknown; did you mean 'panx'?" in " ".join(_json(*small)["notes"])


def test_a_task_of_ones_own_is_scored_by_the_given_metric(tmp_path: Path) -> None:
    _write(tmp_path, {"p/mine/dev-xx.tsv": "yes\nno\n", "l/mine/dev-xx.tsv": "yes\nyes\n"})
    assert "task 'mine' is unknown" in _error(tmp_path / "p", tmp_path / "l", "--split", "dev")
    tasks = _json(tmp_path / "p", tmp_path / "l", "--metric", "accuracy", "--split", "dev")["tasks"]
    assert tasks["mine"]["value"] == 50.0


def test_another_split_is_suggested(small: tuple[Path, Path]) -> None:
    assert "has no files of the split 'dev'; give --split test" in _error(*small, "--split", "dev")


def test_an_unknown_benchmark_is_an_error(small: tuple[Path, Path]) -> None:
    assert "benchmark 'xtrem' is unknown; did you mean 'xtreme'?" in _error(*small, "--benchmark", "xtrem")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    assert "nowhere is missing" in _error(tmp_path / "nowhere", tmp_path)


def test_questions_without_prediction_are_counted_in_a_note(tmp_path: Path) -> None:
    labels = [{"paragraphs": [{"qas": [{"id": name, "answers": [{"text": "x"}]} for name in "ab"]}]}]
    _write(tmp_path, {"p/xquad/test-ro.json": '{"a": "x"}', "l/xquad/test-ro.json": json.dumps(labels)})
    found = _json(tmp_path / "p", tmp_path / "l")
    assert found["tasks"]["xquad"]["value"] == 50.0
    assert found["notes"] == ["xquad, ro: 1 items have no prediction and score 0"]


def test_outcomes_of_items_are_kept(small: tuple[Path, Path], tmp_path: Path) -> None:
    _run(*small, "--items", tmp_path / "items")
    with safe_open(tmp_path / "items" / "xnli" / "test-sw.safetensors", "numpy") as file:
        assert file.get_tensor("correct").tolist() == [1, 1, 0, 0]
        assert file.metadata() == {"task": "xnli", "language": "sw", "metric": "accuracy", "version": "accuracy-1"}
    with safe_open(tmp_path / "items" / "panx" / "test-yo.safetensors", "numpy") as file:
        assert file.get_tensor("counts").tolist() == [[1, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize("task", sorted(PUBLISHED))
def test_the_published_expectation_of_the_mock_files_is_met(mock: Path, task: str) -> None:
    metrics = _json(mock / "predictions" / task, mock / "labels" / task)["tasks"][task]["metrics"]
    assert {name: metrics[name] for name in PUBLISHED[task]} == pytest.approx(PUBLISHED[task], abs=1e-6)


def test_the_mock_files_have_the_xtreme_total_that_follows_from_the_published_numbers(mock: Path) -> None:
    found = _json(mock / "predictions", mock / "labels", "--benchmark", "xtreme")["benchmark"]
    values = [
        (PUBLISHED[task]["exact_match"] + PUBLISHED[task]["f1"]) / 2
        if "exact_match" in PUBLISHED[task]
        else PUBLISHED[task].get("f1", PUBLISHED[task].get("accuracy"))
        for task in XTREME.tasks
    ]
    assert found["total"] == pytest.approx(sum(values) / 9, abs=1e-6)
    assert found["missing"] == []


def test_xtreme_r_has_a_total_once_its_own_tasks_and_languages_are_there(mock: Path) -> None:
    for side in ("predictions", "labels"):
        for language in XTREME_R.tasks["xcopa"].languages:
            _write(mock / side, {f"xcopa/test-{language}.jsonl": '{"label": 1}\n{"label": 0}\n'})
        for language in XTREME_R.tasks["lareqa"].languages:
            ranks = {"q": ["x", f"{language}-1"]} if side == "predictions" else {"q": [f"{language}-1"]}
            _write(mock / side, {f"lareqa/test-{language}.json": json.dumps(ranks)})
        for task in ("panx", "udpos", "xquad", "tatoeba"):
            source = next((mock / side / task).glob("test-de.*"))
            for language in set(XTREME_R.tasks[task].languages) - set(XTREME.tasks[task].languages):
                shutil.copy(source, source.with_name(f"test-{language}{source.suffix}"))
    found = _json(mock / "predictions", mock / "labels", "--benchmark", "xtreme-r")
    values = {name: task["value"] for name, task in found["tasks"].items() if name in XTREME_R.tasks}
    assert (values["xcopa"], values["lareqa"]) == (100.0, 50.0)
    assert found["benchmark"]["total"] == pytest.approx(sum(values.values()) / 10)
    assert found["benchmark"]["groups"]["retrieval"] == pytest.approx(
        (values["tatoeba"] + values["mewslix"] + 50.0) / 3
    )
    assert found["benchmark"]["missing"] == []

"""`xlt-scale study` from the file to the report, with a search of the learning rate on the way."""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from real_study import write_study
from runs import Finished, start

RATES = [1e-3, 3e-2]


def study(*words: object) -> Finished:
    return start([sys.executable, "-m", "xlt_scale.cli", "study", *map(str, words)], limit=280)


def one_size(table: dict[str, Any]) -> None:
    table["sizes"] = table["sizes"][:1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    place = tmp_path_factory.mktemp("search")
    settings = [f"search.learning_rates={RATES}", "seeds.intermediate=[1, 2]", "target.evaluate_languages=[]"]
    done = study("run", write_study(place, cache, *settings, change=one_size))
    assert done.code == 0, done.output
    assert f"report: {place / 'study' / 'report' / 'index.html'}" in done.output
    return place / "study"


def records(folder: Path, role: str) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))]
    return [record for record in found if record["role"] == role]


def test_every_arm_has_the_same_number_of_trials_scored_on_the_source_languages_dev_set(folder: Path) -> None:
    trials = records(folder, "search")
    assert sorted(trial["arm"]["name"] for trial in trials) == ["nli", "nli", "none", "none"]
    for trial in trials:
        assert list(trial["scores"]["micro-valence"]) == ["qen"]
        assert trial["scorers"]["micro-valence"]["split"] == "dev"


def test_targets_are_trained_at_the_rate_that_did_best(folder: Path) -> None:
    def dev_score(trial: dict[str, Any]) -> float:
        return trial["scores"]["micro-valence"]["qen"]["accuracy"]

    for arm in ("none", "nli"):
        trials = [trial for trial in records(folder, "search") if trial["arm"]["name"] == arm]
        best = max(trials, key=lambda trial: (dev_score(trial), -trial["hyper_parameters"]["learning_rate"]))
        targets = [
            record
            for record in records(folder, "target")
            if record["arm"]["name"] == arm and record["target"]["name"] == "valence"
        ]
        assert len(targets) == 2
        for record in targets:
            assert record["hyper_parameters"]["learning_rate"] == best["hyper_parameters"]["learning_rate"]
            assert record["search"]["trials"] == 2


def test_a_record_says_what_its_phase_took(folder: Path) -> None:
    training = records(folder, "intermediate")[0]["training"]
    assert training["steps"] == 3
    assert training["tokens"] > 0 and training["flops"] > 0 and training["gpu_hours"] > 0
    assert training["unit"] == "processor hours"


def test_the_report_of_real_records_names_its_question_and_every_record(folder: Path) -> None:
    page = (folder / "report" / "index.html").read_text()
    assert "Does it run?" in page
    for record in records(folder, "target"):
        assert record["phase"] in page


def test_the_table_has_a_row_for_every_score(folder: Path, tmp_path: Path) -> None:
    done = study("export", folder, tmp_path / "scores.csv")
    assert done.code == 0, done.output
    table = pd.read_csv(tmp_path / "scores.csv")
    valence = table[(table["task"] == "micro-valence") & (table["metric"] == "accuracy") & (table["role"] == "target")]
    assert len(valence) == 2 * 2 * 8  # arms x seeds x languages

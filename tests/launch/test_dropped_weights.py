"""`weights = "drop"`: the weights of a scored phase go, what was learned of it stays."""

import json
from pathlib import Path

import pytest
from runs import Finished, scores, train

SETTINGS = [
    "phases.pretrain.steps=4",
    "phases.intermediate.steps=2",
    "phases.target.steps=2",
    "phases.target-after-nli.steps=2",
    "phases.target.weights=drop",
    "phases.target-after-nli.weights=drop",
    "phases.target-after-nli.evaluate=['micro-valence']",
    "phases.target-after-nli.evaluate_languages=['qen']",
    "engine.name=fsdp2",
]


def start(folder: Path, cache: Path, *further: str, languages: str = "['qen']") -> Finished:
    return train("python", folder, cache, *SETTINGS, f"phases.target.evaluate_languages={languages}", *further)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    place = tmp_path_factory.mktemp("dropped")
    done = start(place, cache)
    assert done.code == 0, done.output
    return place


def test_the_weights_of_scored_phases_go_and_those_of_others_stay(folder: Path) -> None:
    phases = folder / "phases"
    assert not (phases / "target" / "result").exists()
    assert json.loads((phases / "target" / "phase.json").read_text())["checkpoint"] is None
    assert (phases / "pretrain" / "result" / "COMPLETE").exists()


def test_scores_predictions_and_the_cost_of_training_stay(folder: Path) -> None:
    phase = folder / "phases" / "target"
    assert set(scores(phase)["micro-valence"]) == {"qen"}
    assert list((phase / "predictions" / "micro-valence").iterdir())
    training = json.loads((phase / "phase.json").read_text())["training"]
    assert training["steps"] == 2
    assert training["tokens"] > 0 and training["flops"] > 0 and training["device_seconds"] > 0
    assert [point["step"] for point in training["curve"] if "loss" in point][-1] == 2


def test_a_second_start_has_nothing_to_do_and_one_that_scores_more_trains_it_again(folder: Path, cache: Path) -> None:
    before = scores(folder / "phases" / "target")
    again = start(folder, cache)
    assert "phase target: finished before" in again.output
    more = start(folder, cache, languages="['qen', 'qea']")
    assert more.code == 0, more.output
    assert "phase target: its weights were removed when it was scored; trained again to score more" in more.output
    after = scores(folder / "phases" / "target")
    assert set(after["micro-valence"]) == {"qen", "qea"}
    assert after["micro-valence"]["qen"] == before["micro-valence"]["qen"]
    assert not (folder / "phases" / "target" / "result").exists()


def test_a_phase_cannot_start_from_dropped_weights(folder: Path, cache: Path, tmp_path: Path) -> None:
    parent = folder / "phases" / "target"
    refused = start(tmp_path, cache, f"phases.intermediate.parent={parent}")
    assert refused.code == 2
    assert "were removed once it was scored (weights = 'drop')" in refused.output

"""`weights = "drop"`: the weights of a scored phase go, what was learned of it stays."""

import json
from pathlib import Path

import pytest
from runs import MICRO, scores

from xlt_scale.config import load_run
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError
from xlt_scale.training.run import run

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


def go(folder: Path, cache: Path, *further: str, languages: str = "['qen']") -> None:
    places = (f"output={folder}", f"data.cache={cache}")
    run(load_run(MICRO, [*places, *SETTINGS, f"phases.target.evaluate_languages={languages}", *further]))


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    place = tmp_path_factory.mktemp("dropped")
    go(place, cache)
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


def test_a_second_start_has_nothing_to_do_and_one_that_scores_more_trains_it_again(
    folder: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = scores(folder / "phases" / "target")
    go(folder, cache)
    assert "phase target: finished before" in capfd.readouterr().err
    go(folder, cache, languages="['qen', 'qea']")
    said = capfd.readouterr().err
    assert "phase target: its weights were removed when it was scored; trained again to score more" in said
    after = scores(folder / "phases" / "target")
    assert set(after["micro-valence"]) == {"qen", "qea"}
    assert after["micro-valence"]["qen"] == before["micro-valence"]["qen"]
    assert not (folder / "phases" / "target" / "result").exists()


def test_a_phase_cannot_start_from_dropped_weights(folder: Path, cache: Path, tmp_path: Path) -> None:
    parent = folder / "phases" / "target"
    with pytest.raises(UserError, match=r"were removed once it was scored \(weights = 'drop'\)"):
        go(tmp_path, cache, f"phases.intermediate.parent={parent}")

"""The same run under every launcher and both engines."""

import json
from pathlib import Path

import pytest
from runs import MICRO, SHORT, Finished, rows, scores, train

from xlt_scale.config import load_run
from xlt_scale.engines.world import World
from xlt_scale.training.run import run

pytestmark = pytest.mark.distributed

WAYS = {
    "zero3 under deepspeed": ("deepspeed", "zero3"),
    "fsdp2 under torchrun": ("torchrun", "fsdp2"),
    "zero3 under accelerate": ("accelerate", "zero3"),
    "fsdp2 without a launcher": ("python", "fsdp2"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, tuple[Path, Finished]]:
    """Each way's run folder and how its process ended."""
    folder = tmp_path_factory.mktemp("runs")
    ended = {}
    for way, (launcher, engine) in WAYS.items():
        place = folder / way.replace(" ", "-")
        # torchrun takes --run for its own option; the run file goes without it there.
        with_flag = launcher != "torchrun"
        ended[way] = place, train(launcher, place, cache, f"engine.name={engine}", *SHORT, dash_dash_run=with_flag)
    return ended


@pytest.mark.parametrize("way", WAYS)
def test_the_run_ends_well(finished: dict[str, tuple[Path, Finished]], way: str) -> None:
    assert finished[way][1].code == 0, finished[way][1].output


@pytest.mark.parametrize("way", WAYS)
def test_losses_agree_within_1e_5(finished: dict[str, tuple[Path, Finished]], way: str) -> None:
    expected = [row["loss"] for row in rows(finished["zero3 under deepspeed"][0])]
    assert len(expected) == 20 + 8 + 8 + 8
    assert [row["loss"] for row in rows(finished[way][0])] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_scores_and_predictions_are_the_same(finished: dict[str, tuple[Path, Finished]], way: str) -> None:
    expected, found = finished["zero3 under deepspeed"][0], finished[way][0]
    assert scores(found) == scores(expected)
    predictions = sorted((expected / "predictions").rglob("*.tsv"))
    assert [path.name for path in predictions] == ["test-qea.tsv", "test-qea.tsv", "test-qen.tsv"]
    for path in predictions:
        assert (found / path.relative_to(expected)).read_text() == path.read_text()


def test_the_run_folder_holds_what_the_contract_says(finished: dict[str, tuple[Path, Finished]]) -> None:
    folder = finished["zero3 under deepspeed"][0]
    for name in ("run.toml", "environment.json", "metrics.jsonl", "scores.json", "predictions", "tensorboard"):
        assert (folder / name).exists(), name
    for phase, step in (("pretrain", 20), ("target", 8)):
        result = folder / "phases" / phase / "result"
        assert (result / "COMPLETE").exists()
        assert json.loads((result / "manifest.json").read_text())["facts"]["step"] == step
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["world_size"] == 2 and environment["engine"] == "zero3"


def test_the_table_shows_the_gain_over_the_baseline(finished: dict[str, tuple[Path, Finished]]) -> None:
    output = finished["zero3 under deepspeed"][1].output
    folder = finished["zero3 under deepspeed"][0]
    without = scores(folder / "phases" / "target")["micro-valence"]["qea"]["accuracy"]
    after = scores(folder)["micro-valence"]["qea"]["accuracy"]
    assert "micro-valence: accuracy in percent" in output
    assert f"{after - without:+.1f}" in output


def test_a_metrics_row_has_every_documented_key(finished: dict[str, tuple[Path, Finished]], root: Path) -> None:
    row = rows(finished["zero3 under deepspeed"][0])[0]
    page = (root / "docs" / "run_folder.md").read_text()
    assert not [key for key in row if f"`{key}`" not in page]
    assert row["mfu"] is None, "a processor's peak is not known"


def go(run_file: str | Path, folder: Path, cache: Path, *settings: str) -> None:
    """A run in this process, alone."""
    run(load_run(run_file, [f"output={folder}", f"data.cache={cache}", *settings]))


def test_a_finished_run_is_taken_over(
    finished: dict[str, tuple[Path, Finished]], world: World, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = finished["fsdp2 without a launcher"][0]
    before = (folder / "metrics.jsonl").read_text()
    go(MICRO, folder, cache, "engine.name=fsdp2", *SHORT)
    assert capfd.readouterr().err.count("finished before (") == 4
    assert (folder / "metrics.jsonl").read_text() == before


def test_a_changed_option_trains_that_phase_and_its_children_anew(
    finished: dict[str, tuple[Path, Finished]], world: World, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = finished["fsdp2 without a launcher"][0]
    go(MICRO, folder, cache, "engine.name=fsdp2", *SHORT, "phases.intermediate.learning_rate=2e-3")
    said = capfd.readouterr().err
    assert "phase pretrain: finished before" in said and "phase target: finished before" in said
    assert "phase intermediate: micro-nli, 8 steps" in said
    assert "phase target-after-nli: micro-valence, 8 steps" in said
    assert "phase.learning_rate was" in said and "is kept as intermediate.before-1" in said
    assert (folder / "phases" / "intermediate.before-1" / "result" / "COMPLETE").exists()


def test_another_run_begins_where_a_phase_ended(
    finished: dict[str, tuple[Path, Finished]], world: World, cache: Path, tmp_path: Path
) -> None:
    """The child trains under the other engine and at another world size than its parent."""
    parent = finished["zero3 under deepspeed"][0] / "phases" / "pretrain"
    run_file = tmp_path / "child.toml"
    run_file.write_text(
        f"""
        [model]
        size = "micro-small"
        tokenizer = "micro"
        max_length = 64
        dropout = 0.0
        [engine]
        name = "fsdp2"
        max_tokens_per_micro_batch = 1024
        [logging]
        every = 1
        [[phases]]
        name = "target"
        parent = "{parent}"
        task = "micro-valence"
        steps = 8
        batch_size = 32
        learning_rate = 1e-3
        """
    )
    go(run_file, tmp_path / "child", cache)
    expected = [row["loss"] for row in rows(finished["zero3 under deepspeed"][0]) if row["phase"] == "target"]
    assert [row["loss"] for row in rows(tmp_path / "child")] == pytest.approx(expected, rel=1e-5)

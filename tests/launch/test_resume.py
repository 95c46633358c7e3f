"""An interrupted run goes on where it was: after kills, damage, and changes of mind."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from interruption import (
    IN_PROCESS,
    RUN,
    SHORT,
    assert_same_end,
    checkpoint,
    checkpoints,
    losses,
    refused,
    snapshot,
    weights,
)
from runs import forked, kill_all, rows, started, train_forked, training, wait_until

from xlt_scale.checkpoint.manifest import read_manifest
from xlt_scale.config import load_run
from xlt_scale.engines.world import World
from xlt_scale.training.run import run

TWO_RANKS = (*SHORT, "engine.repeatable=true")
LAUNCHERS = {"zero3": "deepspeed", "fsdp2": "torchrun"}


class TwoRanks:
    """An undisturbed run of two ranks beside one that was killed, and the second gone on to its end."""

    def __init__(self, engine: str, folder: Path, run_file: Path, cache: Path) -> None:
        self._launcher, self._run_file, self._cache = LAUNCHERS[engine], run_file, cache
        self._settings = (*TWO_RANKS, f"engine.name={engine}")
        self.undisturbed, self.killed, self.resumed = (folder / name for name in ("undisturbed", "killed", "resumed"))
        undisturbed = train_forked(self.undisturbed, cache, *self._settings, run=str(run_file))
        assert undisturbed.code == 0, undisturbed.output
        log = folder / "killed.txt"
        second = checkpoint(self.killed, "pretrain", 6) / "COMPLETE"
        with started(self._command(), log) as job:
            wait_until(second.exists, job, log)
            kill_all(job)
        shutil.copytree(self.killed, self.resumed)

    def _command(self) -> list[str]:
        by_name = self._launcher != "torchrun"
        return training(
            self._launcher, self.killed, self._cache, *self._settings, run=str(self._run_file), dash_dash_run=by_name
        )

    def go_on(self, meanwhile: Callable[[Path], None]) -> str:
        """Start the killed run again, to its end; what it said."""
        with forked(self.resumed, self._cache, *self._settings, run=str(self._run_file)) as job:
            wait_until(lambda: "goes on after step" in job.output, job, job.log)
            meanwhile(self.resumed)
            assert job.wait(120) == 0, job.output
            return job.output


@pytest.fixture(scope="module")
def zero3(run_file: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    return TwoRanks("zero3", tmp_path_factory.mktemp("zero3"), run_file, cache)


@pytest.fixture(scope="module")
def fsdp2(run_file: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    return TwoRanks("fsdp2", tmp_path_factory.mktemp("fsdp2"), run_file, cache)


@pytest.fixture
def killed(fsdp2: TwoRanks, tmp_path: Path) -> Path:
    """A copy of a run that was killed after the sixth step of its first phase, or a little later."""
    return Path(shutil.copytree(fsdp2.killed, tmp_path / "run"))


@pytest.mark.distributed
def test_a_killed_zero3_run_ends_as_if_nothing_had_happened(zero3: TwoRanks) -> None:
    said = zero3.go_on(meanwhile=lambda folder: None)
    assert said.count("goes on after step") == 1
    position = read_manifest(checkpoints(zero3.killed)[-1]).facts["position"]
    assert all(0 < task["epoch"] < 1 for task in position.values()), "it was killed in the middle of an epoch"
    assert_same_end(zero3.resumed, zero3.undisturbed)


@pytest.mark.distributed
def test_a_killed_fsdp2_run_ends_as_if_nothing_had_happened_while_a_second_job_is_refused(
    fsdp2: TwoRanks, go: Callable[..., None]
) -> None:
    refusals: list[str] = []
    fsdp2.go_on(meanwhile=lambda folder: refusals.append(refused(go, folder)))
    assert_same_end(fsdp2.resumed, fsdp2.undisturbed)
    assert len(refusals) == 1
    assert "is being written by another job (process " in refusals[0]


@pytest.mark.distributed
@pytest.mark.parametrize(("of", "under"), [("zero3", "fsdp2"), ("fsdp2", "zero3")])
def test_a_run_goes_on_under_the_other_engine_and_another_world_size(
    of: str, under: str, go: Callable[..., None], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    two_ranks: TwoRanks = request.getfixturevalue(of)
    folder = Path(shutil.copytree(two_ranks.killed, tmp_path / "run"))
    newest = int(checkpoints(folder)[-1].name.removeprefix("step-"))
    go(folder, f"engine.name={under}")
    expected = losses(two_ranks.undisturbed)
    assert losses(folder) == pytest.approx(expected, rel=1e-5)
    kept = {key: loss for key, loss in losses(folder).items() if key[0] == "pretrain" and key[1] <= newest}
    assert kept == {key: expected[key] for key in kept}, "rows before the checkpoint are the first start's"


@pytest.mark.distributed
def test_a_changed_batch_size_is_refused_with_what_changed(killed: Path, go: Callable[..., None]) -> None:
    before = snapshot(killed)
    said = refused(go, killed, "phases.pretrain.batch_size=16")
    newest = checkpoints(killed)[-1]
    assert "and since then phase.batch_size was 32, is 16; put that back" in said
    assert said.endswith(f"go on with the change by --resume {newest}, or start anew by --resume never")
    assert snapshot(killed) == before


@pytest.mark.distributed
def test_changed_data_are_refused_with_whose_they_are(killed: Path, go: Callable[..., None]) -> None:
    said = refused(go, killed, "data.micro_world=2")
    assert "the data of micro-mlm are others; the data of micro-tlm are others" in said


@pytest.mark.distributed
def test_a_named_checkpoint_is_gone_on_from_with_the_change(
    killed: Path, go: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    change = "phases.pretrain.batch_size=16"
    older = checkpoints(killed)[-2]
    step = int(older.name.removeprefix("step-"))
    go(killed, change, f"resume={older}")
    said = capfd.readouterr().err
    assert "goes on with changes, as asked for: phase.batch_size was 32, is 16" in said
    assert f"goes on after step {step} of 18" in said
    examples = {row["step"]: row["examples"] for row in rows(killed) if row["phase"] == "pretrain"}
    assert examples[step] == 32 * step and examples[18] == 16 * 18
    finished = snapshot(killed)
    go(killed, change)
    assert snapshot(killed) == finished, "the change is part of the phase from then on"


@pytest.mark.distributed
def test_never_starts_anew_and_keeps_what_was_there(killed: Path, go: Callable[..., None]) -> None:
    names = [path.name for path in checkpoints(killed)]
    go(killed, "phases.pretrain.batch_size=16", "resume=never")
    aside = killed / "phases" / "pretrain.before-1"
    assert [path.name for path in sorted((aside / "checkpoints").glob("step-*"))] == names
    assert len(aside.joinpath("metrics.jsonl").read_text().splitlines()) >= 6
    assert {row["examples"] for row in rows(killed) if row["phase"] == "pretrain"} == {16 * n for n in range(1, 19)}


def _truncate(folder: Path) -> None:
    path = next(iter(sorted(folder.glob("*.safetensors"))))
    os.truncate(path, path.stat().st_size - 1)


def _flip_a_bit(folder: Path) -> None:
    path = next(iter(sorted(folder.glob("*.safetensors"))))
    with path.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


DAMAGES = {
    _truncate: r"rank-00000.safetensors has [\d,]+ bytes of [\d,]+; use another checkpoint",
    _flip_a_bit: r"did not arrive as it was saved; its file is damaged",
}


@pytest.mark.distributed
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_the_reason(
    damage: Callable[[Path], None],
    killed: Path,
    fsdp2: TwoRanks,
    go: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    *_, older, newest = checkpoints(killed)
    damage(newest)
    go(killed)
    said = capfd.readouterr().err.splitlines()
    skipped, goes_on = (
        next(line for line in said if line.startswith(f"phase pretrain: {text}")) for text in ("skipped", "goes on")
    )
    assert str(newest) in skipped and re.search(DAMAGES[damage], skipped)
    assert older.name in goes_on
    assert losses(killed) == pytest.approx(losses(fsdp2.undisturbed), rel=1e-5)


@pytest.mark.distributed
def test_nothing_is_guessed_when_all_checkpoints_are_damaged(killed: Path, go: Callable[..., None]) -> None:
    first, *others = reversed(checkpoints(killed))
    _truncate(first)
    for folder in others:
        _flip_a_bit(folder)
    said = refused(go, killed)
    assert said.startswith("phase 'pretrain' was interrupted, but none of its checkpoints can be loaded (")
    assert said.endswith("mend the files, or start the phase anew by --resume never")


# At this rate training is unstable, so that the last score is not the best one.
BEST = (
    "phases.target.steps=24",
    "phases.target.evaluate_every=2",
    "phases.target.keep=best",
    # So large that the best score comes early.
    "phases.target.learning_rate=0.1",
    "phases.target.seed=2",
)


@pytest.fixture(scope="module")
def alone(run_file: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that keeps the best weights, killed in its second phase."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    log = folder.with_name("killed.txt")
    with started(training("python", folder, cache, *IN_PROCESS, *BEST, run=str(run_file)), log) as job:
        wait_until((checkpoint(folder, "target", 12) / "COMPLETE").exists, job, log)
        kill_all(job)
    return folder


@pytest.mark.distributed
def test_the_best_weights_survive_an_interruption_and_finished_phases_are_left_alone(
    alone: Path, go: Callable[..., None], tmp_path: Path
) -> None:
    folder, undisturbed = Path(shutil.copytree(alone, tmp_path / "run")), tmp_path / "undisturbed"
    finished = snapshot(folder / "phases" / "pretrain")
    go(folder, *BEST)
    go(undisturbed, *BEST)
    manifest = read_manifest(undisturbed / "phases" / "target" / "result")
    assert manifest.facts["step"] < 12, "the best score is from before the kill"
    assert read_manifest(folder / "phases" / "target" / "result").facts["best"] == manifest.facts["best"]
    assert losses(folder) == pytest.approx(losses(undisturbed), rel=1e-5)
    assert snapshot(folder / "phases" / "pretrain") == finished


@pytest.fixture(scope="module")
def finished(world: World, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with a phase that only scores, and with TensorBoard."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    look = '[[phases]]\nname = "look"\nparent = "pretrain"\nevaluate = ["micro-retrieval"]\n'
    (folder.parent / "run.toml").write_text(f"{RUN}\n{look}evaluate_languages = ['qea']\n")
    _go_finished(folder, cache)
    return folder


def _go_finished(folder: Path, cache: Path, *settings: str) -> None:
    steps = ("phases.pretrain.steps=4", "phases.target.steps=4")
    places = (f"output={folder}", f"data.cache={cache}")
    run(load_run(folder.parent / "run.toml", [*places, *SHORT, "engine.name=fsdp2", *steps, *settings]))


def test_a_finished_run_says_so_and_touches_nothing(
    finished: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(finished)
    _go_finished(finished, cache)
    said = capfd.readouterr().err
    assert f"{finished}: this run was finished before; --resume never starts it anew" in said
    assert [name for name in ("pretrain", "target", "look") if f"phase {name}: finished before" not in said] == []
    assert snapshot(finished) == before


def test_a_finished_phase_with_changed_options_is_put_aside_and_made_again(
    finished: Path, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))
    shutil.copy(finished.parent / "run.toml", tmp_path)
    others = {name: snapshot(folder / "phases" / name) for name in ("pretrain", "look")}
    old = weights(folder, "target")
    _go_finished(folder, cache, "phases.target.learning_rate=0.5e-3")
    said = capfd.readouterr().err
    change = "phase.learning_rate was 0.001, is 0.0005"
    assert f"phase target: {change}; the earlier result is kept as target.before-1" in said
    assert weights(folder, "target.before-1") == old
    assert weights(folder, "target") != old
    assert {name: snapshot(folder / "phases" / name) for name in others} == others


def test_a_kept_checkpoint_of_a_finished_phase_is_gone_on_from_and_the_result_stays(
    go: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    go(tmp_path, "checkpoints.keep_every=6")
    old = weights(tmp_path, "pretrain")
    go(tmp_path, "phases.pretrain.weight_decay=0.3", f"resume={checkpoint(tmp_path, 'pretrain', 12)}")
    said = capfd.readouterr().err
    assert "phase.weight_decay was 0.01, is 0.3" in said
    assert "the earlier result is kept as pretrain.before-1" in said
    assert "goes on after step 12 of 18" in said
    assert weights(tmp_path, "pretrain.before-1") == old
    assert weights(tmp_path, "pretrain") != old


def test_a_kill_between_a_phases_result_and_its_phase_file_loses_no_steps(
    go: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Killed(BaseException):
        pass

    def die(job: object, result: Path, progress: object) -> None:
        assert (result / "COMPLETE").is_file()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("xlt_scale.training.phase._write_phase_file", die)
        with pytest.raises(Killed):
            go(tmp_path)
    go(tmp_path)
    assert "phase pretrain: goes on after step 15 of 18" in capfd.readouterr().err


def test_what_a_kill_leaves_of_a_finished_phases_checkpoints_is_removed_by_the_next_start(
    go: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("xlt_scale.training.phase.remove_training_checkpoints", lambda *arguments: None)
        go(tmp_path, "checkpoints.keep_every=6")
    assert [path.name[-2:] for path in checkpoints(tmp_path)] == ["06", "12", "15"]
    go(tmp_path, "checkpoints.keep_every=0")
    assert [path.name[-2:] for path in checkpoints(tmp_path)] == ["06", "12"], "as was asked for when it was trained"

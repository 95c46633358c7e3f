"""The loop that carries out a study, with jobs that are only pretended."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_study import FakeExecutor, Ran, collect, finish_phase, flat_estimate, go, names, tiny_study

from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.grid.search import Choice, SearchCell
from xlt_scale.scaling.running import disk_room, runner
from xlt_scale.scaling.running.claims import is_claimed, take
from xlt_scale.scaling.running.events import read_events
from xlt_scale.scaling.running.runner_files import runners

MISSING = (2, "error: no file for micro-nli; mend tasks.micro-nli.files")
CRASH = (1, "RuntimeError: the device has gone")


def test_everything_is_run_and_recorded_once(tmp_path: Path) -> None:
    ran = go(tiny_study(tmp_path))
    assert ran.outcome.is_complete and ran.outcome.num_done == len(ran.grid.phases) == 14
    assert sorted(ran.executor.trained) == sorted(ran.grid.phases)


def test_started_again_nothing_is_run(tmp_path: Path) -> None:
    go(tiny_study(tmp_path))
    again = go(tiny_study(tmp_path))
    assert again.outcome.is_complete and not again.executor.started


def test_encoders_that_others_wait_for_come_first_and_large_sizes_before_small_ones(tmp_path: Path) -> None:
    ran = go(tiny_study(tmp_path))
    first = [ran.grid.phases[job.phases[0]] for job in ran.executor.started]
    assert [(phase.size, phase.role) for phase in first[:2]] == [
        ("micro-large", "pretraining"),
        ("micro-small", "pretraining"),
    ]
    sizes = [phase.size for phase in first[2:] if phase.role == "intermediate"]
    assert sizes == sorted(sizes)  # large before small


def test_jobs_run_side_by_side_as_room_allows(tmp_path: Path) -> None:
    assert go(tiny_study(tmp_path), slots=3).executor.most_at_once == 3


def test_a_crashed_job_is_tried_again_as_often_as_said_and_then_reported(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, resources={"retries": 1})
    bad = names(design(study), role="intermediate", size="micro-small")[0]
    ran = go(study, fails=lambda name: CRASH if name == bad else None)
    attempts = [job for job in ran.executor.started if bad in job.phases]
    assert len(attempts) == 2
    assert [one.name for one in ran.outcome.failed] == [bad]
    assert "the device has gone" in ran.text and "attempt 2 of 2 follows" in ran.text and "log.txt" in ran.text


def test_what_does_not_come_from_a_failed_phase_is_run_all_the_same(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    grid = design(study)
    bad = names(grid, role="intermediate", size="micro-small")[0]
    ran = go(study, fails=lambda name: CRASH if name == bad else None)
    after = [phase.name for phase in grid.children(bad)]
    assert list(ran.outcome.blocked) == after
    assert ran.folder.recorded() == grid.phases.keys() - {bad, *after}


def test_a_mistake_of_the_user_is_not_tried_again(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, resources={"retries": 5})
    bad = names(design(study), role="target", arm="nli")[0]
    ran = go(study, fails=lambda name: MISSING if name == bad else None)
    alone = [job for job in ran.executor.started if job.phases == (bad,)]
    assert len(alone) == 1
    assert [one.name for one in ran.outcome.failed] == [bad] and not ran.outcome.blocked


def test_a_mistake_in_one_phase_of_a_job_does_not_keep_the_others_from_running(tmp_path: Path) -> None:
    """launch/train.py checks all phases of a job before the first, and ends without having done any."""
    study = tiny_study(tmp_path)
    bad = names(design(study), role="target", arm="nli")[0]
    encoder = design(study).phases[bad].parent

    def fails(name: str) -> tuple[int, str] | None:
        in_one_job = any(bad in job.phases and name in job.phases for job in ran_jobs[-1:])
        return MISSING if name == bad or in_one_job else None

    ran_jobs: list[StudyJob] = []
    original = runner.write_job

    def note(folder: StudyFolder, grid: StudyGrid, job: StudyJob) -> Path:
        ran_jobs.append(job)
        return original(folder, grid, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "write_job", note)
        ran = go(study, fails=fails)
    assert encoder in ran.folder.recorded()
    assert [one.name for one in ran.outcome.failed] == [bad]


def test_a_job_that_ends_well_without_scores_has_failed(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, resources={"retries": 0})
    bad = names(design(study), role="pretraining", size="micro-small")[0]
    ran = go(study, fails=lambda name: (0, "nothing to do") if name == bad else None)
    assert "ended without the scores it should have" in ran.text
    assert len(ran.outcome.failed) == 1


def test_a_size_that_fits_nowhere_is_said_and_the_others_run(tmp_path: Path) -> None:
    def estimate(grid: StudyGrid) -> Any:
        placements, seconds = flat_estimate(grid)
        large, _ = flat_estimate(grid, devices=4)
        return {**placements, "micro-large": large["micro-large"]}, seconds

    ran = go(tiny_study(tmp_path), estimate)
    assert "micro-large needs 4 devices" in ran.text
    assert {ran.grid.phases[name].size for name in ran.folder.recorded()} == {"micro-small"}


def test_without_space_nothing_is_started_and_it_is_said_what_is_missing(tmp_path: Path) -> None:
    ran = go(tiny_study(tmp_path), lambda grid: flat_estimate(grid, bytes_per_checkpoint=10**18))
    assert not ran.executor.started
    assert "waits for disk space" in ran.outcome.stuck and "free some" in ran.outcome.stuck
    assert sum("waits for disk space" in line for line in ran.lines[:-1]) == 2  # once for each job that could start


def test_space_that_running_jobs_may_still_need_is_not_given_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = 4 * 100  # three checkpoints and two encoders of one job
    monkeypatch.setattr(disk_room, "free_bytes", lambda folder: space + 50)
    ran = go(tiny_study(tmp_path), lambda grid: flat_estimate(grid, bytes_per_checkpoint=100), slots=4)
    assert ran.outcome.is_complete and ran.executor.most_at_once == 1


def test_devices_that_others_use_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter(range(10**6))
    monkeypatch.setattr(FakeExecutor, "has_room", lambda self, job: next(asked) > 3 and not self.underway())
    ran = go(tiny_study(tmp_path))
    assert ran.outcome.is_complete and "and others use them" in ran.text


def test_a_job_that_somebody_cancels_is_not_started_again(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    bad = names(design(study), role="pretraining", size="micro-small")[0]
    ran = go(study, fails=lambda name: (None, "batch job 7 is CANCELLED") if name == bad else None)
    assert [one.name for one in ran.outcome.failed] == [bad]
    assert sum(bad in job.phases for job in ran.executor.started) == 1


def test_two_runners_share_the_work(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, resources={"keep_encoders": "always"})
    found: list[Ran] = []
    together = [threading.Thread(target=lambda: found.append(go(study))) for _ in range(2)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join(60)
    trained = found[0].executor.trained + found[1].executor.trained
    assert sorted(trained) == sorted(found[0].grid.phases)
    assert all(ran.outcome.is_complete for ran in found)


def test_what_somebody_else_works_on_is_said_and_waited_for(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    grid, folder = design(study), StudyFolder.of(study)
    theirs = names(grid, role="pretraining", size="micro-small")[0]
    claims = take(folder, [theirs], {"study": "another"})
    assert claims is not None

    def finish_later() -> None:
        finish_phase(folder, grid, theirs)
        claims.release()

    timer = threading.Timer(0.5, finish_later)
    timer.start()
    ran = go(study)
    assert f"process {os.getpid()} on" in ran.text and "study another" in ran.text
    assert theirs not in ran.executor.trained and ran.outcome.is_complete


def test_an_interrupted_runner_stops_its_jobs_and_frees_their_claims(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    folder, grid = StudyFolder.of(study), design(study)

    def interrupt(job: StudyJob) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    ran = go(study, ends=interrupt)
    assert ran.outcome.stopped_by == "SIGTERM" and ran.executor.stopped
    assert ran.outcome.exit_code == 85 and "FAILED" not in ran.text
    assert not any(is_claimed(folder, name) for name in grid.phases)
    assert "SIGTERM: 1 jobs save and end" in ran.text and "the same command goes on" in ran.lines[-1]


@pytest.mark.parametrize("code", [85, 86])
def test_a_job_that_was_stopped_or_has_lost_a_node_goes_on_and_has_not_failed(tmp_path: Path, code: int) -> None:
    study = tiny_study(tmp_path, resources={"retries": 0})
    bad = names(design(study), role="intermediate", size="micro-small")[0]
    turns = iter([True] * 3)
    ran = go(study, fails=lambda name: (code, "lost: node2") if name == bad and next(turns, False) else None)
    assert ran.outcome.is_complete and "FAILED" not in ran.text
    assert ran.text.count("lost: node2; it goes on") == 3


def test_a_job_that_is_lost_again_and_again_is_given_up(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    bad = names(design(study), role="intermediate", size="micro-small")[0]
    ran = go(study, fails=lambda name: (86, "lost: node2") if name == bad else None)
    assert [one.name for one in ran.outcome.failed] == [bad] and "lost 20 times" in ran.text


def test_a_job_that_stops_shortly_before_the_end_of_the_allocation_ends_the_runner_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLT_SCALE_END_TIME", str(time.time() + 200))
    ran = go(tiny_study(tmp_path), fails=lambda name: (85, "stopped: the allocation ends"))
    assert ran.outcome.stopped_by == "the end of the allocation" and ran.outcome.exit_code == 85
    assert len(ran.executor.started) == 1


def test_a_runner_that_is_cancelled_stops_and_is_not_to_be_started_again(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    folder = StudyFolder.of(study)

    def cancel(job: StudyJob) -> bool:
        [one] = runners(folder)
        assert one.is_alive and one.process == os.getpid()
        one.ask_to_stop()
        return False

    ran = go(study, ends=cancel)
    assert ran.outcome.stopped_by == "study cancel" and ran.outcome.exit_code == 130
    assert not list(runners(folder))


def test_encoders_are_gone_when_everything_that_starts_from_them_is_recorded(tmp_path: Path) -> None:
    ran = go(tiny_study(tmp_path))
    assert not [name for name in ran.grid.phases if ran.folder.has_weights(name)]
    assert not list(ran.folder.pool.glob("*/result"))


def test_an_encoder_goes_too_when_its_last_child_was_recorded_while_the_job_still_ran(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    grid, folder = design(study), StudyFolder.of(study)

    def ends(job: StudyJob) -> bool:
        if job.phases[0] in folder.recorded():
            return True
        for name in job.phases:
            finish_phase(folder, grid, name)
        return False

    ran = go(study, ends=ends)
    assert ran.outcome.is_complete
    assert not list(folder.pool.glob("*/result"))


@pytest.mark.parametrize("named", ["result", None])
def test_weights_that_a_kill_has_left_are_removed(tmp_path: Path, named: str | None) -> None:
    ran = go(tiny_study(tmp_path))
    target = ran.folder.phase(names(ran.grid, role="target")[0])
    (target / "result").mkdir()
    (target / "phase.json").write_text(json.dumps({"checkpoint": named, "hash": "abc"}))
    go(tiny_study(tmp_path))
    assert not (target / "result").exists()
    assert json.loads((target / "phase.json").read_text()) == {"checkpoint": None, "hash": "abc"}


def test_encoders_stay_when_the_study_says_so(tmp_path: Path) -> None:
    ran = go(tiny_study(tmp_path, resources={"keep_encoders": "always"}))
    encoders = names(ran.grid, role="intermediate") + names(ran.grid, role="pretraining")
    assert all(ran.folder.has_weights(name) for name in encoders)


def test_an_encoder_stays_while_another_study_with_the_same_pool_needs_it(tmp_path: Path) -> None:
    pool = str(tmp_path / "pool")
    fewer = {"sizes": [{"name": "micro-small"}]}
    further = {"name": "valence", "phase": {"task": "micro-valence", "steps": 9}, "evaluate": ["micro-valence"]}
    second = tiny_study(tmp_path, name="second", output=str(tmp_path / "second"), pool=pool, targets=[further], **fewer)
    crash = go(second, fails=lambda name: CRASH if name.startswith("micro-valence") else None)
    assert not crash.outcome.is_complete
    first = go(tiny_study(tmp_path, pool=pool, **fewer))
    assert first.outcome.is_complete
    encoders = names(crash.grid, role="intermediate")
    assert all(first.folder.has_weights(name) for name in encoders)
    go(second)
    assert not any(first.folder.has_weights(name) for name in encoders)


def test_an_encoder_comes_back_when_a_new_target_needs_it(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    first = go(study)
    topic = {"name": "topic", "phase": {"task": "micro-topic", "steps": 2}, "evaluate": ["micro-topic"]}
    table = study.model_dump() | {"targets": [*(t.model_dump() for t in study.targets), topic]}
    ran = go(tiny_study(tmp_path, targets=table["targets"]))
    assert ran.outcome.is_complete
    again = set(ran.executor.trained) & set(first.grid.phases)
    assert again == set(names(first.grid, role="intermediate") + names(first.grid, role="pretraining"))


def test_a_changed_study_file_is_said_with_what_it_means(tmp_path: Path) -> None:
    go(tiny_study(tmp_path))
    ran = go(tiny_study(tmp_path, seeds={"intermediate": [1, 3], "target": [1]}))
    assert "seeds.intermediate: [1, 2] -> [1, 3]" in ran.text
    assert "8 finished phases stay valid" in ran.text and "6 are no longer part of the study" in ran.text
    assert len(ran.folder.recorded()) == 14 + 6


def test_phases_that_are_asked_for_more_are_run_again(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    go(study)
    grid, folder = design(study), StudyFolder.of(study)
    lacking = names(grid, role="target", arm="none")[:1]
    lines: list[str] = []
    executor = FakeExecutor(folder, grid)
    runner.run_study(
        study,
        executor,
        redesign=lambda: grid,
        estimate=flat_estimate,
        collect=collect,
        say=lines.append,
        finished=lambda folder, grid: folder.recorded() - set(lacking),
        poll_seconds=0.001,
        round_seconds=0.01,
    )
    assert [job.phases for job in executor.started][-1] == tuple(lacking)


def test_a_search_names_further_phases_while_the_study_runs(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, search={"learning_rates": [1e-4, 1e-3]})
    folder, lines = StudyFolder.of(study), list[str]()

    def grid_so_far() -> StudyGrid:
        trials = design(study)
        done = folder.recorded() >= set(names(trials, role="search"))
        cells = [
            SearchCell(size.name, arm.name, target.name)
            for size in study.sizes
            for arm in study.arms
            for target in study.targets
        ]
        return design(study, dict.fromkeys(cells, Choice(1e-3, {}, 2)) if done else {})

    executor = FakeExecutor(folder, grid_so_far())

    def redesign() -> StudyGrid:
        executor.grid = grid_so_far()
        return executor.grid

    outcome = runner.run_study(
        study,
        executor,
        redesign=redesign,
        estimate=flat_estimate,
        collect=collect,
        say=lines.append,
        poll_seconds=0.001,
        round_seconds=0.01,
    )
    assert outcome.is_complete and outcome.num_phases == 2 * (1 + 2 + 4 + 4)


def test_events_tell_what_was_done(tmp_path: Path) -> None:
    ran = go(tiny_study(tmp_path))
    rows = list(read_events(ran.folder.events_file))
    kinds = {row["event"] for row in rows}
    assert {"runner started", "job started", "job ended", "phase finished", "encoder removed", "runner ended"} == kinds
    finished = [row["phase"] for row in rows if row["event"] == "phase finished"]
    assert sorted(finished) == sorted(ran.grid.phases)


def test_lines_tell_how_far_it_is_and_how_long_it_will_take(tmp_path: Path) -> None:
    ran = go(tiny_study(tmp_path))
    assert any(line.startswith("[4/14] ") and line.endswith(" left") for line in ran.lines), ran.text
    assert ran.lines[-1] == "done: 14 of 14 phases"


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device", "/pool/job.toml")

    monkeypatch.setattr(runner, "write_job", full)
    with pytest.raises(runner.UserError, match=r"/pool/job.toml: No space left on device; mend that"):
        go(tiny_study(tmp_path))

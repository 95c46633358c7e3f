"""`xlt-scale study cancel`: what it ends, what it says, and what it leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_stand_in import Queue, job, study_folder

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.running import cancelling
from xlt_scale.scaling.running.cancelling import cancel_study
from xlt_scale.scaling.running.claims import Claims
from xlt_scale.scaling.running.executors.slurm import SlurmExecutor
from xlt_scale.scaling.running.runner_files import RunnerFile, runners
from xlt_scale.study_config import ResourceOptions


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    pretended = Queue(tmp_path)
    for name, value in pretended.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cancelling, "_POLL_SECONDS", 0.05)
    return pretended


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    found = study_folder(tmp_path)
    found.records.mkdir(parents=True)
    return found


def submit(folder: StudyFolder, *names: str) -> None:
    executor = SlurmExecutor(folder, ResourceOptions(devices_per_node=1))
    for name in names:
        (folder.jobs / name).mkdir(parents=True, exist_ok=True)
        executor.start(job(name), folder.jobs / name, Claims([]))
    executor.submit()
    executor.stop()


def cancelled(folder: StudyFolder, seconds: float = 0.2) -> str:
    lines: list[str] = []
    cancel_study(folder, seconds, lines.append)
    return "\n".join(lines)


def test_queued_batch_jobs_are_cancelled_and_running_ones_may_save_first(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, "a", "b")
    queue.set("101_0", "RUNNING")
    text = cancelled(folder)
    assert "cancelled in the queue: 1 batch job (101_1)" in text
    assert "running, asked to save: 1 batch job (101_0)" in text and "ended by SLURM: 1 batch job (101_0)" in text
    assert queue.said("cancelled").splitlines() == ["101_1", "--batch --signal=USR1 101_0", "101_0"]
    assert "xlt-scale study run goes on" in text


def test_cancelling_again_says_that_there_is_nothing(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, "a")
    cancelled(folder)
    assert "nothing to cancel" in cancelled(folder)
    assert queue.said("cancelled").count("101_0") == 1


def test_a_cancelled_study_is_handed_over_anew(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, "a")
    cancelled(folder)
    executor = SlurmExecutor(folder, ResourceOptions())
    assert not executor.underway()
    executor.stop()


def test_batch_jobs_are_found_by_their_name_when_nothing_is_written_of_them(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, "a")
    for path in folder.root.glob("batch/*/*"):
        path.unlink()
    assert "cancelled in the queue: 1 batch job (101_0)" in cancelled(folder)


def test_batch_jobs_of_others_are_left_alone(queue: Queue, folder: StudyFolder, tmp_path: Path) -> None:
    submit(study_folder(tmp_path / "another"), "a")
    submit(folder, "b")
    cancelled(folder)
    assert queue.said("cancelled").splitlines() == ["102_0"]


def test_a_study_that_was_never_handed_over_needs_no_cluster(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "nothing to cancel" in cancelled(folder)


def test_a_controller_that_does_not_answer_is_told(queue: Queue, folder: StudyFolder) -> None:
    submit(folder, "a")
    queue.switch("down", True)
    with pytest.raises(UserError, match="batch jobs were not cancelled, try again later"):
        cancelled(folder)


RUNNER = """
import sys, time
from pathlib import Path
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.running.runner_files import RunnerFile
with RunnerFile(StudyFolder(Path(sys.argv[1]), Path(sys.argv[1]) / "phases")) as file:
    print("runs", flush=True)
    while not file.is_asked_to_stop:
        time.sleep(0.05)
"""


def start_runner(folder: StudyFolder) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", RUNNER, str(folder.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "runs\n"
    return process


def test_runners_are_asked_to_end_and_waited_for(folder: StudyFolder) -> None:
    runner = start_runner(folder)
    text = cancelled(folder, 20.0)
    assert f"asked to end: runner, process {runner.pid} on {os.uname().nodename}" in text
    assert runner.poll() == 0 or runner.wait(5) == 0
    assert "nothing to cancel" in cancelled(folder)
    runner.communicate()


def test_a_killed_runners_file_is_no_runner(folder: StudyFolder) -> None:
    runner = start_runner(folder)
    runner.kill()
    runner.communicate()
    assert [one.is_alive for one in runners(folder)] == [False]
    assert "nothing to cancel" in cancelled(folder)
    assert not list(runners(folder))


def test_a_batch_job_that_was_stopped_inside_a_runner_and_waits_for_its_next_turn_is_cancelled(
    queue: Queue, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    with RunnerFile(folder) as file:
        file.ends_with(85)
    (queue.place / "jobs").write_text("77|3|PENDING|BeginTime|xlt-study\n78|0|PENDING|None|xlt-study\n")
    assert "cancelled in the queue: 1 batch job (77_3)" in cancelled(folder)
    assert not list(runners(folder))

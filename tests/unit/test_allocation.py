"""When the allocation of a job ends."""

import time
from pathlib import Path

import pytest

from xlt_scale.cluster.allocation import allocation_end, seconds_left
from xlt_scale.cluster.stop_request import StopRequest


@pytest.fixture(autouse=True)
def outside_any_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "XLT_SCALE_END_TIME",
        "SLURM_JOB_END_TIME",
        "SLURM_JOB_ID",
        "SLURM_ARRAY_JOB_ID",
        "SLURM_ARRAY_TASK_ID",
    ):
        monkeypatch.delenv(name, raising=False)


def squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A squeue that says what the real one says."""
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_outside_a_batch_system_there_is_no_end() -> None:
    assert allocation_end() is None
    assert seconds_left(None) == float("inf")


def test_the_variable_of_the_batch_script_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", "2000")
    assert allocation_end() == 2000.0
    monkeypatch.setenv("XLT_SCALE_END_TIME", "1000.5")
    assert allocation_end() == 1000.5


def test_slurm_is_asked_for_the_end_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, monkeypatch, '[ "$3" = --jobs=12 ] && echo 2026-11-21T20:00:00')
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    expected = time.mktime(time.strptime("2026-11-21T20:00:00", "%Y-%m-%dT%H:%M:%S"))
    assert allocation_end() == expected


def test_of_an_array_only_the_job_itself_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, monkeypatch, '[ "$3" = --jobs=12_3 ] && echo 2026-11-21T20:00:00')
    for name, value in {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(name, value)
    assert allocation_end() is not None


@pytest.mark.parametrize("script", ["echo N/A", "echo gone >&2; exit 1"])
def test_a_job_without_a_limit_or_a_silent_slurm_means_no_end(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(tmp_path, monkeypatch, script)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert allocation_end() is None


def test_a_step_that_takes_long_has_to_fit_in_once_more_before_the_end() -> None:
    request = StopRequest()
    request.watch_the_clock(time.time() + 4.0, seconds_before_end=1.0)
    said = []
    for pause in (0.0, 1.0, 0.8):  # the first one would be the building of an engine
        time.sleep(pause)
        said.append(request.why())
    time.sleep(0.8)
    assert (said, request.why()) == (["", "", ""], "the allocation ends in 1 s")


def test_a_short_job_is_not_stopped_before_it_has_done_anything() -> None:
    request = StopRequest()
    request.watch_the_clock(time.time() + 4.0, seconds_before_end=300.0)
    assert request.why() == ""
    time.sleep(3.2)
    assert request.why() == "the allocation ends in 1 s"

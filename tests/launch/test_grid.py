"""The quickstart's grid and the jobs below it."""

import os
import re
import sys
import time
from pathlib import Path

import pytest
from runs import Finished, start

from xlt_scale.scaling.jobs import Job, run_side_by_side

FEW_STEPS = [
    "phases.pretrain.steps=3",
    *(f"phases.{phase}.max_examples=64" for phase in ("intermediate", "valence", "topic")),
    *(f"phases.{phase}-after-intermediate.max_examples=64" for phase in ("valence", "topic")),
    "phases.pretrain.evaluate_languages=['qea']",
]


def grid(folder: Path, cache: Path, *settings: str, seeds: str = "1") -> Finished:
    command = [sys.executable, "-m", "xlt_scale.scaling.micro_grid", "--output", str(folder), "--seeds", *seeds.split()]
    for setting in [*FEW_STEPS, *settings, f"data.cache={cache}"]:
        command += ["--set", setting]
    return start(command, limit=200)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("grid")
    return folder, grid(folder, cache, "phases.untrained.evaluate_languages=['qea']")


def test_the_grid_ends_with_a_table_of_gains_for_each_target(finished: tuple[Path, Finished]) -> None:
    output = finished[1].output
    assert finished[1].code == 0, output
    for title in ("micro-valence: accuracy in percent", "micro-topic: accuracy", "micro-retrieval after each phase"):
        assert title in output


def test_the_table_has_chance_scores_and_gain_by_size_and_family(finished: tuple[Path, Finished]) -> None:
    row = r"micro-(small|large) │ micro [efgh] +│[^│]*│ +50 │ +(\d+\.\d) │ +(\d+\.\d) │ +([+-]\d+\.\d) │"
    rows = re.findall(row, finished[1].output)
    assert len(rows) == 2 * 4
    for _, without, with_it, gain in rows:
        assert float(with_it) - float(without) == pytest.approx(float(gain), abs=0.11)


def test_a_started_again_grid_repeats_nothing(finished: tuple[Path, Finished], cache: Path) -> None:
    again = grid(finished[0], cache, "phases.untrained.evaluate_languages=['qea']")
    assert again.code == 0
    log = (finished[0] / "micro-small-seed1.log").read_text()
    assert log.count("finished before (") == 7


def test_a_failed_run_is_named_with_its_reason_and_the_grid_fails(tmp_path: Path, cache: Path) -> None:
    ended = grid(tmp_path, cache, "model.max_length=600")
    assert ended.code == 1
    assert ended.output.count("FAILED, error: model.max_length = 600") == 2
    assert "2 of 2 runs failed" in ended.output


def job(name: str, script: str, folder: Path) -> Job:
    return Job(name, [sys.executable, "-c", script], dict(os.environ), folder / f"{name}.log")


def test_jobs_run_side_by_side_in_their_slots(tmp_path: Path) -> None:
    script = "import os, time; time.sleep(1.0); print(os.environ['SLOT'])"
    jobs = [job(str(number), script, tmp_path) for number in range(4)]
    began = time.monotonic()
    assert run_side_by_side(jobs, [{"SLOT": "a"}, {"SLOT": "b"}], lambda line: None) == []
    assert time.monotonic() - began < 3.9
    slots = [(tmp_path / f"{number}.log").read_text().strip() for number in range(4)]
    assert sorted(slots) == ["a", "a", "b", "b"]


def test_a_failed_job_does_not_stop_the_others(tmp_path: Path) -> None:
    lines: list[str] = []
    jobs = [job("bad", "raise SystemExit('no luck')", tmp_path), job("good", "print('well')", tmp_path)]
    assert run_side_by_side(jobs, [{}], lines.append) == [jobs[0]]
    assert "bad: FAILED, no luck" in lines[0]
    assert lines[1].startswith("[2/2] good")


def test_an_interrupted_grid_leaves_no_job_behind(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    jobs = [
        job("short", "pass", tmp_path),
        job(
            "long",
            f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(99)",
            tmp_path,
        ),
    ]
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(jobs, [{}, {}], interrupt)
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)

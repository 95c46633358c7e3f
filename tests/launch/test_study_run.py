"""A study with real training, from its file to its records."""

from pathlib import Path
from typing import Any

import pytest
from real_study import run_small_study, stamps, write_study
from runs import Finished

from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.running.events import read_events
from xlt_scale.study_config import load_study

GONE = {
    "kind": "classification",
    "type": "classification",
    "description": "a task of the user's own, whose file is not there",
    "labels": ["0", "1"],
    "languages": ["en"],
    "files": [{"split": "train", "pattern": "gone.tsv", "header": True, "text": "sentence", "label": "label"}],
}


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Two sizes, one of them on two processes; one intermediate seed, to be done in a minute."""
    settings = ["seeds.intermediate=[1]", "sizes.micro-large.devices=2"]
    return write_study(tmp_path_factory.mktemp("small"), cache, *settings)


@pytest.fixture(scope="module")
def finished(study_file: Path) -> Finished:
    return run_small_study(study_file)


@pytest.fixture(scope="module")
def grid(study_file: Path) -> StudyGrid:
    return design(load_study(study_file))


@pytest.fixture(scope="module")
def folder(study_file: Path) -> StudyFolder:
    return StudyFolder.of(load_study(study_file))


def test_every_phase_of_the_grid_has_a_record(finished: Finished, folder: StudyFolder, grid: StudyGrid) -> None:
    assert finished.code == 0, finished.output
    assert folder.recorded() == grid.phases.keys()
    assert f"done: {len(grid.phases)} of {len(grid.phases)} phases" in finished.output


def test_every_job_has_a_folder_like_a_run(finished: Finished, folder: StudyFolder) -> None:
    jobs = [path for path in folder.jobs.iterdir() if path.is_dir()]
    assert jobs
    for job in jobs:
        assert {"job.toml", "log.txt", "run.toml", "environment.json", "phases"} <= {
            path.name for path in job.iterdir()
        }
        assert (job / "phases").resolve() == folder.pool.resolve()


def test_a_job_of_two_devices_has_two_processes(finished: Finished, folder: StudyFolder) -> None:
    facts = {path.name: read_facts(path / "environment.json")["world_size"] for path in folder.jobs.iterdir()}
    assert {(name.split(".")[0], world) for name, world in facts.items()} == {("micro-small", 1), ("micro-large", 2)}


def test_no_weights_are_left_when_all_is_done(finished: Finished, folder: StudyFolder) -> None:
    assert not list(folder.pool.glob("*/result"))


def test_events_tell_how_long_every_job_took(finished: Finished, folder: StudyFolder) -> None:
    ended = [row for row in read_events(folder.events_file) if row["event"] == "job ended"]
    assert {row["job"] for row in ended} == {path.name for path in folder.jobs.iterdir()}
    assert all(row["seconds"] > 0 and row["code"] == 0 for row in ended)


def test_a_finished_study_is_not_run_again(finished: Finished, study_file: Path, folder: StudyFolder) -> None:
    before = stamps([*folder.pool.glob("*/phase.json"), *folder.records.glob("*")])
    again = run_small_study(study_file)
    assert again.code == 0 and "0 to run" in again.output and "started" not in again.output
    assert stamps([*folder.pool.glob("*/phase.json"), *folder.records.glob("*")]) == before


def test_a_mistake_in_one_arm_is_told_and_the_rest_is_run(tmp_path: Path, cache: Path) -> None:
    def with_the_mistake(table: dict[str, Any]) -> None:
        table["sizes"] = table["sizes"][:1]
        table["run"]["tasks"] = {"gone": GONE}
        table["arms"][1]["phases"] = [{"task": "gone"}]

    path = write_study(tmp_path, cache, "seeds.intermediate=[1]", change=with_the_mistake)
    ended = run_small_study(path, seconds=600.0)
    study = load_study(path)
    grid, folder = design(study), StudyFolder.of(study)
    after_mistake = {name for name, phase in grid.phases.items() if phase.arm == "nli"}
    assert ended.code == 1
    assert folder.recorded() == grid.phases.keys() - after_mistake
    [line] = [line for line in ended.output.splitlines() if line.startswith("failed: ")]
    assert "gone" in line and "log.txt" in line
    assert "not run, because they come from these" in ended.output

"""The folder and the run file of a job."""

from pathlib import Path

import pytest
from tiny_study import flat_estimate, names, tiny_study

from xlt_scale.config import load_run
from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import StudyJob, pack
from xlt_scale.scaling.running.run_files import RUN_FILE, job_options, write_job
from xlt_scale.scaling.running.study_changes import changed_keys


@pytest.fixture
def grid(tmp_path: Path) -> StudyGrid:
    return design(tiny_study(tmp_path))


@pytest.fixture
def folder(grid: StudyGrid) -> StudyFolder:
    return StudyFolder.of(grid.study)


@pytest.fixture
def job(grid: StudyGrid) -> StudyJob:
    """An intermediate encoder and its target."""
    jobs = pack(grid, list(grid.phases), *flat_estimate(grid), hours_per_job=12.0)
    return next(job for job in jobs if grid.phases[job.phases[0]].role == "intermediate")


def test_the_run_file_is_one_that_launch_train_reads(folder: StudyFolder, grid: StudyGrid, job: StudyJob) -> None:
    options = load_run(write_job(folder, grid, job) / RUN_FILE)
    assert [phase.name for phase in options.phases] == list(job.phases)
    assert Path(options.output) == (folder.jobs / job.name).absolute()


def test_a_parent_in_the_job_is_named_and_one_outside_is_a_folder_of_the_pool(
    folder: StudyFolder, grid: StudyGrid, job: StudyJob
) -> None:
    encoder, target = job_options(folder, grid, job).phases
    assert target.parent == encoder.name
    above = grid.phases[encoder.name].parent
    assert Path(encoder.parent) == folder.phase(above).absolute() and above in names(grid, role="pretraining")


def test_phases_land_in_the_pool_by_name(folder: StudyFolder, grid: StudyGrid, job: StudyJob) -> None:
    place = write_job(folder, grid, job)
    (place / "phases" / "here").mkdir()
    assert (folder.pool / "here").is_dir()
    assert not (place / "phases").readlink().is_absolute()  # the study's folder can be moved


def test_a_pool_outside_the_study_is_linked_where_it_is(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path, pool=str(tmp_path / "pool")))
    folder = StudyFolder.of(grid.study)
    job = pack(grid, list(grid.phases), *flat_estimate(grid), hours_per_job=12.0)[0]
    assert (write_job(folder, grid, job) / "phases").readlink() == (tmp_path / "pool").resolve()


def test_a_job_can_be_written_again_over_what_a_kill_has_left(
    folder: StudyFolder, grid: StudyGrid, job: StudyJob
) -> None:
    place = write_job(folder, grid, job)
    text = (place / RUN_FILE).read_text()
    (place / "phases").unlink()
    (place / "phases").symlink_to("elsewhere")
    (place / RUN_FILE).write_text("half")
    write_job(folder, grid, job)
    assert (place / RUN_FILE).read_text() == text and (place / "phases").resolve() == folder.pool.resolve()


def test_jobs_write_no_tensorboard_files_unless_the_study_says_so(
    tmp_path: Path, folder: StudyFolder, grid: StudyGrid, job: StudyJob
) -> None:
    assert not job_options(folder, grid, job).logging.tensorboard
    run = {**grid.study.run, "logging": {"tensorboard": True}}
    loud = design(tiny_study(tmp_path, run=run))
    assert job_options(folder, loud, job).logging.tensorboard


def test_changed_keys_are_called_by_the_names_of_their_entries() -> None:
    before = {"arms": [{"name": "nli", "label": ""}], "seeds": {"target": [1, 2]}}
    now = {"arms": [{"name": "nli", "label": "x"}, {"name": "qa"}], "seeds": {"target": [1, 2]}}
    assert changed_keys(before, now) == ["arms.nli.label: '' -> 'x'", "arms.qa.name: absent -> 'qa'"]

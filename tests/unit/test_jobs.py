"""What is left of a grid, and the jobs it is packed into."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tiny_study import flat_estimate, names, tiny_study

from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.jobs import StudyJob, pack, phases_left


def jobs_of(grid: StudyGrid, left: Collection[str], hours: float = 12.0, **placement: Any) -> list[StudyJob]:
    placements, seconds = flat_estimate(grid, **placement)
    return pack(grid, list(left), placements, seconds, hours)


def test_everything_is_left_at_first(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    assert phases_left(grid, set(), set()) == list(grid.phases)


def test_a_recorded_parent_without_weights_is_left_while_a_child_needs_it(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    child = names(grid, role="target", arm="nli", size="micro-small")[0]
    above = [phase.name for phase in grid.ancestors(child)]
    recorded = grid.phases.keys() - {child}
    assert phases_left(grid, recorded, set()) == [*above, child]
    assert phases_left(grid, recorded, {above[-1]}) == [child]


def test_every_phase_is_in_one_job(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    packed = [name for job in jobs_of(grid, grid.phases) for name in job.phases]
    assert sorted(packed) == sorted(grid.phases)


def test_targets_follow_their_encoder_in_its_job(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    for job in jobs_of(grid, grid.phases):
        if grid.phases[job.phases[0]].role == "intermediate":
            assert list(job.phases[1:]) == [phase.name for phase in grid.children(job.phases[0])]


def test_an_encoder_that_other_encoders_start_from_has_a_job_of_its_own(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    jobs = {job.phases[0]: job for job in jobs_of(grid, grid.phases)}
    for name in names(grid, role="pretraining"):
        assert jobs[name].phases == (name,)


def test_a_job_says_what_it_needs_of_other_jobs(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    for job in jobs_of(grid, grid.phases):
        outside = {grid.phases[name].parent for name in job.phases} - set(job.phases) - {""}
        assert job.needs == outside


def test_a_long_chain_is_cut_into_jobs_of_about_the_hours_given(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path, seeds={"intermediate": [1], "target": [1, 2, 3, 4, 5]}))
    jobs = jobs_of(grid, grid.phases, hours=2.5 / 60)  # a phase is a minute
    assert max(len(job.phases) for job in jobs) == 2
    encoder = names(grid, role="intermediate", size="micro-small")[0]
    pieces = [job for job in jobs if encoder in job.phases or encoder in job.needs]
    assert [len(job.phases) for job in pieces] == [2, 2, 2]
    assert [bool(job.needs & {encoder}) for job in pieces] == [False, True, True]


def test_a_phase_longer_than_the_hours_given_has_a_job_of_its_own(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    assert all(len(job.phases) == 1 for job in jobs_of(grid, grid.phases, hours=0.001))


def test_a_job_keeps_its_name_while_its_first_phase_is_left(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    before = {job.phases[0]: job.name for job in jobs_of(grid, grid.phases)}
    without = [name for name in grid.phases if grid.phases[name].role != "target"]
    after = {job.phases[0]: job.name for job in jobs_of(grid, without)}
    assert after.items() <= before.items()


def test_names_of_jobs_are_all_different(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    found = [job.name for job in jobs_of(grid, grid.phases, hours=0.001)]
    assert len(set(found)) == len(found) == len(grid.phases)


def test_a_job_asks_for_space_for_its_checkpoints_and_results(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    jobs = jobs_of(grid, grid.phases, bytes_per_encoder=10, bytes_per_checkpoint=100)
    encoders = {job.space for job in jobs if grid.phases[job.phases[0]].role == "intermediate"}
    targets = {job.space for job in jobs if grid.phases[job.phases[0]].role == "target"}
    assert encoders == {3 * 100 + 2 * 10} and targets == {3 * 100 + 10}


def test_what_takes_no_longer_than_a_process_start_is_put_together(tmp_path: Path) -> None:
    grid = design(tiny_study(tmp_path))
    placements, _ = flat_estimate(grid)
    jobs = pack(grid, list(grid.phases), placements, dict.fromkeys(grid.phases, 0.1), 12.0)
    assert [job.size for job in jobs] == ["micro-large", "micro-small"]
    for job in jobs:
        order = {name: number for number, name in enumerate(job.phases)}
        parents = [(grid.phases[name].parent, name) for name in job.phases if grid.phases[name].parent]
        assert all(order[parent] < order[name] for parent, name in parents) and not job.needs

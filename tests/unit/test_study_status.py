"""How far a study is, by its files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_records import SmallStudy

from xlt_scale.scaling.records.collect import collect
from xlt_scale.scaling.records.status import CellStatus, Status, status_table, study_status
from xlt_scale.scaling.running.claims import take


@pytest.fixture
def study(tmp_path: Path) -> SmallStudy:
    return SmallStudy.make(tmp_path / "study")


def status_of(study: SmallStudy) -> Status:
    return study_status(study.folder, study.grid)


def cell(status: Status, size: str, arm: str, column: str) -> CellStatus:
    return next(row for row in status.rows if (row.size, row.arm) == (size, arm)).cells[column]


def printed(status: Status, width: int = 150) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(status_table(status))
    return console.export_text()


def write_events(study: SmallStudy, *events: dict[str, Any]) -> None:
    study.folder.root.mkdir(parents=True, exist_ok=True)
    study.folder.events_file.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_a_study_that_was_not_begun_has_nothing_done(study: SmallStudy) -> None:
    status = status_of(study)
    assert (status.total.done, status.total.total) == (0, len(study.grid.phases))
    assert status.seconds_left is None


def test_looking_at_a_study_that_was_not_begun_writes_nothing(study: SmallStudy) -> None:
    status_of(study)
    assert not study.folder.root.exists()


def test_cells_count_the_phases_of_their_place(study: SmallStudy) -> None:
    study.finish(study.phases(size="micro-tiny", arm="inference", target="words")[:3])
    collect(study.folder, study.grid)
    status = status_of(study)
    assert cell(status, "micro-tiny", "inference", "words") == CellStatus(done=3, total=4)
    assert cell(status, "micro-small", "inference", "words") == CellStatus(done=0, total=4)
    assert cell(status, "micro-tiny", "none", "sentences").total == 1


def test_rows_and_columns_follow_the_study(study: SmallStudy) -> None:
    status = status_of(study)
    assert status.columns == ("pre-training", "intermediate", "pairs", "spans", "words", "sentences")
    assert [row.arm for row in status.rows] == 2 * ["", "none", "inference", "questions"]


def test_phases_whose_claim_is_held_are_running(study: SmallStudy) -> None:
    phase = study.phase(target="pairs")
    claims = take(study.folder, [phase.name])
    assert claims is not None
    assert status_of(study).running == (phase.name,)
    claims.release()
    assert status_of(study).running == ()


def test_a_failed_job_is_told_with_its_reason(study: SmallStudy) -> None:
    name = study.phase(target="pairs").name
    write_events(
        study,
        {"event": "job started", "job": "one", "phases": [name]},
        {"event": "job failed", "job": "one", "reason": "no space left", "log": "jobs/one/log.txt"},
    )
    status = status_of(study)
    assert [(job.job, job.reason, job.log) for job in status.failed] == [("one", "no space left", "jobs/one/log.txt")]
    assert status.total.failed == 1
    assert "failed: one: no space left (jobs/one/log.txt)" in printed(status)


def test_a_job_that_failed_and_then_went_well_is_not_told(study: SmallStudy) -> None:
    name = study.phase(target="pairs").name
    started = {"event": "job started", "job": "one", "phases": [name]}
    write_events(study, started, {"event": "job failed", "job": "one"}, started, {"event": "job ended", "job": "one"})
    assert status_of(study).failed == ()


def test_a_failure_that_another_job_has_made_good_is_not_told(study: SmallStudy) -> None:
    [name] = study.finish([study.phase(target="pairs")])
    write_events(study, {"event": "job started", "job": "one", "phases": [name]}, {"event": "job failed", "job": "one"})
    collect(study.folder, study.grid)
    assert status_of(study).failed == ()


def test_a_torn_line_of_the_events_is_passed_by(study: SmallStudy) -> None:
    write_events(study, {"event": "job started", "job": "one", "phases": []})
    with study.folder.events_file.open("a") as file:
        file.write('[1]\n{"event": "job fai')
    assert status_of(study).failed == ()


def test_the_time_left_is_that_of_phases_of_the_same_kind(study: SmallStudy) -> None:
    phases = study.phases(target="pairs")
    everything = [phase for phase in study.grid.phases.values() if phase not in phases]
    study.finish(everything, seconds=10.0)
    study.finish(phases[:1], seconds=100.0)
    collect(study.folder, study.grid)
    left = phases[1:]
    of_size = {size: sum(phase.size == size for phase in left) for size in ("micro-tiny", "micro-small")}
    # Phases of the other size have never run with this task: those of the same size tell.
    assert status_of(study).seconds_left == pytest.approx(100.0 * of_size["micro-tiny"] + 10.0 * of_size["micro-small"])


def test_the_time_of_starts_and_scoring_is_in_the_time_left(study: SmallStudy) -> None:
    name = study.finish(study.phases(size="micro-tiny", target="pairs")[:1], seconds=10.0)[0]
    collect(study.folder, study.grid)
    before = status_of(study).seconds_left
    write_events(
        study,
        {"event": "job started", "job": "one", "phases": [name]},
        {"event": "job ended", "job": "one", "seconds": 30.0},
    )
    assert status_of(study).seconds_left == pytest.approx(3 * (before or 0.0))


def test_jobs_side_by_side_share_the_time_left(study: SmallStudy) -> None:
    study.finish(study.phases(size="micro-tiny", target="pairs"))
    collect(study.folder, study.grid)
    alone = status_of(study).seconds_left
    phases = [phase.name for phase in study.phases(target="words")[:4]]
    write_events(
        study,
        {"event": "job started", "job": "one", "phases": phases[:2]},
        {"event": "job started", "job": "two", "phases": phases[2:]},
    )
    claims = take(study.folder, phases)
    together = status_of(study)
    assert claims is not None
    claims.release()
    assert (together.num_jobs, together.seconds_left) == (2, pytest.approx((alone or 0.0) / 2))


def test_a_finished_study_takes_no_more_time(study: SmallStudy) -> None:
    study.finish(study.grid.phases.values())
    collect(study.folder, study.grid)
    status = status_of(study)
    assert (status.seconds_left, status.total.done) == (0.0, len(study.grid.phases))
    assert "100 %" in printed(status)


def test_runs_that_wait_for_the_search_are_counted(tmp_path: Path) -> None:
    study = SmallStudy.make(tmp_path, search={"learning_rates": [1e-5, 1e-4]})
    status = status_of(study)
    assert status.total.waiting == study.grid.waiting
    assert cell(status, "micro-tiny", "none", "search").total == 6
    assert "wait for the learning-rate search" in printed(status)


def test_the_disk_that_the_study_takes_is_counted_once(study: SmallStudy) -> None:
    [name] = study.finish([study.phase(target="pairs")])
    (study.folder.phase(name) / "result").write_bytes(bytes(1_000_000))
    status = status_of(study)
    assert 1_000_000 < status.disk_bytes < 1_100_000
    assert not status.disk_is_partial


def test_phases_that_the_study_now_asks_more_of_are_not_done(study: SmallStudy) -> None:
    study.finish(study.phases(target="spans"))
    collect(study.folder, study.grid)
    targets = [{"name": "spans", "phase": {"task": "squad"}, "evaluate": ["xquad", "mlqa"]}]
    assert status_of(SmallStudy.make(study.folder.root, targets=targets)).total.done == 0


def test_an_unreadable_record_is_named(study: SmallStudy) -> None:
    [name] = study.finish([study.phase(target="pairs")])
    collect(study.folder, study.grid)
    study.folder.record_file(name).write_text("{")
    assert f"{name}.json is half-written" in printed(status_of(study), width=400)


def test_the_table_marks_what_is_done_running_and_not_begun(study: SmallStudy) -> None:
    study.finish(study.phases(size="micro-tiny", arm="none", target="pairs"))
    collect(study.folder, study.grid)
    claims = take(study.folder, [study.phase(size="micro-tiny", arm="none", target="words").name])
    text = printed(status_of(study))
    assert claims is not None
    claims.release()
    row = next(line for line in text.splitlines() if " none " in line)
    assert all(mark in row for mark in ("4/4", "0/4 ▶1", "·"))


def test_programs_get_everything_as_json(study: SmallStudy) -> None:
    table = json.loads(json.dumps(status_of(study).to_json()))
    assert table["total"]["total"] == len(study.grid.phases)
    assert table["rows"][1]["cells"]["pairs"] == {"done": 0, "total": 4, "running": 0, "failed": 0, "waiting": 0}


def test_it_starts_without_what_takes_long_to_load() -> None:
    script = (
        "import sys; from xlt_scale.scaling.records import collect, export, status;"
        "print([name for name in ('torch', 'transformers', 'scipy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

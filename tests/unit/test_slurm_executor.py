"""The queue as the control process sees it: what it has handed over, what became of it, and what it never knew."""

import fcntl
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from slurm_stand_in import Queue, job, study_folder
from tiny_study import soon

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.running import control_lock
from xlt_scale.scaling.running.claims import Claims
from xlt_scale.scaling.running.control_lock import take_control
from xlt_scale.scaling.running.executors import slurm
from xlt_scale.scaling.running.executors.interface import Ended
from xlt_scale.scaling.running.executors.slurm import SlurmExecutor
from xlt_scale.scaling.running.executors.slurm_queue import _read_accounting
from xlt_scale.study_config import ResourceOptions

Make = Callable[..., SlurmExecutor]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    pretended = Queue(tmp_path)
    for name, value in pretended.environment.items():
        monkeypatch.setenv(name, value)
    # Every poll is a look at the queue.
    monkeypatch.setattr(slurm, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "_MOST_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "_SECONDS_TO_SETTLE", 0.0)
    return pretended


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return study_folder(tmp_path)


@pytest.fixture
def lines() -> list[str]:
    """What the executor has said."""
    return []


@pytest.fixture
def make(folder: StudyFolder, lines: list[str]) -> Iterator[Make]:
    """A start of the control process, which hands over jobs of a node's size; the one before it is gone."""
    made: list[SlurmExecutor] = []

    def make(*jobs: StudyJob, **resources: int) -> SlurmExecutor:
        if made:
            made[-1].stop()
        options = ResourceOptions(**({"devices_per_node": 1} | resources))  # type: ignore[arg-type]
        executor = SlurmExecutor(folder, options, say=lines.append)
        made.append(executor)
        give(executor, folder, jobs)
        return executor

    yield make
    for executor in made:
        executor.stop()


def give(executor: SlurmExecutor, folder: StudyFolder, jobs: Sequence[StudyJob]) -> list[str]:
    """Hand over as many as there is room for; their names."""
    taken = []
    for one in jobs:
        if executor.has_room(one):
            (folder.jobs / one.name).mkdir(parents=True, exist_ok=True)
            executor.start(one, folder.jobs / one.name, Claims([]))
            taken.append(one.name)
    executor.submit()
    return taken


def write_code(folder: StudyFolder, name: str, code: int, says: str = "") -> None:
    [note] = [path for path in folder.root.glob("batch/*/submission.json") if f'"{name}"' in path.read_text()]
    (note.parent / f"{name}.code").write_text(f"{code}\n")
    (folder.jobs / name / "log.txt").write_text(f"{says}\n")


def ends(found: Sequence[Ended]) -> dict[str, int | None]:
    return {one.job.name: one.code for one in found}


def test_what_is_in_the_queue_is_known_after_a_restart(queue: Queue, make: Make) -> None:
    make(job("a"), job("b", needs=("a-1",)))
    again = make()
    assert set(again.underway()) == {"a", "b"}
    assert again.underway()["b"].phases == ("b-1", "b-2") and again.underway()["b"].needs == {"a-1"}
    assert len(queue.scripts()) == 2


def test_ended_jobs_tell_their_own_code(queue: Queue, folder: StudyFolder, make: Make) -> None:
    executor = make(job("a"), job("b"))
    write_code(folder, "a", 0)
    write_code(folder, "b", 2, "error: no file")
    queue.set("101_0", "COMPLETED")
    queue.set("101_1", "FAILED")
    found = executor.poll()
    assert ends(found) == {"a": 0, "b": 2} and found[1].reason == "error: no file"
    assert not executor.underway() and not make().underway()


@pytest.mark.parametrize("state", ["PENDING", "REQUEUED", "REQUEUE_HOLD", "COMPLETING", "SUSPENDED", "STAGE_OUT"])
def test_a_batch_job_that_is_to_run_again_has_not_ended(
    queue: Queue, folder: StudyFolder, make: Make, state: str
) -> None:
    executor = make(job("a"))
    write_code(folder, "a", 85)
    queue.set("101_0", state)
    assert not executor.poll() and not executor.poll()
    assert executor.underway()


def test_a_batch_job_whose_node_has_failed_is_over_only_when_it_stays_so(queue: Queue, make: Make) -> None:
    executor = make(job("a"))
    queue.set("101_0", "NODE_FAIL")
    assert not executor.poll()
    queue.set("101_0", "PENDING")
    assert not executor.poll()
    queue.set("101_0", "NODE_FAIL")
    assert not executor.poll()
    assert ends(executor.poll()) == {"a": 86}


@pytest.mark.parametrize("state", ["TIMEOUT", "PREEMPTED", "BOOT_FAIL", ""])
def test_without_a_code_of_its_own_a_job_counts_as_lost(queue: Queue, make: Make, state: str) -> None:
    executor = make(job("a"))
    queue.set("101_0", state)
    assert ends([*executor.poll(), *executor.poll()]) == {"a": 86}


def test_a_job_that_took_too_much_memory_has_failed(queue: Queue, make: Make) -> None:
    executor = make(job("a"))
    queue.set("101_0", "OUT_OF_MEMORY")
    assert ends([*executor.poll(), *executor.poll()]) == {"a": 1}


def test_a_batch_job_that_slurm_has_forgotten_is_known_by_its_own_files(
    queue: Queue, folder: StudyFolder, make: Make
) -> None:
    executor = make(job("a"))
    write_code(folder, "a", 0)
    queue.set("101_0", "")
    assert ends([*executor.poll(), *executor.poll()]) == {"a": 0}


def test_a_cancelled_job_was_not_carried_out(queue: Queue, folder: StudyFolder, make: Make) -> None:
    executor = make(job("a"))
    write_code(folder, "a", 85)
    queue.set("101_0", "CANCELLED")
    [ended] = executor.poll()
    assert ended.code is None and ended.reason == "batch job 101_0 is CANCELLED"


def test_what_sbatch_has_handed_over_without_an_answer_is_found_by_its_name(
    queue: Queue, make: Make, lines: list[str]
) -> None:
    queue.switch("silent", True)
    executor = make(job("a"))
    queue.switch("silent", False)
    assert set(executor.underway()) == {"a"} and not executor.has_room(job("after", needs=("a-1",)))
    executor.poll()
    assert "batch job 101: not handed over again" in lines[-1]
    assert executor.has_room(job("after", needs=("a-1",)))
    assert len(queue.scripts()) == 1


def test_after_a_kill_before_the_number_was_noted_the_next_start_finds_it(
    queue: Queue, folder: StudyFolder, make: Make
) -> None:
    make(job("a"))
    [note] = folder.root.glob("batch/*/submission.json")
    note.write_text(note.read_text().replace('"number": "101"', '"number": ""'))
    again = make()
    assert set(again.underway()) == {"a"}
    queue.set("101_0", "RUNNING")
    assert not again.poll() and set(again.underway()) == {"a"}
    assert '"number": "101"' in note.read_text()


def test_after_a_kill_before_sbatch_the_jobs_are_handed_over(queue: Queue, folder: StudyFolder, make: Make) -> None:
    make(job("a"))
    [note] = folder.root.glob("batch/*/submission.json")
    note.write_text(note.read_text().replace('"number": "101"', '"number": ""'))
    (queue.place / "jobs").unlink()
    again = make()
    assert not again.poll() and not again.underway()


def test_a_batch_job_that_began_unseen_and_was_forgotten_is_known_by_what_it_left(
    queue: Queue, folder: StudyFolder, make: Make
) -> None:
    make(job("a"))
    [note] = folder.root.glob("batch/*/submission.json")
    note.write_text(note.read_text().replace('"number": "101"', '"number": ""'))
    (note.parent / "started-0.json").write_text('{"number": "101", "time": 1.0}')
    write_code(folder, "a", 0)
    (queue.place / "jobs").unlink()
    again = make()
    assert ends([*again.poll(), *again.poll()]) == {"a": 0}


def test_a_controller_that_does_not_answer_is_told_of_once_and_ends_nothing(
    queue: Queue, make: Make, lines: list[str]
) -> None:
    executor = make(job("a"))
    queue.switch("down", True)
    for _ in range(3):
        assert not executor.poll()
    assert sum("SLURM does not answer" in line for line in lines) == 1 and executor.underway()
    queue.switch("down", False)
    executor.poll()
    assert lines[-1] == "SLURM answers again"


def test_no_more_than_so_many_batch_jobs_run_at_a_time(queue: Queue, folder: StudyFolder, make: Make) -> None:
    alike, others = [job(str(number)) for number in range(3)], [job("other", devices=2)]
    executor = make(max_jobs=2)
    assert give(executor, folder, [*alike, *others]) == ["0", "1", "2"]
    assert queue.options()[0]["array"] == "0-2%2"
    assert not executor.has_room(others[0])
    for index in range(2):
        write_code(folder, str(index), 0)
        queue.set(f"101_{index}", "COMPLETED")
    executor.poll()
    assert give(executor, folder, others) == ["other"]
    assert queue.options()[1]["array"] == "0-0%1"


def test_places_that_become_free_go_to_arrays_with_more_to_run(queue: Queue, folder: StudyFolder, make: Make) -> None:
    executor = make(job("a"), max_jobs=3)
    give(executor, folder, [job(str(number), devices=2) for number in range(4)])
    assert queue.options()[1]["array"] == "0-3%2"
    write_code(folder, "a", 0)
    queue.set("101_0", "COMPLETED")
    executor.poll()
    assert "arraytaskthrottle=3" in queue.said("scontrol")


def test_a_full_queue_is_told_and_tried_again_later(queue: Queue, make: Make, lines: list[str]) -> None:
    (queue.place / "refusal").write_text(
        "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: job submit limit\n"
    )
    executor = make(job("a"))
    assert not executor.underway() and not executor.has_room(job("a"))
    assert "SLURM takes no more for now" in lines[-1]


def test_a_held_batch_job_is_told_of_once(queue: Queue, make: Make, lines: list[str]) -> None:
    executor = make(job("a"))
    queue.set("101_0", "PENDING", "JobHeldAdmin")
    for _ in range(2):
        executor.poll()
    assert [line for line in lines if "scontrol release 101_0" in line] == lines[-1:]


def test_a_refused_script_is_told_in_one_line(queue: Queue, make: Make) -> None:
    (queue.place / "refusal").write_text("sbatch: error: invalid account\n")
    with pytest.raises(UserError, match=r"invalid account; mend resources.slurm"):
        make(job("a"))
    (queue.place / "refusal").unlink()
    assert not make().underway()


def test_without_sbatch_it_is_said_where_to_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="--executor local"):
        make(job("a"))


def test_stopping_leaves_the_queue_alone_and_says_so(queue: Queue, make: Make) -> None:
    assert "1 batch jobs stay in the queue; to cancel them: xlt-scale study cancel" in make(job("a")).stop()


def test_devices_that_are_no_whole_number_of_nodes_are_refused(make: Make) -> None:
    executor = make(devices_per_node=4)
    assert "set sizes.devices to a multiple" in executor.why_never(job("a", devices=6))
    assert not executor.why_never(job("a", devices=8))


def test_states_are_read_as_accounting_prints_them() -> None:
    rows = _read_accounting(["12_0|CANCELLED by 0|x", "12_1|RUNNING|x", "14||y"])
    assert [(row.id, row.state, row.name) for row in rows] == [
        ("12_0", "CANCELLED", "x"),
        ("12_1", "RUNNING", "x"),
        ("14", "UNKNOWN", "y"),
    ]


HOLD = """
import sys, time
from pathlib import Path
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.running.control_lock import take_control
lock = take_control(StudyFolder(Path(sys.argv[1]), Path(sys.argv[1]) / "phases"), print)
{then}
print("has it", flush=True)
time.sleep(60)
"""


def hold(folder: StudyFolder, then: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD.replace("{then}", then), str(folder.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "has it\n"
    return process


def test_a_second_control_process_is_refused_and_told_who_is_the_first(
    folder: StudyFolder, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_lock, "_SECONDS_FOR_OTHERS", 0.3)
    first = hold(folder)
    try:
        with pytest.raises(UserError, match=rf"process {first.pid} on {os.uname().nodename} hands over"):
            make()
    finally:
        first.kill()
        first.communicate()
    make()


def test_the_next_control_process_waits_for_the_sbatch_of_a_killed_one(
    folder: StudyFolder, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_lock, "_SECONDS_FOR_OTHERS", 0.3)
    sbatch = "import subprocess; subprocess.Popen(['sleep', '2'], pass_fds=[lock.descriptor], stdout=2)"
    first = hold(folder, sbatch)
    first.kill()
    first.communicate()
    began = time.monotonic()
    take_control(folder, lines.append).release()
    assert time.monotonic() - began > 0.5
    assert f"waiting for the sbatch that process {first.pid}" in lines[0]


def test_a_control_process_on_another_node_is_known_by_its_heartbeat_where_locks_do_not_travel(
    folder: StudyFolder, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_lock, "_BEAT_SECONDS", 0.2)
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(control_lock.socket, "gethostname", lambda: "login1")
    first = take_control(folder, lines.append)
    monkeypatch.setattr(control_lock.socket, "gethostname", lambda: "login2")

    def beat() -> None:
        for _ in range(10):
            time.sleep(0.2)
            first.beat()

    heart = threading.Thread(target=beat)
    heart.start()
    with pytest.raises(UserError, match="on login1 hands over this study's batch jobs"):
        take_control(folder, lines.append)
    heart.join()
    # It has died without a word.
    take_control(folder, lines.append).release()
    assert soon(lambda: "still lives" in lines[-1])


HANDS_OVER = """
import dataclasses, os, random, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from slurm_stand_in import job, study_folder
from xlt_scale.scaling.running.claims import Claims
from xlt_scale.scaling.running.executors import slurm
from xlt_scale.study_config import ResourceOptions
slurm._LEAST_SECONDS = slurm._MOST_SECONDS = 0.0
folder = study_folder(Path(sys.argv[1]))
executor = slurm.SlurmExecutor(folder, ResourceOptions())
# From the moment at which something can go wrong.
threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), 9)).start()
while True:
    executor.poll()
    for number in range(6):
        one = dataclasses.replace(job(str(number)), size=str(number))
        if one.name not in executor.underway() and executor.has_room(one):
            executor.start(one, folder.jobs / one.name, Claims([]))
            executor.submit()
"""


@pytest.mark.slow
def test_kills_at_any_moment_hand_nothing_over_twice_and_lose_nothing(
    queue: Queue, folder: StudyFolder, tmp_path: Path
) -> None:
    place = str(Path(__file__).parent)
    moments = random.Random(7)
    for _ in range(12):
        command = [sys.executable, "-c", HANDS_OVER, str(tmp_path), str(moments.uniform(0.0, 0.08)), place]
        assert subprocess.run(command, timeout=60).returncode == -9
    # The last start has time to find out what all the others have left.
    command = [sys.executable, "-c", HANDS_OVER, str(tmp_path), "9", place]
    assert subprocess.run(command, timeout=60).returncode == -9
    notes = [read_facts(path) for path in folder.root.glob("batch/*/submission.json")]
    assert sorted(note["tasks"][0][0]["name"] for note in notes) == list("012345")
    assert sorted(note["name"] for note in notes) == sorted(found["job-name"] for found in queue.options())

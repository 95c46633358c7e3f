"""Jobs on this machine: devices, environment, ends."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_study import soon

from xlt_scale.errors import UserError
from xlt_scale.planning.gpus import visible_gpus
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.running import run_files
from xlt_scale.scaling.running.claims import Claims, is_claimed, take
from xlt_scale.scaling.running.executors.device_locks import DeviceLocks
from xlt_scale.scaling.running.executors.interface import Ended
from xlt_scale.scaling.running.executors.local import LocalExecutor, local_executor
from xlt_scale.scaling.running.ranks import run_ranks
from xlt_scale.scaling.running.run_files import job_command, job_environment, last_words

Start = Callable[..., Ended | None]


def job(name: str = "job", devices: int = 1, per_device: int = 1) -> StudyJob:
    return StudyJob(name, "small", (f"phase-of-{name}",), frozenset(), devices, per_device, 60.0, 0)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., LocalExecutor]]:
    """Start jobs that run a script on an executor."""
    made: list[LocalExecutor] = []

    def start(script: str, *jobs: StudyJob, gpus: tuple[str, ...] = (), cores: int = 2) -> LocalExecutor:
        locks = DeviceLocks(tmp_path / "devices")
        executor = LocalExecutor(gpus, cores, lambda run_file, count: [sys.executable, "-c", script], locks)
        made.append(executor)
        for one in jobs:
            (tmp_path / one.name).mkdir()
            assert executor.has_room(one)
            executor.start(one, tmp_path / one.name, Claims([]))
        return executor

    yield start
    for executor in made:
        executor.stop(0.1)


def ended(executor: LocalExecutor) -> list[Ended]:
    found: list[Ended] = []

    def is_over() -> bool:
        found.extend(executor.poll())
        return not executor.underway()

    assert soon(is_over)
    return found


def test_a_job_that_ends_tells_its_code_and_its_last_line(start: Callable[..., LocalExecutor]) -> None:
    found = ended(start("print('one'); print('two'); raise SystemExit(3)", job()))
    assert [(one.code, one.reason) for one in found] == [(3, "two")]


def test_the_programs_own_error_is_the_reason_whatever_comes_after(start: Callable[..., LocalExecutor]) -> None:
    found = ended(start("print('error: no file; mend it'); print('bye')", job()))
    assert found[0].reason == "error: no file; mend it"


def test_the_log_keeps_earlier_attempts_and_the_reason_is_of_the_last(tmp_path: Path) -> None:
    executor = LocalExecutor([], 1, command=lambda run_file, count: [sys.executable, "-c", "pass"])
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "log.txt").write_text("error: an old one\n")
    executor.start(job(), tmp_path / "job", Claims([]))
    assert ended(executor)[0].reason == "no word"
    assert "an old one" in (tmp_path / "job" / "log.txt").read_text()


def test_a_killed_job_tells_its_signal(start: Callable[..., LocalExecutor]) -> None:
    assert ended(start("import os; os.kill(os.getpid(), 9)", job()))[0].code == -9


def test_there_is_room_for_as_many_jobs_as_devices(start: Callable[..., LocalExecutor]) -> None:
    executor = start("import time; time.sleep(30)", job("a"))
    assert executor.has_room(job("b")) and not executor.has_room(job("c", devices=2))
    assert "2 devices" not in executor.why_never(job("c", devices=2))
    assert "needs 3 devices, and there are 2 processor cores" in executor.why_never(job("d", devices=3))


def test_small_runs_share_a_device_and_leave_the_others_whole(start: Callable[..., LocalExecutor]) -> None:
    small = [job(str(number), per_device=4) for number in range(3)]
    script = "import os, time; print('GPU', os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(30)"
    executor = start(script, *small, gpus=("4", "7"))
    assert executor.has_room(job("whole")) and not executor.has_room(job("two", devices=2))


def test_a_job_sees_its_own_gpus_only(start: Callable[..., LocalExecutor]) -> None:
    script = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    assert ended(start(script, job("one"), gpus=("4", "7")))[0].reason == "4"
    assert ended(start(script, job("two", devices=2), gpus=("4", "7")))[0].reason == "4,7"


def test_devices_are_free_again_after_the_end(start: Callable[..., LocalExecutor]) -> None:
    executor = start("pass", job("a", devices=2))
    assert not executor.has_room(job("b"))
    ended(executor)
    assert executor.has_room(job("b", devices=2))


def test_stopping_ends_jobs_that_do_not_want_to_and_what_they_have_started(tmp_path: Path) -> None:
    script = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], close_fds=False)\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    folder = StudyFolder(tmp_path, tmp_path / "pool")
    claims = take(folder, ["phase-of-job"])
    assert claims is not None
    executor = LocalExecutor([], 1, command=lambda run_file, count: [sys.executable, "-c", script])
    (tmp_path / "job").mkdir()
    executor.start(job(), tmp_path / "job", claims)
    log = tmp_path / "job" / "log.txt"
    assert soon(lambda: len(log.read_text().splitlines()) == 2)
    began = time.monotonic()
    executor.stop(0.3)
    assert time.monotonic() - began < 5
    assert soon(lambda: not is_claimed(folder, "phase-of-job"))
    assert not executor.underway()


def test_what_an_ended_job_leaves_running_is_ended_too(tmp_path: Path) -> None:
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    script = f"import subprocess, sys; subprocess.Popen({sleeper}, close_fds=False)"
    folder = StudyFolder(tmp_path, tmp_path / "pool")
    claims = take(folder, ["phase-of-job"])
    assert claims is not None
    executor = LocalExecutor([], 1, command=lambda run_file, count: [sys.executable, "-c", script])
    (tmp_path / "job").mkdir()
    executor.start(job(), tmp_path / "job", claims)
    ended(executor)
    assert soon(lambda: not is_claimed(folder, "phase-of-job"))


def test_gpus_that_another_runners_jobs_use_are_left_alone(start: Callable[..., LocalExecutor]) -> None:
    start("import time; time.sleep(30)", job("theirs"), gpus=("0", "1"))
    script = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(1)"
    mine = start(script, job("mine"), gpus=("0", "1"))
    assert not mine.has_room(job("another")) and not mine.has_room(job("two", devices=2))
    assert ended(mine)[0].reason == "1"


def test_small_runs_of_two_runners_share_a_gpu_until_it_is_full(start: Callable[..., LocalExecutor]) -> None:
    start("import time; time.sleep(30)", job("a", per_device=3), job("b", per_device=3), gpus=("0",))
    other = start("import time; time.sleep(30)", gpus=("0",))
    assert not other.has_room(job("whole"))
    start("import time; time.sleep(30)", job("c", per_device=3), gpus=("0",))
    assert not other.has_room(job("d", per_device=3))


def test_a_gpu_is_free_when_the_job_that_used_it_is_killed(start: Callable[..., LocalExecutor]) -> None:
    executor = start("import os; os.kill(os.getpid(), 9)", job("a"), gpus=("0",))
    ended(executor)
    assert start("pass", gpus=("0",)).has_room(job("b"))


def test_one_process_is_started_plainly_and_several_by_ranks() -> None:
    alone, several = job_command(Path("job.toml"), 1), job_command(Path("job.toml"), 4)
    assert alone[1].endswith("launch/train.py") and alone[2:] == ["--run", "job.toml"]
    assert several[1:4] == ["-m", "xlt_scale.scaling.running.ranks", "4"] and several[-1] == "job.toml"


def test_a_package_without_its_launch_scripts_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_files.xlt_scale, "__file__", str(tmp_path / "xlt_scale" / "__init__.py"))
    with pytest.raises(UserError, match="pip install -e"):
        job_command(Path("job.toml"), 1)


def test_a_launchers_variables_are_not_handed_on() -> None:
    environment = job_environment([], {"RANK": "3", "MASTER_ADDR": "there", "HOME": "/root"})
    assert not {"RANK", "MASTER_ADDR"} & environment.keys()
    assert environment["HOME"] == "/root" and environment["OMP_NUM_THREADS"] == "1"


def test_on_gpus_the_number_of_threads_is_left_alone() -> None:
    assert "OMP_NUM_THREADS" not in job_environment(["0"], {})


def test_visible_gpus_are_those_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    assert local_executor(slots=1).describe() == "1 GPU"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    with pytest.raises(UserError, match="there is no GPU"):
        local_executor("cuda")


def test_without_gpus_jobs_take_processor_cores_at_most_as_many_as_there_are() -> None:
    assert local_executor("cpu", slots=1).describe() == "1 processor core"
    assert local_executor("cpu", slots=999).describe().startswith(str(os.cpu_count()))


def test_ranks_know_their_number_and_meet_at_one_port(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    names = "'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'"
    script.write_text(
        "import os, sys\n"
        f"open(sys.argv[1] + os.environ['RANK'], 'w').write(' '.join(os.environ[name] for name in ({names})))\n"
    )
    assert run_ranks(2, [sys.executable, str(script), str(tmp_path / "rank")]) == 0
    first, second = ((tmp_path / f"rank{rank}").read_text().split() for rank in range(2))
    assert first[:3] == ["0", "0", "2"] and second[:3] == ["1", "1", "2"]
    assert first[3:] == second[3:]


def test_when_a_rank_fails_the_others_are_ended_and_its_code_is_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlt_scale.scaling.running.ranks._SECONDS_FOR_OTHERS", 0.2)
    script = tmp_path / "rank.py"
    script.write_text("import os, sys, time\nsys.exit(2) if os.environ['RANK'] == '1' else time.sleep(60)\n")
    began = time.monotonic()
    assert run_ranks(2, [sys.executable, str(script)]) == 2
    assert time.monotonic() - began < 10


def test_the_last_words_of_a_log_that_is_not_there(tmp_path: Path) -> None:
    assert last_words(tmp_path / "log.txt") == "no word"

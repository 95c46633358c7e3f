"""Who works on a phase holds its claim, and nobody else does."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_study import soon

from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.running import claims
from xlt_scale.scaling.running.claims import holder, is_claimed, take

HOLD = """
import sys, time
from pathlib import Path
from xlt_scale.scaling.running.claims import take
from xlt_scale.scaling.grid.folder import StudyFolder
held = take(StudyFolder(Path(sys.argv[1]), Path(sys.argv[1]) / "pool"), sys.argv[2:])
print("has it" if held else "has it not", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path, tmp_path / "pool")


@pytest.fixture
def another(folder: StudyFolder) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has claimed the phases a and b."""
    command = [sys.executable, "-c", HOLD, str(folder.root), "a", "b"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "has it\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_claimed_phase_is_not_claimed_again(folder: StudyFolder, another: "subprocess.Popen[str]") -> None:
    assert take(folder, ["b", "c"]) is None
    assert is_claimed(folder, "a") and is_claimed(folder, "b")


def test_it_is_all_phases_or_none(folder: StudyFolder, another: "subprocess.Popen[str]") -> None:
    assert take(folder, ["c", "a", "d"]) is None
    assert not is_claimed(folder, "c") and not is_claimed(folder, "d")


def test_the_holder_is_known(folder: StudyFolder, another: "subprocess.Popen[str]") -> None:
    assert f"process {another.pid} on {os.uname().nodename}" in holder(folder, "a")


def test_claims_are_free_when_their_holder_is_killed(folder: StudyFolder, another: "subprocess.Popen[str]") -> None:
    another.send_signal(signal.SIGKILL)
    another.wait()
    held = take(folder, ["a", "b"])
    assert held is not None
    held.release()


def test_released_claims_are_free(folder: StudyFolder) -> None:
    held = take(folder, ["a"])
    assert held is not None and is_claimed(folder, "a")
    held.release()
    assert not is_claimed(folder, "a")


def test_a_process_that_inherits_claims_holds_them_when_the_first_one_lets_go(folder: StudyFolder) -> None:
    held = take(folder, ["a"])
    assert held is not None
    heir = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=held.descriptors)
    held.release()
    try:
        assert is_claimed(folder, "a")
    finally:
        heir.kill()
        heir.wait()
    assert not is_claimed(folder, "a")


def test_a_process_that_does_not_inherit_claims_does_not_hold_them(folder: StudyFolder) -> None:
    held = take(folder, ["a"])
    assert held is not None
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    held.release()
    try:
        assert not is_claimed(folder, "a")
    finally:
        stranger.kill()
        stranger.wait()


def test_the_ranks_of_a_job_hold_its_claims_without_the_one_that_started_them(folder: StudyFolder) -> None:
    held = take(folder, ["a"])
    assert held is not None
    script = folder.root / "rank.py"
    script.write_text(
        "import os, sys, time\nopen(sys.argv[1] + os.environ['RANK'], 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-m", "xlt_scale.scaling.running.ranks", "2", str(script), str(folder.root / "pid")]
    starter = subprocess.Popen(command, pass_fds=held.descriptors)
    held.release()
    pids = [folder.root / f"pid{rank}" for rank in range(2)]
    assert soon(lambda: all(path.is_file() and path.read_text() for path in pids))
    starter.kill()
    starter.wait()
    first, second = (int(path.read_text()) for path in pids)
    os.kill(first, signal.SIGKILL)
    assert is_claimed(folder, "a")
    os.kill(second, signal.SIGKILL)
    assert soon(lambda: not is_claimed(folder, "a"))


def test_many_processes_that_want_the_same_phase_get_it_once(folder: StudyFolder) -> None:
    commands = [[sys.executable, "-c", HOLD, str(folder.root), "a"] for _ in range(4)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    answers = [process.stdout.readline() for process in processes if process.stdout]
    for process in processes:
        process.kill()
        process.communicate()
    assert sorted(answers) == ["has it\n"] + ["has it not\n"] * 3


def test_a_file_system_without_locks_is_told_of_once(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with pytest.warns(UserWarning, match="no locks on this file system; start one runner at a time") as caught:
        assert take(folder, ["a", "b"]) is not None
        assert not is_claimed(folder, "a")
    assert len(caught) == 1
    claims._warned.clear()

"""A study's runner and its jobs as processes that are forked after everything heavy was imported."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from kill_campaign_ranks import load_run, run, run_as_program, torch

from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import Placement, StudyJob
from xlt_scale.scaling.running.executors.local import LocalExecutor, Process
from xlt_scale.scaling.running.run_files import RUN_FILE
from xlt_scale.scaling.running.runner import run_study
from xlt_scale.study_config import StudyOptions

PID_FILE = "pid"


class Forked:
    """A child of this process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @property
    def pid(self) -> int:
        return self._pid

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


class ForkingExecutor(LocalExecutor):
    """Jobs of one process, with launch/train.py's work done in a fork. It inherits the claims as others do."""

    def _launch(
        self, job: StudyJob, folder: Path, environment: Mapping[str, str], output: IO[bytes], inherited: Sequence[int]
    ) -> Process:
        assert job.devices == 1
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for name in (signal.SIGTERM, signal.SIGINT):
                signal.signal(name, signal.SIG_DFL)
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            torch.set_num_threads(1)
            run_as_program(lambda: run(load_run(folder / RUN_FILE)))
        (folder / PID_FILE).write_text(str(pid))
        return Forked(pid)


def estimate(grid: StudyGrid) -> tuple[Mapping[str, Placement], Mapping[str, float]]:
    return {size: Placement(1, 1, 10**6, 10**6) for size in grid.runs}, dict.fromkeys(grid.phases, 10.0)


def start_runner(study: StudyOptions, slots: int, log: Path) -> Forked:
    """A runner in a session of its own, printing into a file."""
    # A fork copies the calling thread alone: locks that others hold would stay locked for good.
    assert len(os.listdir("/proc/self/task")) == 1
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with open(log, "ab") as output:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
        code = 1
        try:
            # It brings pyarrow with its threads, which must not be there before a fork of this file's process.
            from xlt_scale.scaling.records.collect import collect

            outcome = run_study(
                study,
                ForkingExecutor([], slots),
                redesign=lambda: design(study),
                estimate=estimate,
                collect=collect,
                say=lambda line: print(line, flush=True),
                round_seconds=0.5,
                poll_seconds=0.05,
            )
            code = 0 if outcome.is_complete else 3
        finally:
            sys.stdout.flush()
            os._exit(code)
    return Forked(pid)


def has_ended(process: Forked) -> bool:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def live_jobs(folder: StudyFolder) -> dict[str, int]:
    """Process numbers of the jobs that are being carried out, by job."""
    found = {}
    for path in folder.jobs.glob(f"*/{PID_FILE}"):
        with suppress(OSError, ValueError):
            pid = int(path.read_text())
            if "(deleted)" not in os.readlink(f"/proc/{pid}/exe") and _state(pid) not in "ZX":
                found[path.parent.name] = pid
    return found


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def kill_job(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def wait_for_end(process: Forked, seconds: float) -> int:
    """Its exit code.

    Raises:
        TimeoutError: it goes on.
    """
    deadline = time.monotonic() + seconds
    while not has_ended(process):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)
    return process.wait()

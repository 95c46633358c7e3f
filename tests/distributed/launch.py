"""Starts the ranks of a worker program as real processes, and ends every one of them whatever happens."""

import contextlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

WORKERS = Path(__file__).parent / "workers"
REPOSITORY = Path(__file__).parents[2]


class Rank(Protocol):
    """A process that was started."""

    pid: int

    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def wait(self) -> None: ...


def launch(
    worker: str,
    world_size: int,
    job: object,
    folder: Path,
    seconds: float = 200.0,
    environment: Mapping[str, str] = MappingProxyType({}),
    ranks_per_node: int = 0,
) -> list[Any]:
    """Run `workers/<worker>.py` on `world_size` ranks; what each rank answered, in rank order.

    A worker is called with the path of its job and the path for its answer, both JSON. Soon after one rank fails, or
    when the time is up, all are killed, and the test fails with what each of them printed. With `ranks_per_node`, local
    ranks are counted as on several nodes.

    Ranks are forked from a process that has imported what they need, which costs each some seconds otherwise. With an
    `environment` each is a Python of its own: some variables count when a process begins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job))
    shared = os.environ | {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(ranks_per_node or world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        **environment,
    }
    start = _Started if environment else _Forked
    ranks: list[Rank] = []
    try:
        for rank in range(world_size):
            numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank % (ranks_per_node or world_size))}
            arguments = [f"{WORKERS / worker}.py", str(folder / "job.json"), str(_answer(folder, rank))]
            ranks.append(start(arguments, shared | numbers, _output(folder, rank)))
        in_time = _wait(ranks, seconds)
    finally:
        for one in ranks:
            _kill(one)
        # DeepSpeed's buffers for ranks of one machine, which no process of it takes away: 140 MB of memory a group.
        for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{shared['MASTER_PORT']}_*"):
            buffer.unlink()
    outputs = [_output(folder, rank).read_text(errors="replace") for rank in range(world_size)]
    exit_codes = [one.code() for one in ranks]
    if any(exit_codes):
        what = f"failed with {exit_codes}" if in_time else f"was not done after {seconds:g} seconds"
        tails = "\n".join(f"--- rank {rank}\n{text[-4000:]}" for rank, text in enumerate(outputs))
        raise AssertionError(f"worker {worker} at {world_size} ranks {what}\n{tails}")
    return [json.loads(_answer(folder, rank).read_text()) for rank in range(world_size)]


class _Started:
    """A Python of its own."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> None:
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def code(self) -> int | None:
        return self._process.poll()

    def wait(self) -> None:
        self._process.wait()


class _Forked:
    """A copy of a process that has imported `warm`."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> None:
        _run_forkserver()
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=_work, args=(list(arguments), dict(environment), str(output)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def code(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> None:
        # Where it had no session of its own yet.
        self._process.kill()
        self._process.join()


@cache
def _run_forkserver() -> None:
    """Start the process that ranks are forked from; it ends with this one."""
    forkserver.set_forkserver_preload(["warm"])
    before = os.environ.get("PYTHONPATH")
    # The one way to tell it where to look.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), str(REPOSITORY), before]))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        os.environ.update({} if before is None else {"PYTHONPATH": before})


def _work(arguments: list[str], environment: dict[str, str], output: str) -> None:
    """In the forked process: become the worker."""
    assert "warm" in sys.modules
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.path[:0] = [str(Path(arguments[0]).parent), str(REPOSITORY)]
    runpy.run_path(arguments[0], run_name="__main__")


def _wait(ranks: list[Rank], seconds: float) -> bool:
    """Whether all ended in time; returns soon after the first that failed."""
    deadline = time.monotonic() + seconds
    grace = None
    while time.monotonic() < (grace or deadline):
        codes = [rank.code() for rank in ranks]
        if all(code is not None for code in codes):
            return True
        if grace is None and any(codes):
            grace = time.monotonic() + 3.0  # the others may fail of the same cause, and say so
        time.sleep(0.05)
    return grace is not None


def _kill(rank: Rank) -> None:
    """End a rank with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(rank.pid, signal.SIGKILL)
    rank.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answer(folder: Path, rank: int) -> Path:
    return folder / f"answer-{rank}.json"


def _output(folder: Path, rank: int) -> Path:
    return folder / f"output-{rank}.txt"

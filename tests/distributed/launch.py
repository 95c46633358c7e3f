"""Starts the ranks of a worker program as real processes, and ends every one of them whatever happens."""

import contextlib
import json
import multiprocessing
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
    variables: Mapping[str, str] = MappingProxyType({}),
    ranks_per_node: int = 0,
) -> list[Any]:
    """Run `workers/<worker>.py` on `world_size` ranks; what each rank answered, in rank order.

    A worker is called with the path of its job and the path for its answer, both JSON. Soon after one rank fails, or
    when the time is up, all are killed, and the test fails with what each of them printed. With `ranks_per_node`, local
    ranks are counted as on several nodes.

    Ranks are forked from a process that has imported what they need, which costs each some seconds otherwise, and have
    the `variables`. With an `environment` each is a Python of its own: some variables count when a process begins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job))
    words = [
        [f"{WORKERS / worker}.py", str(folder / "job.json"), str(_answer(folder, rank))] for rank in range(world_size)
    ]
    with _running(words, folder, environment, variables, ranks_per_node) as ranks:
        in_time = _wait(ranks, seconds)
    outputs = [_output(folder, rank).read_text(errors="replace") for rank in range(world_size)]
    exit_codes = [one.code() for one in ranks]
    if any(exit_codes):
        what = f"failed with {exit_codes}" if in_time else f"was not done after {seconds:g} seconds"
        tails = "\n".join(f"--- rank {rank}\n{text[-4000:]}" for rank, text in enumerate(outputs))
        raise AssertionError(f"worker {worker} at {world_size} ranks {what}\n{tails}")
    return [json.loads(_answer(folder, rank).read_text()) for rank in range(world_size)]


class Program:
    """Ranks of a program that are under way, or over."""

    def __init__(self, ranks: Sequence[Rank], logs: Sequence[Path]) -> None:
        self._ranks, self._logs = ranks, logs

    @property
    def log(self) -> Path:
        """What rank 0 prints."""
        return self._logs[0]

    @property
    def output(self) -> str:
        """What all have printed so far, one after another."""
        return "".join(log.read_text(errors="replace") for log in self._logs if log.exists())

    def poll(self) -> int | None:
        """The first exit code that is not 0, or 0; None while one runs."""
        codes = [rank.code() for rank in self._ranks]
        return None if None in codes else next(filter(None, codes), 0)

    def wait(self, timeout: float) -> int:
        """Wait until all have ended, or until soon after one has failed.

        Raises:
            AssertionError: they have not, in time.
        """
        assert _wait(self._ranks, timeout), self.output[-6000:]
        return next(filter(None, [rank.code() for rank in self._ranks]), 0)


@contextlib.contextmanager
def program(script: Path, arguments: Sequence[str], world_size: int, folder: Path) -> Iterator[Program]:
    """The ranks of a program of the product without its launcher, forked as workers are; killed in the end.

    For tests that do not ask how a program is started: with a launcher that takes as long as some hundred steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _running([[str(script), *arguments]] * world_size, folder) as ranks:
        yield Program(ranks, [_output(folder, rank) for rank in range(world_size)])


@contextlib.contextmanager
def _running(
    words: Sequence[Sequence[str]],
    folder: Path,
    environment: Mapping[str, str] = MappingProxyType({}),
    variables: Mapping[str, str] = MappingProxyType({}),
    ranks_per_node: int = 0,
) -> Iterator[list[Rank]]:
    """A process for each element of `words`: a script and its arguments."""
    local_size = ranks_per_node or len(words)
    shared = os.environ | {
        "WORLD_SIZE": str(len(words)),
        "LOCAL_WORLD_SIZE": str(local_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        **environment,
        **variables,
    }
    start = _Started if environment else _Forked
    ranks: list[Rank] = []
    try:
        for rank, arguments in enumerate(words):
            numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank % local_size)}
            ranks.append(start(arguments, shared | numbers, _output(folder, rank)))
        yield ranks
    finally:
        for one in ranks:
            _kill(one)
        # DeepSpeed's buffers for ranks of one machine, which no process of it takes away: 140 MB of memory a group.
        for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{shared['MASTER_PORT']}_*"):
            buffer.unlink()


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


def _wait(ranks: Sequence[Rank], seconds: float) -> bool:
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


def free_port() -> int:
    """Below the ports that the system gives to whoever asks for any: nobody takes it before rank 0 does."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _answer(folder: Path, rank: int) -> Path:
    return folder / f"answer-{rank}.json"


def _output(folder: Path, rank: int) -> Path:
    return folder / f"output-{rank}.txt"

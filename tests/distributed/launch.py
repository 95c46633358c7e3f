"""Starts the ranks of a worker program as real processes, and ends every one of them whatever happens."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

WORKERS = Path(__file__).parent / "workers"
REPOSITORY = Path(__file__).parents[2]


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
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(world_size):
            command = [
                sys.executable,
                str(WORKERS / f"{worker}.py"),
                str(folder / "job.json"),
                str(_answer(folder, rank)),
            ]
            with _output(folder, rank).open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        command,
                        env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank % (ranks_per_node or world_size))},
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        in_time = _wait(processes, seconds)
    finally:
        for process in processes:
            _kill(process)
    outputs = [_output(folder, rank).read_text(errors="replace") for rank in range(world_size)]
    exit_codes = [process.returncode for process in processes]
    if any(exit_codes):
        what = f"failed with {exit_codes}" if in_time else f"was not done after {seconds:g} seconds"
        tails = "\n".join(f"--- rank {rank}\n{text[-4000:]}" for rank, text in enumerate(outputs))
        raise AssertionError(f"worker {worker} at {world_size} ranks {what}\n{tails}")
    return [json.loads(_answer(folder, rank).read_text()) for rank in range(world_size)]


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> bool:
    """Whether all ended in time; returns soon after the first that failed."""
    deadline = time.monotonic() + seconds
    grace = None
    while time.monotonic() < (grace or deadline):
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes):
            return True
        if grace is None and any(codes):
            grace = time.monotonic() + 3.0  # the others may fail of the same cause, and say so
        time.sleep(0.05)
    return grace is not None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a rank with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answer(folder: Path, rank: int) -> Path:
    return folder / f"answer-{rank}.json"


def _output(folder: Path, rank: int) -> Path:
    return folder / f"output-{rank}.txt"

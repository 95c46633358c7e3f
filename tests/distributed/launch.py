"""Starts the ranks of a worker program as real processes, and ends every one of them whatever happens."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).parent / "workers"
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ranks:
    """What the ranks of a worker left behind, in rank order.

    Attributes:
        answers: what each rank wrote to its answer file; None where it wrote nothing.
        exit_codes: negative when a signal ended the process.
        outputs: what each rank printed.
    """

    answers: list[Any]
    exit_codes: list[int]
    outputs: list[str]


def launch(
    worker: str, world_size: int, job: object, folder: Path, seconds: float = 200.0, must_succeed: bool = True
) -> Ranks:
    """Run `workers/<worker>.py` on `world_size` ranks and wait for them.

    A worker is called with the path of its job and the path for its answer, both JSON. As soon as one rank fails, or the time
    is up, all are killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job))
    shared = os.environ | {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
    }
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(world_size):
            command = [sys.executable, str(WORKERS / f"{worker}.py"), str(folder / "job.json"), str(_answer(folder, rank))]
            with _output(folder, rank).open("wb") as output:
                environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                processes.append(
                    subprocess.Popen(
                        command,
                        env=environment,
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
    answers = [_read(_answer(folder, rank)) for rank in range(world_size)]
    exit_codes = [process.returncode for process in processes]
    if not in_time or (must_succeed and any(exit_codes)):
        what = f"failed with {exit_codes}" if in_time else f"was not done after {seconds:g} seconds"
        tails = "\n".join(f"--- rank {rank}\n{text[-4000:]}" for rank, text in enumerate(outputs))
        raise AssertionError(f"worker {worker} at {world_size} ranks {what}\n{tails}")
    return Ranks(answers, exit_codes, outputs)


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
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answer(folder: Path, rank: int) -> Path:
    return folder / f"answer-{rank}.json"


def _output(folder: Path, rank: int) -> Path:
    return folder / f"output-{rank}.txt"


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None

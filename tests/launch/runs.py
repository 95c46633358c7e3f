"""Start launch/train.py as a user does, under any launcher, and read what it leaves."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "distributed"))

from launch import Program, free_port, program  # noqa: E402

BIN = Path(sys.executable).parent
TRAIN = str(ROOT / "launch" / "train.py")
MICRO = str(ROOT / "launch" / "runs" / "micro.toml")

# Enough steps to see every part of the machinery.
SHORT = [
    "phases.pretrain.steps=20",
    "phases.intermediate.steps=8",
    "phases.target.steps=8",
    "phases.target-after-nli.steps=8",
    "phases.target.evaluate_languages=['qen', 'qea']",
    "phases.target-after-nli.evaluate_languages=['qen', 'qea']",
    "logging.every=1",
]


@dataclass(frozen=True)
class Finished:
    """A process that has ended."""

    code: int
    output: str
    seconds: float


def launcher(name: str, processes: int = 2) -> list[str]:
    """The command that comes before the script."""
    port = str(free_port())
    return {
        "python": [sys.executable],
        "deepspeed": [str(BIN / "deepspeed"), "--num_gpus", str(processes), "--master_port", port],
        "torchrun": [str(BIN / "torchrun"), "--nproc-per-node", str(processes), "--master-port", port],
        "accelerate": [
            *(str(BIN / "accelerate"), "launch", "--cpu", "--num_processes", str(processes), "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port),
        ],
    }[name]


def _clean() -> dict[str, str]:
    """The environment without the traces of the test's own process group."""
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return clean | {"PATH": f"{BIN}{os.pathsep}{clean.get('PATH', '')}"}


def start(command: Sequence[str], limit: float = 240, **environment: str) -> Finished:
    """Run a command to its end and take its output, both streams together."""
    began = time.monotonic()
    done = subprocess.run(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=limit,
        cwd=ROOT,
        env={**_clean(), **environment},
        check=False,
    )
    return Finished(done.returncode, done.stdout, time.monotonic() - began)


def training(
    name: str, folder: Path, cache: Path, *settings: str, run: str = MICRO, dash_dash_run: bool = True
) -> list[str]:
    """The command of a run of launch/train.py into `folder` under the named launcher."""
    command = [*launcher(name), TRAIN, *(["--run"] if dash_dash_run else []), run]
    for setting in [*settings, f"output={folder}", f"data.cache={cache}"]:
        command += ["--set", setting]
    return command


def forked(folder: Path, cache: Path, *settings: str, run: str = MICRO) -> AbstractContextManager[Program]:
    """The same run by two ranks that no launcher starts, which takes a fraction of the time; killed at the end."""
    _, _, *words = training("python", folder, cache, *settings, run=run)
    return program(Path(TRAIN), words, 2, folder.with_name(f"{folder.name}-ranks"))


def train_forked(folder: Path, cache: Path, *settings: str, run: str = MICRO) -> Finished:
    """Two forked ranks, to their end."""
    began = time.monotonic()
    with forked(folder, cache, *settings, run=run) as job:
        return Finished(job.wait(240), job.output, time.monotonic() - began)


def train(
    name: str, folder: Path, cache: Path, *settings: str, run: str = MICRO, dash_dash_run: bool = True
) -> Finished:
    """A run of launch/train.py into `folder` under the named launcher."""
    return start(training(name, folder, cache, *settings, run=run, dash_dash_run=dash_dash_run))


@contextlib.contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs beside the test, printing into `log`; killed at the end with everything it has started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT, env=_clean()
        )
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all its descendants: launchers put ranks into sessions of their own."""
    if process.poll() is None:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=20)
    process.wait()


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[bytes] | Program, log: Path, limit: float = 120
) -> None:
    """Wait for what a process that runs beside the test will do."""
    deadline = time.monotonic() + limit
    while not condition():
        ended = process.poll() is not None
        assert not ended and time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
        time.sleep(0.002)


def rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, rows with a loss."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for line in lines if "loss" in (row := json.loads(line))]


def scores(folder: Path) -> dict[str, Any]:
    """scores.json of a run or phase."""
    return json.loads((folder / "scores.json").read_text())["scores"]

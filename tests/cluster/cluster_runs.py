"""A small run that several nodes share: its file, the ways to start it, and what is looked at while it goes on.

The run is the same to the last bit wherever it is started with the same engine on the same number of ranks: fp32,
no dropout, no sampling but the seeded one.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from two_nodes import ClusterError, TwoNodes

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "distributed"))

from launch import program as program  # noqa: E402

SLURM = ROOT / "slurm"
TRAIN = ROOT / "launch" / "train.py"
ENVIRONMENT = Path(sys.prefix)
INTERFACE = "eth0"

RUN = """\
output = {output!r}
seed = 1
[model]
size = "micro-tiny"
tokenizer = "micro"
max_length = 64
dropout = 0.0
[engine]
name = {engine!r}
precision = "fp32"
max_tokens_per_micro_batch = {tokens}
[data]
cache = {cache!r}
[checkpoints]
every = {checkpoint_every}
keep_last = 3
[logging]
every = 1
tensorboard = false
[[phases]]
name = "pretrain"
task = "micro-mlm"
steps = {steps}
batch_size = {batch_size}
learning_rate = 2e-3
schedule = "constant"
warmup = 0.0
"""


@dataclass(frozen=True)
class ClusterRun:
    """A run's files.

    Attributes:
        file: the run file.
        folder: what the run writes; it appears when the run begins.
    """

    file: Path
    folder: Path

    def losses(self) -> dict[int, float]:
        """By step; rows that a repeated step has written twice have to agree.

        Raises:
            AssertionError: they do not.
        """
        found: dict[int, float] = {}
        for row in metric_rows(self.folder):
            assert found.setdefault(row["step"], row["loss"]) == row["loss"], f"step {row['step']} has two losses"
        return found

    def last_step(self) -> int:
        """The last step with a row; 0 before the first."""
        return max((row["step"] for row in metric_rows(self.folder)), default=0)

    def is_done(self) -> bool:
        return (self.folder / "phases" / "pretrain" / "result" / "COMPLETE").exists()


def make_run(
    place: Path,
    engine: str = "zero3",
    steps: int = 10,
    slowness: int = 1,
    checkpoint_every: int = 0,
    cache: Path | None = None,
) -> ClusterRun:
    """Write a run file into the folder `place`, which appears. A shorter run is the beginning of a longer one.

    Args:
        slowness: micro-batches per step. With 1, two ranks on a core each take some 30 ms per step; more of them make a
            step as many times longer, for tests that have to meet a run under way.
        checkpoint_every: steps; 0: only at the end.
        cache: of generated data, shared between runs that may not pay for making it; default: one of its own.
    """
    place.mkdir(parents=True)
    run = ClusterRun(place / "run.toml", place / "run")
    run.file.write_text(
        RUN.format(
            output=str(run.folder),
            engine=engine,
            cache=str(cache or place / "cache"),
            steps=steps,
            batch_size=16 * slowness,
            tokens=512,
            checkpoint_every=checkpoint_every,
        )
    )
    return run


def settings_file(place: Path, **further: str) -> Path:
    """A copy of slurm/cluster.env for the test cluster."""
    place.mkdir(parents=True, exist_ok=True)
    values = {
        "XLT_SCALE_ENV": str(ENVIRONMENT),
        "GLOO_SOCKET_IFNAME": INTERFACE,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        **further,
    }
    path = place / "cluster.env"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    path.write_text((SLURM / "cluster.env").read_text() + "\n".join(lines) + "\n")
    return path


def submit(
    cluster: TwoNodes,
    script: str | Path,
    *arguments: str | Path,
    place: Path,
    options: tuple[str, ...] = ("--nodes=2",),
    settings: Mapping[str, str] | None = None,
) -> str:
    """Submit a script, of slurm/ when it is a name, from the folder `place`; the job's id. Its log is <id>.txt there.

    Args:
        options: of sbatch.
        settings: further lines of cluster.env.
    """
    environment = {"XLT_SCALE_CHECKOUT": str(ROOT)}
    environment["XLT_SCALE_CLUSTER_ENV"] = str(settings_file(place, **(settings or {})))
    export = ",".join(["ALL", *(f"{name}={value}" for name, value in environment.items())])
    path = SLURM / script if isinstance(script, str) else script
    options = (*options, f"--output={place}/%j.txt", f"--chdir={place}", f"--export={export}")
    # sbatch notes the folder that it is called in, and the scripts go there.
    done = subprocess.run(
        ["sbatch", "--parsable", *options, str(path), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=place,
        env=cluster.environment,
    )
    if done.returncode:
        raise ClusterError(f"sbatch {path.name}: {done.stderr.strip()}")
    return done.stdout.strip()


def job_log(place: Path, job: str) -> str:
    path = place / f"{job}.txt"
    return path.read_text(errors="replace") if path.exists() else ""


def job_history(place: Path, job: str) -> list[dict[str, Any]]:
    """How the starts of a job ended that did not end well."""
    path = place / "slurm-jobs" / job / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finish(cluster: TwoNodes, job: str, place: Path, seconds: float = 120.0) -> str:
    """Wait until a job has ended well, however often it was requeued; its log.

    Raises:
        AssertionError: it ended otherwise.
    """
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
    facts = cluster.wait_for_state(job, over, seconds)
    assert facts["JobState"] == "COMPLETED", f"{facts['JobState']}\n{job_log(place, job)[-6000:]}"
    return job_log(place, job)


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl that have a loss; none while the file is not there."""
    try:
        lines = (folder / "metrics.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [row for line in lines if "loss" in (row := json.loads(line))]


def wait_for_step(run: ClusterRun, step: int, seconds: float = 90.0, log: Callable[[], str] = lambda: "") -> None:
    """Wait until a run has made this step.

    Raises:
        AssertionError: it has not, in time; with the end of what `log` gives.
    """
    deadline = time.monotonic() + seconds
    while run.last_step() < step:
        assert time.monotonic() < deadline, f"step {run.last_step()} of {step}\n{log()[-6000:]}"
        time.sleep(0.1)

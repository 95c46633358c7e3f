"""Run independent commands side by side, a few at a time."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.2
_HEARTBEAT_SECONDS = 30.0


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        environment: variables of the whole process, complete.
        log: file that its output goes to.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path


@dataclass
class _Running:
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    started: float


def run_side_by_side(
    jobs: Sequence[Job],
    slots: Sequence[Mapping[str, str]],
    report: Callable[[str], None],
) -> list[Job]:
    """Run all jobs, as many at once as there are slots; the jobs that failed, in order.

    A failed job does not stop the others. When this process is interrupted, its jobs are ended.

    Args:
        slots: environment variables of each slot (which GPU it has, say); a job gets those of the slot it runs in.
        report: gets a line when a job ends, and now and then the last line of each running one.
    """
    waiting, failed = list(jobs), []
    free = list(range(len(slots)))
    running: list[_Running] = []
    last_heartbeat = time.monotonic()
    try:
        while waiting or running:
            while waiting and free:
                running.append(_start(waiting.pop(0), free.pop(0), slots))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.slot)
                one.output.close()
                seconds = time.monotonic() - one.started
                done = len(jobs) - len(waiting) - len(running)
                if one.process.returncode == 0:
                    report(f"[{done}/{len(jobs)}] {one.job.name}: {seconds:.0f} s")
                else:
                    failed.append(one.job)
                    report(f"[{done}/{len(jobs)}] {one.job.name}: FAILED, {_last_line(one.job.log)} ({one.job.log})")
            if time.monotonic() - last_heartbeat > _HEARTBEAT_SECONDS:
                last_heartbeat = time.monotonic()
                for one in running:
                    report(f"      {one.job.name}: {_last_line(one.job.log)}")
            time.sleep(_POLL_SECONDS)
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.wait()
    return failed


def _start(job: Job, slot: int, slots: Sequence[Mapping[str, str]]) -> _Running:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    output = open(job.log, "wb")  # noqa: SIM115 (closed when the job has ended)
    process = subprocess.Popen(
        job.command,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**job.environment, **slots[slot]},
    )
    return _Running(job, slot, process, output, time.monotonic())


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no word yet"

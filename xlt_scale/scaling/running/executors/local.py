"""Jobs on this machine's GPUs or processor cores, as many side by side as fit."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Protocol

from xlt_scale.errors import UserError
from xlt_scale.planning.gpus import visible_gpus
from xlt_scale.planning.this_machine import num_cores
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.running.claims import Claims
from xlt_scale.scaling.running.executors.device_locks import DeviceLocks, release
from xlt_scale.scaling.running.executors.interface import Ended
from xlt_scale.scaling.running.run_files import LOG_FILE, RUN_FILE, job_command, job_environment, last_words

Command = Callable[[Path, int], Sequence[str]]
"""From a run file and a number of processes to what is started."""


class Process(Protocol):
    """A job's first process, the leader of its session."""

    @property
    def pid(self) -> int: ...

    def wait(self) -> int:
        """Reap it; its exit code, negative for a signal."""


@dataclass
class _Reservation:
    job: StudyJob
    devices: dict[str, Fraction]
    locks: list[int]


@dataclass
class _Running:
    job: StudyJob
    devices: dict[str, Fraction]
    process: Process
    output: IO[bytes]
    log: Path
    log_start: int
    started: float


class LocalExecutor:
    """A job takes whole devices, one per process, or a share of one; each job is a session of its own.

    Args:
        gpus: as in CUDA_VISIBLE_DEVICES; [] = on processor cores.
        cores: processes at a time without GPUs.
        command: what carries out a job.
        locks: of GPUs, against other runners on this machine.
    """

    queues = False

    def __init__(
        self,
        gpus: Sequence[str],
        cores: int = 0,
        command: Command = job_command,
        locks: DeviceLocks | None = None,
    ) -> None:
        self._gpus = list(gpus)
        names = self._gpus or [str(number) for number in range(cores or num_cores())]
        self._free = dict.fromkeys(names, Fraction(1))
        self._command = command
        self._locks = (locks or DeviceLocks()) if self._gpus else None
        self._running: list[_Running] = []
        self._reserved: _Reservation | None = None

    def describe(self) -> str:
        count, what = len(self._free), "GPU" if self._gpus else "processor core"
        return f"{count} {what}{'s' if count > 1 else ''}"

    def why_never(self, job: StudyJob) -> str:
        if job.devices <= len(self._free):
            return ""
        mend = "use --executor slurm, or set sizes.devices" if self._gpus else "raise --slots, or set sizes.devices"
        return f"a run of size {job.size} needs {job.devices} devices, and there are {self.describe()}; {mend}"

    def has_room(self, job: StudyJob) -> bool:
        self.submit()
        self._reserved = self._reserve(job)
        return self._reserved is not None

    def start(self, job: StudyJob, folder: Path, claims: Claims) -> None:
        reserved = self._reserved if self._reserved and self._reserved.job is job else self._reserve(job)
        assert reserved is not None, "has_room was asked"
        self._reserved, devices = None, reserved.devices
        log = folder / LOG_FILE
        output = open(log, "ab")  # noqa: SIM115 (closed when the job has ended)
        output.write(f"== {time.strftime('%Y-%m-%d %H:%M:%S')} {job.name}\n".encode())
        output.flush()
        environment = job_environment(list(devices) if self._gpus else [])
        try:
            inherited = (*claims.descriptors, *reserved.locks)
            process = self._launch(job, folder, environment, output, inherited)
        except BaseException:
            output.close()
            raise
        finally:
            claims.release()
            release(reserved.locks)
        for name, share in devices.items():
            self._free[name] -= share
        self._running.append(_Running(job, devices, process, output, log, output.tell(), time.monotonic()))

    def submit(self) -> None:
        """Jobs start when they are handed over; a room that was not used is free again."""
        if self._reserved is not None:
            release(self._reserved.locks)
            self._reserved = None

    def underway(self) -> Mapping[str, StudyJob]:
        return {one.job.name: one.job for one in self._running}

    def poll(self) -> list[Ended]:
        return [self._close(one) for one in list(self._running) if _has_ended(one.process)]

    def ask_to_stop(self) -> int:
        self.submit()
        for one in self._running:
            _signal(one.process, signal.SIGTERM)
        return len(self._running)

    def stop(self, seconds: float = 10.0) -> str:
        self.submit()
        for one in self._running:
            _signal(one.process, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not all(_has_ended(one.process) for one in self._running):
            time.sleep(0.05)
        for one in list(self._running):
            self._close(one)
        return ""

    def _launch(
        self, job: StudyJob, folder: Path, environment: Mapping[str, str], output: IO[bytes], inherited: Sequence[int]
    ) -> Process:
        return subprocess.Popen(
            self._command(folder / RUN_FILE, job.devices),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=inherited,
            # Ctrl-C is for the runner, which ends its jobs by itself.
            start_new_session=True,
        )

    def _reserve(self, job: StudyJob) -> "_Reservation | None":
        """Devices that are free here and not locked by others."""
        per_device = max(1, job.per_device) if job.devices == 1 else 1
        share = Fraction(1, per_device)
        # A device that is in use already is filled up first: whole ones stay free for those who need them.
        fitting = sorted(
            (name for name, free in self._free.items() if free >= share), key=lambda name: self._free[name]
        )
        found = _Reservation(job, {}, [])
        for name in fitting:
            if len(found.devices) == job.devices:
                break
            locks = self._locks.take(name, per_device) if self._locks else []
            if locks is not None:
                found.devices[name] = share
                found.locks.extend(locks)
        if len(found.devices) < job.devices:
            release(found.locks)
            return None
        return found

    def _close(self, one: _Running) -> Ended:
        self._running.remove(one)
        for name, share in one.devices.items():
            self._free[name] += share
        # What it has left running would hold its claims and its memory.
        _signal(one.process, signal.SIGKILL)
        code = one.process.wait()
        one.output.close()
        return Ended(one.job, code, time.monotonic() - one.started, last_words(one.log, one.log_start), one.log)


def _has_ended(process: Process) -> bool:
    """Whether it is over; it is not reaped yet, so that its number still stands for its session and nothing else."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal(process: Process, sign: signal.Signals) -> None:
    """Signal a job's whole session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, sign)


def local_executor(device: str = "auto", slots: int = 0) -> LocalExecutor:
    """This machine, or a part of it.

    Args:
        device: of the study's engine: auto, cpu or cuda.
        slots: devices to use at most; 0 = all.

    Raises:
        UserError: GPUs are asked for and there are none.
    """
    gpus = [] if device == "cpu" else visible_gpus()
    if device == "cuda" and not gpus:
        raise UserError("engine.device = 'cuda', but there is no GPU to be seen; use 'auto' or 'cpu'")
    if gpus:
        return LocalExecutor(gpus[:slots] if slots else gpus)
    cores = num_cores()
    return LocalExecutor([], min(slots, cores) if slots else cores)

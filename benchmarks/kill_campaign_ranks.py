"""Ranks of a training run as children of this process, forked after everything heavy was imported."""

import gc
import os
import random
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
import torch
import torch.utils.cpp_extension
from transformers import XLMRobertaModel  # noqa: F401

import xlt_scale.engines.fsdp2
import xlt_scale.engines.zero3  # noqa: F401
from xlt_scale.cluster.ending import run_as_program
from xlt_scale.config import load_run
from xlt_scale.training.run import run

# What was imported stays: a rank that collects garbage need not look at it.
gc.freeze()


@dataclass
class Ranks:
    """The processes of one start.

    Attributes:
        log: what all of them print.
        codes: exit codes of those that have ended by rank; negative for a signal.
    """

    pids: dict[int, int]
    log: Path
    codes: dict[int, int] = field(default_factory=dict)

    def have_ended(self) -> bool:
        """Whether all have; does not wait."""
        for rank in self.pids.keys() - self.codes.keys():
            pid, status = os.waitpid(self.pids[rank], os.WNOHANG)
            if pid:
                self.codes[rank] = os.waitstatus_to_exitcode(status)
        return len(self.codes) == len(self.pids)

    def wait(self, seconds: float) -> bool:
        """Wait until all have ended; False when some have not by then."""
        deadline = time.monotonic() + seconds
        while not self.have_ended():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def kill(self, ranks: Iterable[int] | None = None) -> None:
        """End these ranks at once, or all, with whatever they have started."""
        victims = [rank for rank in (self.pids if ranks is None else ranks) if rank not in self.codes]
        for rank in victims:
            with suppress(ProcessLookupError):
                os.kill(self.pids[rank], signal.SIGKILL)
        for rank in victims:
            with suppress(ProcessLookupError):
                os.killpg(self.pids[rank], signal.SIGKILL)
            self.codes[rank] = os.waitstatus_to_exitcode(os.waitpid(self.pids[rank], 0)[1])

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def start_ranks(run_file: Path, settings: Sequence[str], world_size: int, log: Path) -> Ranks:
    """Start a run as a launcher does; its ranks print into one file."""
    # A fork copies the calling thread alone: locks that others hold would stay locked for good.
    assert len(os.listdir("/proc/self/task")) == 1
    port = str(_free_port())
    pids = {}
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            _become_rank(run_file, settings, rank, world_size, port, log)
        pids[rank] = pid
    return Ranks(pids, log)


def _become_rank(run_file: Path, settings: Sequence[str], rank: int, world_size: int, port: str, log: Path) -> None:
    """Never returns."""
    os.setsid()
    output = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    run_as_program(lambda: run(load_run(run_file, settings)))


def _free_port() -> int:
    """Below the ports that the system gives to whoever asks for any: nobody takes it before rank 0 does."""
    while True:
        port = random.SystemRandom().randrange(15000, 30000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port

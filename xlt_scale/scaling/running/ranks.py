"""Start the processes of one job on this machine, and end all of them when one fails.

    python -m xlt_scale.scaling.running.ranks 4 launch/train.py job.toml

What torchrun does for a single node without restarts; but its processes inherit the open files, and so the job's claims
(claims.py): a phase stays claimed as long as a single process works on it.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from xlt_scale.errors import FAILURE_EXIT_CODE, LOST_EXIT_CODE, STOPPED_EXIT_CODE

# A mistake of the user is found by all ranks alike, and printed by rank 0 before the others end (errors.py).
_SECONDS_FOR_OTHERS = 8.0
# Ranks stop at the same step, and may save for different lengths of time.
_SECONDS_TO_SAVE = 120.0
_SECONDS_OF_ECHOES = 3.0
_POLL_SECONDS = 0.1

Process = subprocess.Popen[bytes]


def run_ranks(num_processes: int, command: Sequence[str]) -> int:
    """Run the command once per rank until all have ended; the exit code of the first that failed, else 0.

    SIGTERM goes on to the ranks, which save and end; a second one, some seconds later, does not wait for them.
    """
    common = {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    processes: list[Process] = []
    requests: list[float] = []

    def stop(*_: object) -> None:
        requests.append(time.monotonic())
        for process in processes:
            process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # It reaches the ranks by itself, as everything does that is sent to the session.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    code = 0
    try:
        for rank in range(num_processes):
            environment = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=environment, close_fds=False))
        while not _is_urgent(requests):
            codes = [process.poll() for process in processes]
            failed = [code for code in codes if code]
            if failed or None not in codes:
                code = _code(failed[0]) if failed else 0
                break
            time.sleep(_POLL_SECONDS)
        else:
            code = 128 + signal.SIGTERM
    finally:
        _end(processes, _patience(code))
    # Those that a killed rank leaves behind say that they have lost it.
    others = [process.returncode for process in processes]
    return LOST_EXIT_CODE if code > 128 and LOST_EXIT_CODE in others else code


def _is_urgent(requests: Sequence[float]) -> bool:
    return bool(requests) and requests[-1] - requests[0] > _SECONDS_OF_ECHOES


def _patience(code: int) -> float:
    """Seconds for the ranks that still run when one has ended."""
    if code == 128 + signal.SIGTERM:
        return 0.0
    return _SECONDS_TO_SAVE if code == STOPPED_EXIT_CODE else _SECONDS_FOR_OTHERS


def _free_port() -> int:
    """Below the ports that the system gives to whoever asks for any: nobody takes it before rank 0 does."""
    while True:
        port = random.SystemRandom().randrange(15000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _code(code: int) -> int:
    """As a shell tells it, when the process was ended by a signal."""
    return 128 - code if code < 0 else code


def _end(processes: Sequence[Process], patience: float) -> None:
    """Give the processes that still run some seconds, then SIGTERM, then SIGKILL."""
    for sign, seconds in ((None, patience), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        left = [process for process in processes if process.poll() is None]
        for process in left:
            if sign is not None:
                process.send_signal(sign)
        deadline = time.monotonic() + seconds
        for process in left:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))


def main() -> int:
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        print(__doc__, file=sys.stderr)
        return FAILURE_EXIT_CODE
    return run_ranks(int(sys.argv[1]), [sys.executable, *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())

"""The watch over a run's ranks: nobody waits for ever for one that is gone."""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from xlt_scale.cluster.ending import Ending, StoppedError, note_ending
from xlt_scale.cluster.heartbeat import Client, Server
from xlt_scale.cluster.mark import Mark
from xlt_scale.cluster.verdict import Limits, Verdict
from xlt_scale.errors import FAILURE_EXIT_CODE, LOST_EXIT_CODE, USER_ERROR_EXIT_CODE, TrainingError, UserError, reason

Share = Callable[[Callable[[], str]], str]
"""Calls a function on rank 0 and gives what it returns to all ranks."""

_SECONDS_FOR_GOODBYE = 3.0
_GO_ON = "nothing is wrong with the run: the same command goes on from its newest checkpoint"


class Watch:
    """Ends this process, with one line for the user and an end file, when another rank is lost or nothing moves.

    Made on every rank, which communicates once; used around everything that communicates:

        with Watch(rank, size, meeting.share, limits, mark):
            ...

    An exception that leaves it is told to the other ranks, unless it only says that another rank is gone: then it waits
    for the verdict, which names that rank.
    """

    def __init__(self, rank: int, size: int, share: Share, limits: Limits, mark: Mark) -> None:
        self._rank, self._size, self._limits, self._mark = rank, size, limits, mark
        self._launcher = os.getppid()
        self._side: Server | Client | None = None
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        if size == 1:
            return
        server: Server | None = None

        def open_server() -> str:
            nonlocal server
            token = secrets.token_hex(16)
            server = Server(size, token, limits, mark, self._problem_here, self._end)
            return json.dumps({"port": server.port, "token": token, "head": socket.gethostname()})

        told = json.loads(share(open_server))
        if server is not None:
            self._side = server
        else:
            # The address that the launcher gave is known to lead to rank 0.
            address = (os.environ["MASTER_ADDR"], told["port"])
            self._side = Client(rank, address, told["head"], told["token"], limits, mark, self._problem_here, self._end)

    def __enter__(self) -> "Watch":
        if self._side is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._side is None:
            return
        if error is not None and is_about_communication(error):
            # Who is lost is known within a few seconds, or when the silence has lasted long enough.
            time.sleep(self._limits.lost_after + 3 * self._limits.interval)
        if error is None or isinstance(error, StoppedError | SystemExit) or self._is_known_to_all(error):
            self._side.leave()
        else:
            code = USER_ERROR_EXIT_CODE if isinstance(error, UserError) else FAILURE_EXIT_CODE
            said = isinstance(error, UserError | TrainingError)
            self._side.leave_failed(reason(error) if said else _in_words(error), code)

    def _is_known_to_all(self, error: BaseException) -> bool:
        """Whether all ranks end alike: such errors are mostly found by all, and rank 0, which tells them, says goodbye
        at once. A rank that does not hear it has found its error alone.
        """
        if not isinstance(error, UserError | TrainingError | KeyboardInterrupt):
            return False
        if self._rank:
            self._thread.join(_SECONDS_FOR_GOODBYE)
        return not self._rank or not self._thread.is_alive()

    def _work(self) -> None:
        assert self._side is not None
        try:
            self._side.work()
        except Exception as error:
            print(f"rank {self._rank}: the other ranks are watched no more ({_in_words(error)})", file=sys.stderr)

    def _problem_here(self) -> str:
        """Ranks whose launcher is gone would be nobody's."""
        return "" if os.getppid() == self._launcher else f"its launcher (process {self._launcher}) was ended"

    def _end(self, verdict: Verdict, is_told: bool) -> None:
        mark = self._mark
        note_ending(Ending(verdict.code, verdict.reason, verdict.lost_node, verdict.lost_rank, mark.phase, mark.step))
        if not is_told:
            kind = {LOST_EXIT_CODE: "lost", USER_ERROR_EXIT_CODE: "error"}.get(verdict.code, "stopped")
            advice = f"; {_GO_ON}" if verdict.code == LOST_EXIT_CODE else ""
            sys.stderr.write(f"{kind}: {verdict.reason}{advice}\n")
            sys.stderr.flush()
        os._exit(verdict.code)


def is_about_communication(error: BaseException) -> bool:
    """Whether an exception only says that another process is gone or does not answer."""
    if type(error).__module__ == "torch.distributed" or type(error).__name__.startswith("Dist"):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(part in text for part in _OF_COMMUNICATION)


_OF_COMMUNICATION = (
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "NCCL",
    "ProcessGroup",
)


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {reason(error)}"

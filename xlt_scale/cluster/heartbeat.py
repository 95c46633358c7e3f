"""Heartbeats: every rank tells rank 0 that it lives and where it is, and rank 0 answers.

A process group does not say who is gone: the others wait in a collective, for as long as its timeout is, or fail with a
message about a socket. So each rank has a thread with a connection of its own to rank 0. Who is silent too long, or
whose connection ends without a goodbye, is lost; when nobody gets on any more, who stands behind the others is to
blame (verdict.py). Rank 0 finds that out (`Server`) and tells the others; a rank that cannot reach rank 0 finds it out
alone (`Client`).

Messages are lines of JSON. Nothing here imports torch or communicates through it.
"""

import contextlib
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from xlt_scale.cluster.mark import Mark
from xlt_scale.cluster.verdict import SECONDS_TO_RETURN, Limits, Peer, Verdict, find_verdict
from xlt_scale.errors import LOST_EXIT_CODE

Message = dict[str, Any]
End = Callable[[Verdict, bool], None]
"""Ends this process by a verdict; whether rank 0 has told it to people already."""

_DRAIN_SECONDS = 1.0


@dataclass
class Line:
    """A connection, and what was read of its next message."""

    socket: socket.socket
    rank: int | None = None
    rest: bytes = b""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> list[Message] | None:
        """The messages that have come in, after at most the socket's timeout; None when the connection has ended."""
        try:
            data = self.socket.recv(65536)
        except (BlockingIOError, InterruptedError, TimeoutError):
            return []
        except OSError:
            return None
        if not data:
            return None
        *lines, self.rest = (self.rest + data).split(b"\n")
        with contextlib.suppress(ValueError):
            return [json.loads(line) for line in lines]
        return None

    def write(self, message: Message) -> bool:
        """Whether it could be handed to the network; by any thread."""
        try:
            with self.lock:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()


class Server:
    """Rank 0's side.

    Args:
        size: of the world.
        token: what a rank has to know.
        mark: where rank 0 itself is.
        problem_here: what is wrong with this process itself; '' while nothing is.
    """

    def __init__(
        self, size: int, token: str, limits: Limits, mark: Mark, problem_here: Callable[[], str], end: End
    ) -> None:
        self._token, self._limits, self._mark = token, limits, mark
        self._problem_here, self._end = problem_here, end
        now = time.monotonic()
        self._peers = {rank: Peer(rank, "", 0, heard_at=now) for rank in range(size)}
        self._peers[0].met(now, socket.gethostname(), os.getpid())
        self._lines: dict[int, Line] = {}
        self._listener = socket.create_server(("", 0), backlog=size)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._closing = threading.Event()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def leave(self) -> None:
        """Rank 0 ends as it should: the others are told, and watch no more."""
        self._closing.set()
        self._tell_all({"bye": True})

    def leave_failed(self, reason: str, code: int) -> None:
        """Rank 0 itself has failed: the others are told why."""
        self._closing.set()
        host = socket.gethostname()
        self._tell_all({"verdict": vars(Verdict(code, f"rank 0 on {host}: {reason}"))})

    def work(self) -> None:
        """Watch until this rank leaves or a verdict is found."""
        told_at = 0.0
        while not self._closing.is_set():
            self._listen(min(0.5, self._limits.interval))
            now = time.monotonic()
            self._hear_myself(now)
            verdict = find_verdict(list(self._peers.values()), self._limits, now)
            if verdict is not None and not self._closing.is_set():
                self._tell_all({"verdict": vars(verdict)})
                self._drain()
                self._end(verdict, False)
                return
            if now - told_at >= self._limits.interval:
                told_at = now
                self._tell_all({"lives": True})

    def _hear_myself(self, now: float) -> None:
        mark, myself = self._mark, self._peers[0]
        myself.heard(now, mark.describe(), mark.step, now - mark.moved_at, mark.is_stepping)
        myself.failure, myself.failure_code = self._problem_here(), LOST_EXIT_CODE

    def _listen(self, seconds: float) -> None:
        for key, _ in self._selector.select(timeout=seconds):
            if key.data is None:
                self._accept()
            else:
                self._read(key.data)

    def _drain(self) -> None:
        """Let the others read the verdict: a connection closed with words of theirs unread would take it from them."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self._lines and time.monotonic() < deadline:
            self._listen(0.1)

    def _tell_all(self, message: Message) -> None:
        for line in list(self._lines.values()):
            line.write(message)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        # One that takes nothing any more must not hold up the others.
        connection.settimeout(1.0)
        self._selector.register(connection, selectors.EVENT_READ, Line(connection))

    def _read(self, line: Line) -> None:
        messages = line.read()
        if messages is not None and all(self._take(line, message) for message in messages):
            return
        self._selector.unregister(line.socket)
        line.close()
        if line.rank is not None and self._lines.get(line.rank) is line:
            del self._lines[line.rank]
            self._peers[line.rank].broke_at = time.monotonic()

    def _take(self, line: Line, message: Message) -> bool:
        """Whether to go on reading from this connection."""
        now = time.monotonic()
        if line.rank is None:
            if message.get("token") != self._token or message.get("rank") not in self._peers:
                return False
            line.rank = int(message["rank"])
            self._lines[line.rank] = line
            self._peers[line.rank].met(now, str(message["host"]), int(message["process"]))
            return True
        peer = self._peers[line.rank]
        if "place" in message:
            peer.heard(now, message["place"], message["step"], message["since"], message["is_stepping"])
        elif "failed" in message:
            peer.failure, peer.failure_code = str(message["failed"]), int(message["code"])
        elif "bye" in message:
            peer.has_left = True
        return True


class Client:
    """The side of every other rank.

    Args:
        address: of rank 0, host and port.
        head: rank 0's host name, for messages.
    """

    def __init__(
        self,
        rank: int,
        address: tuple[str, int],
        head: str,
        token: str,
        limits: Limits,
        mark: Mark,
        problem_here: Callable[[], str],
        end: End,
    ) -> None:
        self._rank, self._address, self._head, self._token = rank, address, head, token
        self._limits, self._mark = limits, mark
        self._problem_here, self._end = problem_here, end
        self._line: Line | None = None
        self._heard_at = time.monotonic()
        self._refused_since: float | None = None
        self._problem = "no answer"
        self._closing = threading.Event()

    def leave(self) -> None:
        """This rank ends as it should."""
        self._closing.set()
        if self._line is not None:
            self._line.write({"bye": True})

    def leave_failed(self, reason: str, code: int) -> None:
        """This rank has failed: rank 0 is told why."""
        self._closing.set()
        if self._line is not None:
            self._line.write({"failed": reason, "code": code})

    def work(self) -> None:
        """Watch until this rank leaves, rank 0 has left, or a verdict is there."""
        while not self._closing.is_set():
            problem = self._problem_here()
            if problem:
                self.leave_failed(problem, LOST_EXIT_CODE)
                self._end(Verdict(LOST_EXIT_CODE, problem, socket.gethostname(), self._rank), False)
                return
            if self._line is None:
                self._connect()
            elif not self._exchange(self._line):
                return
            verdict = self._verdict_on_rank_0()
            if verdict is not None and not self._closing.is_set():
                self._end(verdict, False)
                return

    def _connect(self) -> None:
        try:
            connection = socket.create_connection(self._address, timeout=self._limits.interval)
        except ConnectionRefusedError:
            self._refused_since = self._refused_since or time.monotonic()
            self._closing.wait(0.2)
            return
        except OSError as error:
            self._problem, self._refused_since = error.strerror or str(error), None
            self._closing.wait(min(1.0, self._limits.interval))
            return
        connection.settimeout(self._limits.interval)
        self._refused_since = None
        line = Line(connection)
        line.write({"token": self._token, "rank": self._rank, "host": socket.gethostname(), "process": os.getpid()})
        self._line = line

    def _exchange(self, line: Line) -> bool:
        """Say where this rank is and wait for a word, at most an interval; whether to go on watching."""
        mark = self._mark
        where = {"place": mark.describe(), "step": mark.step, "is_stepping": mark.is_stepping}
        written = line.write(where | {"since": time.monotonic() - mark.moved_at})
        messages = line.read() if written else None
        if messages is None:
            line.close()
            self._line = None
            return True
        for message in messages:
            self._heard_at = time.monotonic()
            if "verdict" in message and not self._closing.is_set():
                self._end(Verdict(**message["verdict"]), True)
                return False
            if "bye" in message:
                return False
        return True

    def _verdict_on_rank_0(self) -> Verdict | None:
        now = time.monotonic()
        if self._refused_since is not None and now - self._refused_since > SECONDS_TO_RETURN:
            how = "ended without a word"
        elif now - self._heard_at > self._limits.lost_after:
            how = f"not heard of for {now - self._heard_at:.0f} s ({self._problem})"
        else:
            return None
        return Verdict(LOST_EXIT_CODE, f"rank 0 on {self._head} {how}", self._head, 0)

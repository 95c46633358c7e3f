"""The processes meet on plain TCP sockets, with a time limit on everything.

`torch.distributed` waits for minutes where a name, a port or an interface is wrong, and does not say which. Here rank 0
listens, the others come and say who they are, and each failure has a reason. Messages are lines of JSON.
"""

import json
import select
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xlt_scale.doctor.deadline import Deadline
from xlt_scale.doctor.seat import Seat

_NUM_CLOCK_ROUNDS = 5
_HANDSHAKE_SECONDS = 5.0
_LONGEST_MESSAGE = 1 << 24
# Whoever has delivered in time is read even when somebody before it has used up the time.
_LEAST_SECONDS = 0.2


class LineLost(Exception):
    """The other side has gone, or is silent."""


class Line:
    """Messages to and from one other process."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        # A node that vanishes sends nothing: the kernel asks after it.
        for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._buffer = bytearray()

    def send(self, item: object, seconds: float) -> None:
        """Send one message.

        Raises:
            LineLost: it could not be sent.
        """
        try:
            self.connection.settimeout(seconds)
            self.connection.sendall(json.dumps(item).encode() + b"\n")
        except OSError as error:
            raise LineLost(f"the connection broke ({error.strerror or error})") from None

    def receive(self, seconds: float) -> Any:
        """The next message.

        Raises:
            LineLost: none came in time, the connection has ended, or it is not one of ours.
        """
        deadline = Deadline(seconds)
        while b"\n" not in self._buffer:
            try:
                self.connection.settimeout(max(deadline.seconds_left, 0.01))
                piece = self.connection.recv(1 << 16)
            except TimeoutError:
                raise LineLost(f"silent for {seconds:.0f} s") from None
            except OSError as error:
                raise LineLost(f"the connection broke ({error.strerror or error})") from None
            if not piece:
                raise LineLost("it ended")
            self._buffer += piece
            if len(self._buffer) > _LONGEST_MESSAGE:
                raise LineLost("it sends something else")
        message, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        try:
            return json.loads(message)
        except ValueError:
            raise LineLost("it sends something else") from None

    def close(self) -> None:
        self.connection.close()


@dataclass(frozen=True)
class Guest:
    """Who came to rank 0.

    Attributes:
        hello: what it said of itself.
        address: from where it came; `own_address` is where it was received.
        skew: seconds that its clock is ahead of rank 0's, as far as `round_trip` seconds let that be known.
    """

    line: Line
    hello: dict[str, Any]
    address: str
    own_address: str
    skew: float
    round_trip: float


class Meeting:
    """Those who came, seen from one of them. Every method is called by all of them, in the same order.

    Args:
        patience: seconds that the others wait for rank 0; its end they see at once.

    Attributes:
        guests: rank 0's: the others by rank.
        absent: rank 0's: why a rank does not take part, or no longer.
        ports: those that rank 0 listens at; the run's own is missing where something else has it.
        own_address: of this process, as the meeting goes through it; '' for rank 0 without guests.
    """

    def __init__(
        self,
        seat: Seat,
        ports: Sequence[int] = (),
        guests: Mapping[int, Guest] | None = None,
        line: Line | None = None,
        patience: float = 0,
    ) -> None:
        self.seat = seat
        self._patience = patience
        self.ports = tuple(ports)
        self.guests = dict(guests or {})
        self.absent: dict[int, str] = {}
        self._nodes = {rank: str(guest.hello.get("node")) for rank, guest in self.guests.items()} | {
            seat.rank: seat.node
        }
        self._line = line
        self._own_address = clean_address(line.connection.getsockname()[0]) if line else ""

    @property
    def own_address(self) -> str:
        if self.guests:
            return next(iter(self.guests.values())).own_address
        return self._own_address

    def describe(self, rank: int) -> str:
        """A rank in words, with its node; on rank 0."""
        return f"rank {rank} on {self._nodes[rank]}" if rank in self._nodes else self.seat.describe(rank)

    def gather(self, item: Any, seconds: float, step: str) -> dict[int, Any]:
        """Everybody's item by rank on rank 0, {} on the others. Rank 0 waits `seconds`; who has not delivered then has
        left the meeting.

        Raises:
            LineLost: on others: rank 0 has gone.
        """
        if self._line is not None:
            self._line.send(item, self._patience)
            return {}
        deadline = Deadline(seconds)
        items = {0: item}
        for rank, guest in sorted(self.guests.items()):
            try:
                items[rank] = guest.line.receive(max(deadline.seconds_left, _LEAST_SECONDS))
            except LineLost as lost:
                self._dismiss(rank, f"{lost}, during {step}")
        return items

    def share(self, item: Any, step: str) -> Any:
        """Rank 0's item, on all.

        Raises:
            LineLost: on others: rank 0 has gone.
        """
        if self._line is not None:
            return self._line.receive(self._patience)
        for rank, guest in sorted(self.guests.items()):
            try:
                guest.line.send(item, _HANDSHAKE_SECONDS)
            except LineLost as lost:
                self._dismiss(rank, f"{lost}, during {step}")
        return item

    def _dismiss(self, rank: int, reason: str) -> None:
        self.absent[rank] = reason
        self.guests.pop(rank).line.close()


class Reception:
    """Rank 0's side: listens from the moment it is made, and lets the others in.

    Attributes:
        problems: why a port that was wanted cannot be had.
    """

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._guests: dict[int, Guest] = {}
        self._lock = threading.Lock()
        self._listeners: dict[int, socket.socket] = {}
        self.problems: dict[int, OSError] = {}
        for port in seat.meeting_ports if seat.size > 1 else ():
            try:
                self._listeners[port] = listen(port)
                self._listeners[port].setblocking(False)
            except OSError as error:
                self.problems[port] = error
            if any(bound != seat.port for bound in self._listeners):
                break

    def meet(self, seconds: float) -> Meeting:
        """Wait until all have come, or the time is over."""
        deadline = Deadline(seconds)
        while len(self._guests) < self._seat.size - 1 and not deadline.has_passed:
            ready, _, _ = select.select(list(self._listeners.values()), [], [], min(deadline.seconds_left, 0.2))
            for listener in ready:
                try:
                    connection, peer = listener.accept()
                except OSError:
                    # Whoever knocked has gone again.
                    continue
                # One that says nothing must not keep the others waiting.
                threading.Thread(target=self._receive, args=(Line(connection), peer[0]), daemon=True).start()
        with self._lock:
            meeting = Meeting(self._seat, tuple(self._listeners), self._guests)
        missing = set(range(1, self._seat.size)) - set(meeting.guests)
        meeting.absent = dict.fromkeys(sorted(missing), f"did not come within {seconds:.0f} s")
        return meeting

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()

    def _receive(self, line: Line, address: str) -> None:
        try:
            hello = line.receive(_HANDSHAKE_SECONDS)
            rank = hello.get("rank") if isinstance(hello, dict) else None
            if rank is None or hello.get("token") != self._seat.token or not 0 < rank < self._seat.size:
                line.send({"refused": f"rank 0 belongs to job {self._seat.token!r}"}, _HANDSHAKE_SECONDS)
                line.close()
                return
            skew, round_trip = _compare_clocks(line)
            line.send({"ports": list(self._listeners)}, _HANDSHAKE_SECONDS)
        except LineLost:
            line.close()
            return
        own_address = clean_address(line.connection.getsockname()[0])
        with self._lock:
            self._guests[rank] = Guest(line, hello, clean_address(address), own_address, skew, round_trip)


def knock(seat: Seat, hello: dict[str, Any], address: str, port: int, seconds: float, patience: float) -> Meeting:
    """Join rank 0's meeting at one of its ports; called by the other ranks.

    Args:
        seconds: for coming in.
        patience: as of `Meeting`.

    Raises:
        OSError: nobody is there, or not reachable.
        LineLost: somebody is there who does not know the meeting, or turns this rank away.
    """
    deadline = Deadline(seconds)
    line = Line(socket.create_connection((address, port), timeout=seconds))
    try:
        line.send({"token": seat.token, "rank": seat.rank, **hello}, deadline.seconds_left)
        while True:
            answer = line.receive(deadline.seconds_left)
            if not isinstance(answer, dict):
                raise LineLost("it sends something else")
            if "refused" in answer:
                raise LineLost(str(answer["refused"]))
            if "ports" in answer:
                return Meeting(seat, answer["ports"], line=line, patience=patience)
            line.send({"time": time.time()}, deadline.seconds_left)
    except LineLost:
        line.close()
        raise


def _compare_clocks(line: Line) -> tuple[float, float]:
    """Seconds that the other clock is ahead, by the quickest of a few questions, and how long that one took."""
    best = (0.0, float("inf"))
    for number in range(_NUM_CLOCK_ROUNDS):
        asked, start = time.time(), time.monotonic()
        line.send({"clock": number}, _HANDSHAKE_SECONDS)
        answer = line.receive(_HANDSHAKE_SECONDS)
        round_trip = time.monotonic() - start
        if not isinstance(answer, dict) or not isinstance(answer.get("time"), float):
            raise LineLost("it sends something else")
        if round_trip < best[1]:
            best = (answer["time"] - (asked + round_trip / 2), round_trip)
    return best


def listen(port: int) -> socket.socket:
    """A socket that listens at a port of every address of this node.

    Raises:
        OSError: the port is taken or not permitted.
    """
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    return socket.create_server(("", port), backlog=4096)


def clean_address(address: str) -> str:
    """An IPv4 address as one, also where the socket speaks both."""
    return address.removeprefix("::ffff:")

"""Coming to rank 0's meeting, and saying in one line why that did not work."""

import errno
import socket
import time
from typing import Any

from xlt_scale.doctor.deadline import Deadline, TookTooLong, within
from xlt_scale.doctor.interfaces import list_interfaces
from xlt_scale.doctor.meeting import LineLost, Meeting, knock
from xlt_scale.doctor.seat import Seat

_SECONDS_PER_TRY = 3.0
_SECONDS_FOR_A_NAME = 10.0
_SECONDS_BETWEEN_TRIES = 0.3
_SSH_PORT = 22
_REFUSED = "refused, nobody listens there"


# Who could not come stays so long after the time for coming: rank 0 needs it for its table.
_SECONDS_FOR_THE_TABLE = 8.0


class CannotMeet(Exception):
    """Rank 0 cannot be reached: what was tried, and the mend, in one line.

    Attributes:
        seconds_to_wait: before this process ends.
    """

    seconds_to_wait = 0.0


def come(seat: Seat, hello: dict[str, Any], seconds: float, patience: float) -> Meeting:
    """Join the meeting of rank 0; called by all other ranks.

    Args:
        seconds: for coming in.
        patience: seconds to wait for rank 0 at each later step.

    Raises:
        CannotMeet: it did not work in time.
    """
    deadline = Deadline(seconds)
    try:
        address = _resolve_head(seat, min(seconds, _SECONDS_FOR_A_NAME))
        return _keep_knocking(seat, hello, address, deadline, patience)
    except CannotMeet as problem:
        problem.seconds_to_wait = deadline.seconds_left + _SECONDS_FOR_THE_TABLE
        raise


def _keep_knocking(seat: Seat, hello: dict[str, Any], address: str, deadline: Deadline, patience: float) -> Meeting:
    problems: dict[int, str] = {}
    while not deadline.has_passed:
        for port in seat.meeting_ports:
            try:
                limit = min(_SECONDS_PER_TRY, max(deadline.seconds_left, 0.1))
                return knock(seat, hello, address, port, limit, patience)
            except OSError as error:
                problems[port] = _in_words(error)
            except LineLost as lost:
                problems[port] = f"something else listens there ({lost})"
            if deadline.has_passed:
                break
        time.sleep(_SECONDS_BETWEEN_TRIES)
    raise CannotMeet(_explain(seat, address, problems))


def _resolve_head(seat: Seat, seconds: float) -> str:
    mend = f"add {seat.head} to this node's /etc/hosts or DNS, or set MASTER_ADDR to an address that all nodes know"
    try:
        entries = within(seconds, lambda: socket.getaddrinfo(seat.head, seat.port, type=socket.SOCK_STREAM))
    except TookTooLong:
        raise CannotMeet(f"the name {seat.head} is not resolved within {seconds:.0f} s; {mend}") from None
    except OSError as error:
        raise CannotMeet(f"the name {seat.head} cannot be resolved ({error.strerror}); {mend}") from None
    return str(entries[0][4][0])


def _explain(seat: Seat, address: str, problems: dict[int, str]) -> str:
    port = seat.meeting_ports[0]
    where = f"{seat.head} ({address})"
    tried = f"rank 0 cannot be reached at {where}:{port}: {problems.get(port, 'no answer')}"
    if not has_route(address):
        interfaces = ", ".join(str(interface) for interface in list_interfaces())
        return (
            f"this node has no route to {where}; interfaces: {interfaces}; bring the interface up (ip link set NAME up)"
        )
    if all(problem == _REFUSED for problem in problems.values()):
        return f"{tried}; that node answers, so rank 0 has not started there or has ended: see its output"
    return f"{tried}; is its interface up, and does a firewall drop the ports {port} to {seat.meeting_ports[-1]}?"


def has_route(address: str) -> bool:
    """Whether this node knows a way to an address; sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False
    return True


def look_after(node: str, seconds: float) -> str:
    """What rank 0 can tell of a node that did not come: is its name known, does anything answer there."""
    try:
        address = str(within(seconds, lambda: socket.getaddrinfo(node, _SSH_PORT, type=socket.SOCK_STREAM))[0][4][0])
    except TookTooLong:
        return f"the name {node} is not resolved within {seconds:.0f} s"
    except OSError:
        return f"the name {node} cannot be resolved here"
    if not has_route(address):
        return f"this node has no route to {address}"
    try:
        socket.create_connection((address, _SSH_PORT), timeout=seconds).close()
    except ConnectionRefusedError:
        pass
    except OSError as error:
        return f"{address} does not answer ({_in_words(error)}): down, unplugged, or behind a firewall"
    return f"{address} answers, so its process failed or cannot come here: see its own line"


def _in_words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ConnectionRefusedError):
        return _REFUSED
    if error.errno == errno.EHOSTUNREACH:
        return "no such host answers on that network"
    return error.strerror or str(error)

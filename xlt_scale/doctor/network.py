"""What the network between the nodes allows, tried once they have met."""

import errno
import os
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import psutil

from xlt_scale.doctor.arrival import has_route, look_after
from xlt_scale.doctor.deadline import Started, TookTooLong
from xlt_scale.doctor.findings import Finding, State
from xlt_scale.doctor.interfaces import GLOO, gloo_choice, interface_of, is_loopback, list_interfaces
from xlt_scale.doctor.meeting import Meeting, Reception
from xlt_scale.doctor.seat import Seat

_SECONDS_FOR_A_NAME = 10.0
_SECONDS_FOR_A_CONNECTION = 5.0
SKEW_WARN, SKEW_FAIL = 1.0, 60.0


def check_attendance(meeting: Meeting, seconds: float) -> list[Finding]:
    """Who is there and who is not, and why as far as rank 0 can find out; called on rank 0."""
    seat = meeting.seat
    if seat.size == 1:
        return [_alone(seat)]
    nodes = dict.fromkeys([seat.node, *(str(guest.hello["node"]) for guest in meeting.guests.values())])
    findings = _check_distinct(meeting)
    if not meeting.absent:
        of_nodes = f"{len(nodes)} nodes" if len(nodes) > 1 else "one node"
        found = f"{seat.size} processes on {of_nodes} have met at {seat.head}"
        return [*findings, Finding("nodes", "pass", found)]
    lookups = {
        node: Started(lambda node=node: look_after(node, min(seconds, _SECONDS_FOR_A_CONNECTION)))  # type: ignore[misc]
        for node in {seat.node_of_rank[rank] for rank in meeting.absent if rank < len(seat.node_of_rank)}
    }
    for rank, reason in meeting.absent.items():
        found = f"{seat.describe(rank)} {reason}"
        mend = "see that process's own output"
        if rank < len(seat.node_of_rank):
            node = seat.node_of_rank[rank]
            try:
                found += f"; {lookups[node].result(3 * _SECONDS_FOR_A_CONNECTION)}"
            except TookTooLong:
                found += f"; nothing is known of {node}"
            mend += f", and on {node}: ip address, getent hosts {seat.head}; leave it out with --exclude={node}"
        findings.append(Finding("nodes", "fail", found, mend))
    return findings


def _check_distinct(meeting: Meeting) -> list[Finding]:
    """Findings are told apart by the names of nodes."""
    addresses: dict[str, set[str]] = {meeting.seat.node: {meeting.own_address}}
    for guest in meeting.guests.values():
        addresses.setdefault(str(guest.hello["node"]), set()).add(guest.address)
    return [
        Finding(
            "nodes", "fail", f"{' and '.join(sorted(found))} both call themselves {node}", "give each a name: hostname"
        )
        for node, found in addresses.items()
        if len({address for address in found if not is_loopback(address)}) > 1
    ]


def _alone(seat: Seat) -> Finding:
    others = int(os.environ.get("SLURM_NNODES") or 1) - 1
    if others > 0:
        return Finding("nodes", "-", f"{seat.node} alone; the allocation has {others} more: srun xlt-scale doctor")
    return Finding("nodes", "pass", f"{seat.node} alone")


def check_port(meeting: Meeting, reception: Reception) -> list[Finding]:
    """Whether rank 0 could listen at the run's port; called on rank 0. Whether others reach it, they say."""
    seat = meeting.seat
    problem = reception.problems.get(seat.port)
    if problem is None:
        is_tried = meeting.guests or seat.size == 1
        return [] if is_tried else [Finding("port", "-", f"port {seat.port} of {seat.head}: nobody came to try it")]
    if problem.errno == errno.EADDRINUSE:
        found = f"port {seat.port} of {seat.head} is taken{_holder(seat.port)}"
        mend = "export MASTER_PORT= another one, or end that process"
    else:
        found = f"port {seat.port} of {seat.head} cannot be listened at ({problem.strerror})"
        mend = "export MASTER_PORT= one above 1024"
    return [Finding("port", "fail", found, mend)]


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""


def invitation(meeting: Meeting) -> dict[str, Any]:
    """What rank 0 tells the others before they look at their nodes and at the network."""
    seat = meeting.seat
    tasks = Counter([seat.node, *(str(guest.hello["node"]) for guest in meeting.guests.values())])
    return {
        "nodes": list(dict.fromkeys([*seat.nodes, *tasks])),
        "tasks": tasks,
        "gloo": asdict(gloo_choice(list_interfaces())),
        "ports": list(meeting.ports),
        "node": seat.node,
    }


def check_network(meeting: Meeting, told: dict[str, Any], seconds: float) -> list[Finding]:
    """Names, the run's port and the interface that gloo takes, as this node sees them; called by one process of each.

    Connects to rank 0's sockets, whose `Reception` must still be open.
    """
    seat = meeting.seat
    if len(told["nodes"]) == 1:
        return []
    # Only the head's name is needed where a launcher starts the ranks; under SLURM all are.
    state: State = "fail" if seat.nodes else "warn"
    findings = _check_names(told["nodes"], state, min(seconds, _SECONDS_FOR_A_NAME))
    if seat.is_head:
        return findings
    findings += _check_run_port(seat, told["ports"], min(seconds, _SECONDS_FOR_A_CONNECTION))
    return findings + _check_route(meeting, told, min(seconds, _SECONDS_FOR_A_CONNECTION))


def _check_names(nodes: Sequence[str], state: State, seconds: float) -> list[Finding]:
    lookups = {node: Started(lambda node=node: _addresses(node)) for node in nodes}  # type: ignore[misc]
    findings = []
    for node, lookup in lookups.items():
        problem = ""
        try:
            addresses = lookup.result(seconds)
            if is_loopback(addresses[0]) and node != socket.gethostname():
                problem = f"the name {node} leads to {addresses[0]}, which is this node itself"
        except TookTooLong:
            problem = f"the name {node} is not resolved within {seconds:.0f} s"
        except OSError as error:
            problem = f"the name {node} cannot be resolved ({error.strerror})"
        if problem:
            findings.append(Finding("names", state, problem, f"correct {node} in /etc/hosts or DNS there"))
    own = _own_name_is_loopback()
    if own:
        # gloo listens where this name leads, unless an interface is named.
        state = "warn" if os.environ.get(GLOO) else "fail"
        mend = f"take {socket.gethostname()} out of that line of /etc/hosts, or name the interface in {GLOO}"
        findings.append(Finding("names", state, f"{socket.gethostname()} calls itself {own}", mend))
    return findings or [Finding("names", "pass", f"every name of {len(nodes)} nodes is resolved")]


def _addresses(node: str) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(node, 0, type=socket.SOCK_STREAM)]


def _own_name_is_loopback() -> str:
    try:
        return next(filter(is_loopback, _addresses(socket.gethostname())), "")
    except OSError:
        return ""


def _check_run_port(seat: Seat, bound: Iterable[int], seconds: float) -> list[Finding]:
    if seat.port not in bound and not seat.port_is_held:
        return []
    try:
        socket.create_connection((seat.head, seat.port), timeout=seconds).close()
    except OSError as error:
        found = f"port {seat.port} of {seat.head} cannot be reached ({error.strerror or error}), another one can"
        return [Finding("port", "fail", found, "open it in the firewall, or export MASTER_PORT= an open one")]
    held = "held by torchrun" if seat.port_is_held else "free"
    return [Finding("port", "pass", f"port {seat.port} of {seat.head} is {held} and reached")]


def _check_route(meeting: Meeting, told: dict[str, Any], seconds: float) -> list[Finding]:
    """Whether gloo's address here reaches gloo's address on rank 0's node."""
    interfaces = list_interfaces()
    own = gloo_choice(interfaces)
    there = told["gloo"]["address"]
    if not own.address or not there or is_loopback(own.address) or is_loopback(there) or not told["ports"]:
        # Each has been found by the node's own check of its interfaces.
        return []
    way = interface_of(interfaces, meeting.own_address)
    pair = f"{own.interface} {own.address} to {told['gloo']['interface']} {there} of {told['node']}"
    mend = f"export {GLOO}={way} on all nodes (the meeting came through it)"
    if not has_route(there):
        return [Finding("interface", "fail", f"gloo's addresses do not reach each other: no route from {pair}", mend)]
    try:
        address = (there, told["ports"][0])
        socket.create_connection(address, timeout=seconds, source_address=(own.address, 0)).close()
    except OSError as error:
        found = f"gloo's addresses do not reach each other: {pair} ({error.strerror or error})"
        return [Finding("interface", "fail", found, mend)]
    if way != own.interface:
        found = f"gloo takes {own.interface}, the way to {told['node']} by its name is {way}"
        return [Finding("interface", "warn", found, f"export {GLOO}={way}, unless it is meant so")]
    return [Finding("interface", "pass", f"gloo reaches {told['node']} through {own.interface}")]


def check_clocks(meeting: Meeting) -> list[Finding]:
    """How far the nodes' clocks are apart, measured while they met; called on rank 0."""
    if meeting.seat.size == 1:
        return []
    if not meeting.guests:
        return [Finding("clocks", "-", "nobody came to compare with")]
    findings: list[Finding] = []
    widest = 0.0
    seen: set[str] = set()
    for guest in meeting.guests.values():
        node = str(guest.hello["node"])
        widest = max(widest, abs(guest.skew))
        if abs(guest.skew) <= SKEW_WARN or node in seen:
            continue
        seen.add(node)
        state: State = "fail" if abs(guest.skew) > SKEW_FAIL else "warn"
        where = "ahead of" if guest.skew > 0 else "behind"
        found = f"{node} is {abs(guest.skew):.1f} s {where} {meeting.seat.node}"
        findings.append(Finding("clocks", state, found, f"on {node}: chronyc makestep, or start its time service"))
    return findings or [Finding("clocks", "pass", f"at most {max(widest * 1000, 1):.0f} ms apart")]

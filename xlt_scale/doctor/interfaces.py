"""Network interfaces: what there is, which one gloo and NCCL take, and whether that one can work."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from xlt_scale.doctor.findings import Finding

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


@dataclass(frozen=True)
class Interface:
    """One network interface; `addresses` are of IPv4 first, then IPv6 without the link's own."""

    name: str
    is_up: bool
    addresses: tuple[str, ...]

    @property
    def is_loopback(self) -> bool:
        return bool(self.addresses) and all(is_loopback(address) for address in self.addresses)

    def __str__(self) -> str:
        state = "" if self.is_up else " down"
        return f"{self.name}{state} ({', '.join(self.addresses) or 'no address'})"


@dataclass(frozen=True)
class Choice:
    """The interface that gloo takes on this node.

    Attributes:
        interface: '' where it cannot be told.
        address: where gloo listens; '' where it cannot.
    """

    interface: str
    address: str


def list_interfaces() -> list[Interface]:
    """All interfaces of this node, in the system's order."""
    states = psutil.net_if_stats()
    found = []
    for name, entries in psutil.net_if_addrs().items():
        by_family = {
            family: [entry.address.partition("%")[0] for entry in entries if entry.family == family]
            for family in (socket.AF_INET, socket.AF_INET6)
        }
        addresses = by_family[socket.AF_INET]
        addresses += [address for address in by_family[socket.AF_INET6] if not address.startswith("fe80")]
        found.append(Interface(name, name in states and states[name].isup, tuple(addresses)))
    return found


def gloo_choice(interfaces: Sequence[Interface], environment: Mapping[str, str] = os.environ) -> Choice:
    """What gloo does: it takes the interface named in GLOO_SOCKET_IFNAME, else the one that has the address of the
    host's own name, else loopback.
    """
    names = [name for name in environment.get(GLOO, "").split(",") if name]
    if names:
        chosen = next((interface for interface in interfaces if interface.name == names[0]), None)
        return Choice(names[0], chosen.addresses[0] if chosen and chosen.addresses else "")
    address = _address_of_own_name()
    return Choice(interface_of(interfaces, address), address)


def interface_of(interfaces: Sequence[Interface], address: str) -> str:
    """The name of the interface that has an address; '' when none has."""
    if is_loopback(address):
        return "lo"
    return next((interface.name for interface in interfaces if address in interface.addresses), "")


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def check_interfaces(
    interfaces: Sequence[Interface],
    has_peers: bool,
    has_gpus: bool,
    way: str = "",
    environment: Mapping[str, str] = os.environ,
) -> list[Finding]:
    """What this node alone can say about the choice of interfaces.

    Args:
        has_peers: other nodes take part; on one node everything goes through loopback, and any choice that exists
            works.
        way: the interface that the nodes have met through, which is the one to advise; '' where nobody knows.
    """
    outward = [one for one in interfaces if one.is_up and one.addresses and not one.is_loopback]
    example = way or (outward[0].name if outward else "NAME")
    findings = _check_named(GLOO, environment.get(GLOO, ""), interfaces, has_peers, example)
    if not environment.get(GLOO):
        findings += _check_unnamed(gloo_choice(interfaces, environment), outward, has_peers, example)
    if environment.get(NCCL):
        findings += _check_nccl(environment[NCCL], interfaces, has_gpus, example)
    return findings


def _check_named(
    variable: str, value: str, interfaces: Sequence[Interface], has_peers: bool, example: str
) -> list[Finding]:
    known = {interface.name: interface for interface in interfaces}
    findings = []
    for name in filter(None, value.split(",")):
        problem = ""
        if name not in known:
            problem = f"there is no such interface; there are {', '.join(str(one) for one in interfaces)}"
        elif not known[name].is_up:
            problem = "that interface is down"
        elif not known[name].addresses:
            problem = "that interface has no address"
        elif has_peers and known[name].is_loopback:
            problem = "that is loopback, which no other node reaches"
        if problem:
            findings.append(Finding("interface", "fail", f"{variable}={value}: {problem}", f"export {GLOO}={example}"))
        else:
            findings.append(Finding("interface", "pass", f"{variable}={value} is up"))
    return findings


def _check_unnamed(choice: Choice, outward: Sequence[Interface], has_peers: bool, example: str) -> list[Finding]:
    takes = f"{GLOO} is not set; by this host's name gloo takes {choice.interface or '?'}"
    if not has_peers:
        return [Finding("interface", "pass", f"{takes}; on one node any will do")]
    if not outward:
        return [Finding("interface", "fail", "no interface is up and has an address", "ip link; ip address")]
    if is_loopback(choice.address):
        found = f"{takes} ({choice.address}), which no other node reaches"
        mend = f"export {GLOO}={example}, or take {socket.gethostname()} out of the line {choice.address} in /etc/hosts"
        return [Finding("interface", "fail", found, mend)]
    if len(outward) > 1:
        others = ", ".join(one.name for one in outward)
        return [Finding("interface", "warn", f"{takes} of {others}", f"export {GLOO}={example}")]
    return [Finding("interface", "pass", takes)]


def _check_nccl(value: str, interfaces: Sequence[Interface], has_gpus: bool, example: str) -> list[Finding]:
    """NCCL's value is a list of beginnings of names; '=' before it means whole names, '^' all but those."""
    excludes, exact = value.startswith("^"), value.lstrip("^").startswith("=")
    parts = value.lstrip("^=").split(",")
    chosen = [
        one
        for one in interfaces
        if excludes != any(one.name == part if exact else one.name.startswith(part) for part in parts)
    ]
    if any(one.is_up and one.addresses for one in chosen):
        return []
    found = f"{NCCL}={value} fits no interface that is up and has an address"
    return [Finding("interface", "fail" if has_gpus else "warn", found, f"export {NCCL}={example}")]


def _address_of_own_name() -> str:
    """The first address of the host's name that is this node's own, as gloo looks for it; else loopback."""
    try:
        entries = socket.getaddrinfo(socket.gethostname(), 0, type=socket.SOCK_STREAM)
    except OSError:
        return "127.0.0.1"
    for family, kind, protocol, _, address in entries:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return str(address[0])
        except OSError:
            continue
    return "127.0.0.1"

"""Who is to blame when a run cannot go on: pure, from what rank 0 has heard."""

from collections.abc import Sequence
from dataclasses import dataclass

from xlt_scale.errors import LOST_EXIT_CODE

SECONDS_TO_RETURN = 2.0
"""A rank whose connection broke may come back within so long: connections break for other reasons, too."""

_NUM_NAMED = 4


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds.

    Attributes:
        lost_after: without a word from a rank.
        standstill: without any rank getting on, outside steps: starting, loading, scoring, a phase's first step.
        step: the same between two steps.
    """

    lost_after: float
    standstill: float
    step: float

    @property
    def interval(self) -> float:
        """Between two words of a rank: several fit into `lost_after`."""
        return max(0.2, min(5.0, self.lost_after / 6))


@dataclass
class Peer:
    """What rank 0 knows of a rank; times on its own monotonic clock."""

    rank: int
    host: str
    process: int
    heard_at: float
    place: str = "starting"
    step: int = 0
    is_stepping: bool = False
    moved_at: float = 0.0
    broke_at: float | None = None
    failure: str = ""
    failure_code: int = 0
    has_left: bool = False

    def __post_init__(self) -> None:
        self.moved_at = self.heard_at

    def met(self, now: float, host: str, process: int) -> None:
        self.heard_at, self.broke_at = now, None
        self.host, self.process = host, process

    def heard(self, now: float, place: str, step: int, since: float, is_stepping: bool) -> None:
        self.heard_at, self.place, self.step, self.is_stepping = now, place, step, is_stepping
        self.moved_at = now - since

    def broke(self, now: float) -> None:
        self.broke_at = now

    @property
    def where(self) -> str:
        return f"on {self.host}" if self.host else "which has never come"


@dataclass(frozen=True)
class Verdict:
    """Why the run ends; the attributes are those of `Ending`."""

    code: int
    reason: str
    lost_node: str = ""
    lost_rank: int | None = None


def find_verdict(peers: Sequence[Peer], limits: Limits, now: float) -> Verdict | None:
    """The verdict; None while all is well."""
    watched = [peer for peer in peers if not peer.has_left]
    for peer in watched:
        if peer.failure:
            reason = f"rank {peer.rank} {peer.where}: {peer.failure}"
            return Verdict(peer.failure_code, reason, _node_of(peer, peer.failure_code), peer.rank)
    broken = [peer for peer in watched if peer.broke_at is not None and now - peer.broke_at > SECONDS_TO_RETURN]
    if broken:
        return _lost(broken, peers, "ended without a word")
    silent = [peer for peer in watched if peer.rank and now - peer.heard_at > limits.lost_after]
    if silent:
        seconds = min(now - peer.heard_at for peer in silent)
        return _lost(silent, peers, f"not heard of for {seconds:.0f} s")
    return _standstill(watched, limits, now)


def _lost(lost: Sequence[Peer], peers: Sequence[Peer], how: str) -> Verdict:
    first = lost[0]
    of_node = [peer for peer in peers if peer.host == first.host]
    if len(lost) > 1 and len(of_node) == len([peer for peer in lost if peer.host == first.host]):
        who = f"node {first.host} with its {len(of_node)} ranks"
    else:
        who = _names(lost)
    reason = f"{who} {how}; last seen at {first.place}"
    return Verdict(LOST_EXIT_CODE, reason, first.host, first.rank)


def _standstill(peers: Sequence[Peer], limits: Limits, now: float) -> Verdict | None:
    if not peers:
        return None

    def limit(peer: Peer) -> float:
        return limits.step if peer.is_stepping else limits.standstill

    if any(now - peer.moved_at <= limit(peer) for peer in peers):
        return None
    step = min(peer.step for peer in peers)
    behind = [peer for peer in peers if peer.step == step]
    if len(behind) < len(peers):
        ahead = max(peer.step for peer in peers)
        who = f"{_names(behind)} at {behind[0].place}, the others at step {ahead}"
    else:
        # All wait for each other: whoever has stood longest waits for something else.
        behind = [min(peers, key=lambda peer: peer.moved_at)]
        who = f"all {len(peers)} ranks at {behind[0].place}, {_names(behind)} for the longest time"
    seconds = min(now - peer.moved_at for peer in peers)
    return Verdict(LOST_EXIT_CODE, f"nothing has moved for {seconds:.0f} s: {who}", behind[0].host, behind[0].rank)


def _names(peers: Sequence[Peer]) -> str:
    named = [f"rank {peer.rank} {peer.where} (process {peer.process})" for peer in peers[:_NUM_NAMED]]
    if len(peers) > _NUM_NAMED:
        named.append(f"{len(peers) - _NUM_NAMED} more")
    return ", ".join(named)


def _node_of(peer: Peer, code: int) -> str:
    return peer.host if code == LOST_EXIT_CODE else ""

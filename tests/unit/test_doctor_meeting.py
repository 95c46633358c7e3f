"""The doctor's meeting: real sockets on this machine, and whoever is late, silent, gone or a stranger."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from xlt_scale.doctor.arrival import CannotMeet, come
from xlt_scale.doctor.meeting import Line, LineLost, Meeting, Reception
from xlt_scale.doctor.network import check_attendance, check_clocks, check_port
from xlt_scale.doctor.seat import Seat


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def seats(size: int, head: str = "127.0.0.1") -> list[Seat]:
    port = free_port()
    nodes = tuple(f"node{rank}" for rank in range(size))
    return [Seat(r, size, 0, nodes[r], head, port, nodes, nodes, "srun", False, "job 1") for r in range(size)]


def in_thread(function: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def attend(seat: Seat, then: Callable[[Meeting], Any]) -> threading.Thread:
    return in_thread(lambda: then(come(seat, {"node": seat.node, "local_rank": 0}, 5, patience=5)))


def test_what_all_say_reaches_rank_0_and_what_it_says_reaches_all() -> None:
    head, *others = seats(3)
    heard: dict[int, Any] = {}

    def take_part(meeting: Meeting) -> None:
        meeting.gather({"from": meeting.seat.rank}, 5, "a step")
        heard[meeting.seat.rank] = meeting.share(None, "the result")

    threads = [attend(seat, take_part) for seat in others]
    meeting = Reception(head).meet(5)
    assert meeting.gather({"from": 0}, 5, "a step") == {rank: {"from": rank} for rank in range(3)}
    meeting.share("well", "the result")
    for thread in threads:
        thread.join(5)
    assert heard == {1: "well", 2: "well"}
    assert not meeting.absent


def test_who_does_not_come_is_named_with_its_node_and_the_others_go_on() -> None:
    head, came, _ = seats(3)
    attend(came, lambda meeting: meeting.gather("here", 5, "a step"))
    began = time.monotonic()
    meeting = Reception(head).meet(2)
    assert time.monotonic() - began < 4
    (finding,) = check_attendance(meeting, 1)
    assert finding.state == "fail"
    assert "rank 2 on node2 did not come within 2 s" in finding.found
    assert "the name node2 cannot be resolved" in finding.found
    assert meeting.gather("head", 2, "a step") == {0: "head", 1: "here"}


def test_who_falls_silent_or_goes_away_is_dropped_in_time() -> None:
    head, silent, gone = seats(3)
    kept: list[Meeting] = []
    attend(silent, kept.append)
    attend(gone, lambda meeting: meeting._line.close())  # type: ignore[union-attr]
    meeting = Reception(head).meet(5)
    began = time.monotonic()
    assert meeting.gather("head", 1, "versions") == {0: "head"}
    assert time.monotonic() - began < 3
    assert meeting.absent == {1: "silent for 1 s, during versions", 2: "it ended, during versions"}
    assert meeting.describe(2) == "rank 2 on node2"


def test_a_guest_whose_rank_0_ends_is_told_so() -> None:
    head, other = seats(2)
    lost: list[str] = []

    def take_part(meeting: Meeting) -> None:
        try:
            meeting.share(None, "the result")
        except LineLost as error:
            lost.append(str(error))

    thread = attend(other, take_part)
    meeting = Reception(head).meet(5)
    meeting.guests[1].line.close()
    thread.join(5)
    assert lost == ["it ended"]


@pytest.mark.parametrize(("ahead", "state"), [(0.0, "pass"), (5.0, "warn"), (-5.0, "warn"), (90.0, "fail")])
def test_a_clock_that_differs_is_measured(ahead: float, state: str) -> None:
    head, other = seats(2)

    def claim_another_time() -> None:
        line = Line(socket.create_connection((other.head, other.port), timeout=5))
        line.send({"token": other.token, "rank": 1, "node": "node1"}, 5)
        while "clock" in line.receive(5):
            line.send({"time": time.time() + ahead}, 5)

    reception = Reception(head)
    thread = in_thread(claim_another_time)
    meeting = reception.meet(5)
    thread.join(5)
    (finding,) = check_clocks(meeting)
    assert finding.state == state
    assert meeting.guests[1].skew == pytest.approx(ahead, abs=0.5)


def test_a_taken_port_is_a_finding_and_the_meeting_takes_place_beside_it() -> None:
    head, other = seats(2)
    with socket.create_server(("", head.port)):
        came: list[Meeting] = []
        thread = attend(other, came.append)
        reception = Reception(head)
        meeting = reception.meet(10)
        thread.join(5)
        (finding,) = check_port(meeting, reception)
    assert (finding.state, sorted(meeting.guests), len(came)) == ("fail", [1], 1)
    assert f"port {head.port} of 127.0.0.1 is taken by process" in finding.found


def test_processes_of_another_job_are_turned_away() -> None:
    head, other = seats(2)
    stranger = Seat(**{**vars(other), "token": "job 2"})
    reception = Reception(head)
    reasons: list[str] = []

    def try_to_come() -> None:
        try:
            come(stranger, {"node": "node1"}, 1, patience=1)
        except CannotMeet as problem:
            reasons.append(str(problem))

    thread = in_thread(try_to_come)
    assert sorted(reception.meet(1.5).absent) == [1]
    thread.join(5)
    assert "rank 0 belongs to job 'job 1'" in reasons[0]


def test_a_rank_0_that_never_starts_is_told_from_a_name_that_is_unknown() -> None:
    _, other = seats(2)
    with pytest.raises(CannotMeet, match="that node answers, so rank 0 has not started there or has ended"):
        come(other, {}, 1, patience=1)
    _, other = seats(2, head="no-such-host.invalid")
    with pytest.raises(CannotMeet, match=r"the name no-such-host\.invalid cannot be resolved"):
        come(other, {}, 1, patience=1)

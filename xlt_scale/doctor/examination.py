"""All checks in their order: the meeting, each node by itself, what the nodes do together."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt_scale.config import RunOptions
from xlt_scale.doctor.all_reduce import check_all_reduce
from xlt_scale.doctor.allocation import check_time_left
from xlt_scale.doctor.arrival import CannotMeet, come
from xlt_scale.doctor.deadline import TookTooLong, within
from xlt_scale.doctor.findings import Finding, Row, has_failed, merge_findings
from xlt_scale.doctor.folder import check_folder, check_sharing
from xlt_scale.doctor.interfaces import check_interfaces, interface_of, list_interfaces
from xlt_scale.doctor.machine import check_gpus, check_limits, check_shared_memory, hardware, versions
from xlt_scale.doctor.meeting import LineLost, Meeting, Reception
from xlt_scale.doctor.network import check_attendance, check_clocks, check_network, check_port, invitation
from xlt_scale.doctor.run_needs import check_run
from xlt_scale.doctor.seat import Seat
from xlt_scale.doctor.stack import SECONDS as STACK_SECONDS
from xlt_scale.doctor.stack import STEPS, StackProbe
from xlt_scale.doctor.unlike import check_hardware, check_versions
from xlt_scale.errors import reason

_LEFT_OUT = "left out (--quick)"


@dataclass(frozen=True)
class Plan:
    """What is asked of the doctor, the same on every process.

    Attributes:
        folder: where the run writes.
        run: whose model and data are looked for; None without a run file.
        bytes_needed: free disk that the run needs; None where nobody knows.
        seconds: the limit of each step on the network or the folder.
        tries_stack: PyTorch, DeepSpeed and its compiled operations, which takes half a minute.
        tries_collectives: the all-reduce.
    """

    folder: Path
    run: RunOptions | None
    bytes_needed: int | None
    seconds: float
    tries_stack: bool
    tries_collectives: bool

    @property
    def longest_step(self) -> float:
        """Seconds that the checks of one node take at most."""
        return 8 * self.seconds + (STACK_SECONDS if self.tries_stack else 0.0)


@dataclass(frozen=True)
class Result:
    """How the examination went.

    Attributes:
        rows: the table; () on all processes but rank 0.
        is_well: nothing has failed anywhere; the same on all processes.
    """

    rows: tuple[Row, ...]
    is_well: bool


def examine(seat: Seat, plan: Plan) -> Result:
    """Check the machine, or all of an allocation; called by every process, which meet on sockets of their own.

    Raises:
        CannotMeet: this process could not reach rank 0, or has lost it.
    """
    reception = Reception(seat) if seat.is_head else None
    probe = StackProbe() if plan.tries_stack and seat.speaks_for_node else None
    try:
        if reception is not None:
            meeting = reception.meet(plan.seconds)
            return _lead(meeting, reception, probe, plan)
        hello = {"node": seat.node, "local_rank": seat.local_rank}
        # Rank 0 may wait for its slowest guest at each step, one after another.
        meeting = come(seat, hello, plan.seconds, patience=2 * plan.longest_step)
        try:
            return _follow(meeting, probe, plan)
        except LineLost as lost:
            raise CannotMeet(f"rank 0 on {seat.head} was lost ({lost}); see its own output") from None
    finally:
        if probe is not None:
            probe.stop()
        if reception is not None:
            reception.close()


def _lead(meeting: Meeting, reception: Reception, probe: StackProbe | None, plan: Plan) -> Result:
    whole = [*check_attendance(meeting, plan.seconds), *check_port(meeting, reception), *check_clocks(meeting)]
    whole.append(check_time_left())
    missed = set(meeting.absent)
    told = meeting.share(invitation(meeting), "the start")
    reports = meeting.gather(_look_at_node(meeting, told, probe, plan), plan.longest_step, "the look at each node")
    whole += check_sharing(meeting, plan.folder, plan.seconds)
    whole += check_all_reduce(meeting, plan.seconds) if plan.tries_collectives else [_left_out("all-reduce")]
    by_node = {report["node"]: report for report in reports.values() if report}
    whole += check_versions({node: report["versions"] for node, report in by_node.items()})
    whole += check_hardware({node: report["hardware"] for node, report in by_node.items()})
    for rank in sorted(meeting.absent.keys() - missed):
        found = f"{meeting.describe(rank)} was lost: {meeting.absent[rank]}"
        whole.append(Finding("nodes", "fail", found, "see that process's own output"))
    found_by = [(node, Finding(**finding)) for node, report in by_node.items() for finding in report["findings"]]
    rows = merge_findings([*(("", finding) for finding in whole), *found_by])
    is_well = not has_failed(rows)
    meeting.share(is_well, "the result")
    return Result(tuple(rows), is_well)


def _follow(meeting: Meeting, probe: StackProbe | None, plan: Plan) -> Result:
    told = meeting.share(None, "the start")
    report = _look_at_node(meeting, told, probe, plan) if meeting.seat.speaks_for_node else {}
    meeting.gather(report, plan.longest_step, "the look at each node")
    check_sharing(meeting, plan.folder, plan.seconds)
    if plan.tries_collectives:
        check_all_reduce(meeting, plan.seconds)
    return Result((), bool(meeting.share(None, "the result")))


def _look_at_node(meeting: Meeting, told: dict[str, Any], probe: StackProbe | None, plan: Plan) -> dict[str, Any]:
    """Findings of this node by itself, with the facts that rank 0 compares."""
    seat, seconds = meeting.seat, plan.seconds
    facts, interfaces = hardware(), list_interfaces()
    way = interface_of(interfaces, meeting.own_address) if meeting.own_address else ""
    several, num_tasks = len(told["nodes"]) > 1, int(told["tasks"].get(seat.node, 1))
    starts_launcher = seat.launcher != "launcher"
    looks: list[tuple[str, float, Callable[[], Sequence[Finding]]]] = [
        ("interface", seconds, lambda: check_interfaces(interfaces, several, bool(facts["gpus"]), way)),
        ("names", 2 * seconds, lambda: check_network(meeting, told, seconds)),
        ("GPUs", seconds, lambda: check_gpus(facts, num_tasks, starts_launcher)),
        ("limits", seconds, check_limits),
        ("shared memory", seconds, check_shared_memory),
        ("folder", seconds, lambda: check_folder(plan.folder, plan.bytes_needed)),
    ]
    if plan.run is not None:
        run = plan.run
        looks.append(("data", seconds, lambda: check_run(run)))
    if probe is not None:
        looks.append(("PyTorch", STACK_SECONDS + seconds, probe.findings))
    findings = [finding for check, limit, look in looks for finding in _guarded(check, limit, look)]
    if probe is None:
        findings += [_left_out(step) for step in STEPS]
    return {
        "node": seat.node,
        "hardware": facts,
        "versions": versions(),
        "findings": [finding.to_json() for finding in findings],
    }


def _guarded(check: str, seconds: float, look: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    """What a check finds; one that hangs, or fails in a way that nobody thought of, is a finding too."""
    try:
        return within(seconds, look)
    except TookTooLong as error:
        return [Finding(check, "fail", str(error), f"the {check} hangs here: see what it waits for (ps, mount, df)")]
    except Exception as error:
        found = f"could not be looked at: {type(error).__name__}: {reason(error)}"
        return [Finding(check, "warn", found, "look at it by hand, and report this")]


def _left_out(check: str) -> Finding:
    return Finding(check, "-", _LEFT_OUT)


def use_interface(name: str) -> None:
    """Look at this interface in place of those that the environment names; before `examine`."""
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = name

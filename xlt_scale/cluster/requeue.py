"""Put the batch job that asks into the queue again, without nodes that keep being lost."""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence

from xlt_scale.cluster.batch_shape import ask, host_names
from xlt_scale.errors import UserError

_USABLE = ("idle", "mix", "alloc", "comp", "resv", "plnd")
"""Beginnings of the states of nodes that serve jobs, now or after others."""

_ASK_SECONDS = 30.0


SECONDS_AFTER_LOSS = "XLT_SCALE_SECONDS_AFTER_LOSS"
"""In the environment: how many seconds a job waits that has lost a node, if not 20. SLURM calls the node down and
takes the job's last processes away at any moment from then on, and kills a job for good that it starts anew in that
very second ('Job credential revoked')."""


def requeue(job: str, excluded: Sequence[str], environment: Mapping[str, str], after_loss: bool) -> list[str]:
    """Requeue, and keep the job off these nodes where enough others are left.

    The order matters: of a job that waits, SLURM still takes an exclusion, and a script that is killed in between
    leaves a job that starts by itself. Returns what was done, a line each.
    """
    try:
        facts = job_facts(job)
        # A job that is cancelled could be requeued from here, against its user's wish. Time that is up is no wish.
        if facts.get("JobState") != "RUNNING" and facts.get("Reason") != "TimeLimit":
            return [f"not requeued: SLURM has ended the job itself, which is {facts.get('JobState')}"]
        if facts.get("Requeue") == "0":
            return ["not requeued: the job may not be requeued (Requeue=0); to go on, submit the same command again"]
        ask("requeue", job)
    except UserError as error:
        return [f"not requeued: {error}; to go on, submit the same command again"]
    lines = [f"requeued: job {job} goes on by itself"]
    if after_loss:
        # Without it the job starts at once, as it does where this SLURM does not take it.
        with contextlib.suppress(UserError):
            ask("update", f"jobid={job}", f"StartTime=now+{environment.get(SECONDS_AFTER_LOSS, 20)}")
    if not excluded:
        return lines
    try:
        return [*lines, _exclude(job, excluded, environment)]
    except UserError as error:
        return [*lines, f"{', '.join(excluded)} is not excluded: {error}"]


def job_facts(job: str) -> dict[str, str]:
    """What SLURM says about a job, by key.

    Raises:
        UserError: scontrol does not answer.
    """
    words = ask("show", "job", "-o", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)  # type: ignore[misc]


def _exclude(job: str, nodes: Sequence[str], environment: Mapping[str, str]) -> str:
    facts = job_facts(job)
    before = facts.get("ExcNodeList", "(null)")
    excluded = set(nodes) | set(() if before == "(null)" else host_names(before))
    usable = usable_nodes(facts.get("Partition", environment.get("SLURM_JOB_PARTITION", "")))
    left, needed = [node for node in usable if node not in excluded], _least_nodes(facts, environment)
    names = ", ".join(sorted(nodes))
    if len(left) < needed:
        return (
            f"{names} was lost twice but is not excluded: {len(left)} other nodes would be left for the {needed} that "
            f"the job asks for; submit with --nodes=MIN-MAX to go on on fewer, or: scontrol update jobid={job} "
            f"NumNodes={max(1, len(left))} ExcNodeList={','.join(sorted(excluded))}"
        )
    ask("update", f"jobid={job}", f"ExcNodeList={','.join(sorted(excluded))}")
    return f"{names} was lost twice: excluded from now on"


def _least_nodes(facts: Mapping[str, str], environment: Mapping[str, str]) -> int:
    """What --nodes asks for at least. Of a requeued job SLURM tells it by the number of tasks only."""
    tasks_per_node = int(environment.get("SLURM_NTASKS_PER_NODE") or 1)
    return max(1, int(facts.get("NumTasks") or 1) // tasks_per_node)


def usable_nodes(partition: str) -> list[str]:
    """Nodes of a partition that are not down or drained.

    Raises:
        UserError: sinfo does not answer.
    """
    command = ["sinfo", "--noheader", "--Node", "--format=%N %t", *([f"--partition={partition}"] if partition else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_SECONDS, stdin=subprocess.DEVNULL, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"sinfo: {error}") from None
    states = (line.split() for line in done.stdout.splitlines() if line.strip())
    return sorted({node for node, state in states if state.startswith(_USABLE) and not state.endswith("*")})

"""SLURM's own commands: what they are asked, and how their answers are read."""

import os
import subprocess
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xlt_scale.errors import UserError

OVER = frozenset(
    (
        *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"),
        *("BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "REVOKED", "LAUNCH_FAILED"),
    )
)
"""States of a batch job that will not run any more. Whatever else SLURM says, it is still to run, or runs."""

_UNCLEAR = (
    *("unable to contact", "timed out", "connection refused", "connection failure", "communication"),
    *("zero bytes", "standby mode", "socket", "temporarily unavailable", "unexpected message", "network"),
)
_LATER = ("submit limit", "maxsubmit", "maxjobcount", "maximum number of jobs", "dependency")
_SECONDS = 60.0


class Unanswered(Exception):
    """SLURM's controller does not answer for now; what was asked for may have been done all the same."""


class NotNow(Exception):
    """SLURM has not taken it, and may do so later: this user's queue is full, or what it waits for has just ended."""


@dataclass(frozen=True)
class BatchJob:
    """A line of the queue.

    Attributes:
        id: as in '120', or '120_3' for a job of an array.
        reason: why it waits, in SLURM's words.
    """

    id: str
    name: str
    state: str
    reason: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def is_held(self) -> bool:
        """Whether it waits for a person."""
        return self.state == "PENDING" and "held" in self.reason.lower()


def queue(users: Collection[int] = ()) -> list[BatchJob]:
    """All batch jobs of these users (default: this one) that SLURM remembers, ended ones for some minutes.

    Raises:
        Unanswered: no answer.
        UserError: there is no squeue.
    """
    who = ",".join(map(str, sorted(users))) or str(os.getuid())
    done = _run(["squeue", "--noheader", "--array", "--states=all", f"--user={who}", "--format=%F|%K|%T|%r|%j"])
    if done.returncode:
        raise Unanswered(_last_line(done))
    found = []
    for line in done.stdout.splitlines():
        number, index, state, why, name = (part.strip() for part in (line.split("|", 4) + [""] * 4)[:5])
        if number:
            found.append(BatchJob(f"{number}_{index}" if index.isdigit() else number, name, state, why))
    return found


def accounted(names: Collection[str]) -> list[BatchJob]:
    """What accounting says about jobs of these names that the queue has forgotten; [] where there is no accounting."""
    if not names:
        return []
    wanted = [
        "--noheader",
        "--allocations",
        "--parsable2",
        f"--name={','.join(sorted(names))}",
        "--starttime=now-60days",
    ]
    try:
        done = _run(["sacct", *wanted, "--format=JobID,State,JobName"])
    except (UserError, Unanswered):
        return []
    return _read_accounting(done.stdout.splitlines()) if done.returncode == 0 else []


def hand_over(script: Path, options: Sequence[str], held: Sequence[int]) -> str:
    """Give a script to sbatch; the batch job's number.

    Args:
        options: on the command line, where they outdo both the script's lines and SBATCH_ variables.
        held: descriptors that sbatch keeps open to its end, whatever becomes of this program.

    Raises:
        Unanswered: it is not known whether SLURM has taken it.
        NotNow: it has not.
        UserError: sbatch is absent, or refuses the script.
    """
    done = _run(["sbatch", "--parsable", *options, str(script)], held)
    number = done.stdout.strip().split(";")[0]
    if done.returncode == 0 and number.isdigit():
        return number
    said = done.stderr.lower()
    if any(word in said for word in _LATER):
        raise NotNow(_last_line(done))
    if any(word in said for word in _UNCLEAR):
        raise Unanswered(_last_line(done))
    raise UserError(
        f"sbatch refuses {script}: {_last_line(done)}; mend resources.slurm in the study file, or the SBATCH_ variables"
    )


def cancel(ids: Sequence[str], signal: str = "") -> None:
    """End batch jobs, or send a signal to their scripts alone. Those that have ended meanwhile are passed by.

    Raises:
        Unanswered: no answer.
        UserError: there is no scancel.
    """
    how = ["--batch", f"--signal={signal}"] if signal else []
    done = _run(["scancel", *how, *ids])
    if done.returncode and any(word in done.stderr.lower() for word in _UNCLEAR):
        raise Unanswered(_last_line(done))


def set_throttle(array: str, most: int) -> None:
    """Let so many jobs of an array run at a time; what SLURM refuses stays as it is."""
    _run(["scontrol", "update", f"jobid={array}", f"arraytaskthrottle={most}"])


def _run(command: Sequence[str], held: Sequence[int] = ()) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, pass_fds=held, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not on PATH; start this on a node of the cluster that has SLURM's commands, "
            "or use --executor local"
        ) from None
    except subprocess.TimeoutExpired:
        raise Unanswered(f"{command[0]} said nothing for {_SECONDS:.0f} s") from None


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    return (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]


def _read_accounting(lines: Iterable[str]) -> list[BatchJob]:
    """'12_0|CANCELLED by 0|name' and the like."""
    found = []
    for line in lines:
        number, state, name = [*line.split("|", 2), "", ""][:3]
        words = state.split()
        found.append(BatchJob(number.strip(), name.strip(), words[0].rstrip("+") if words else "UNKNOWN"))
    return found

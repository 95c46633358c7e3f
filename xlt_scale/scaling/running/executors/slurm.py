"""Jobs in a cluster's queue: handed over once, remembered in files, watched from a login node."""

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.records.atomic import write_atomically
from xlt_scale.scaling.running.claims import Claims
from xlt_scale.scaling.running.executors.interface import Ended
from xlt_scale.scaling.running.executors.slurm_script import (
    CLAIMED_ELSEWHERE,
    EXIT_FILE,
    Member,
    group_members,
    script,
)
from xlt_scale.scaling.running.run_files import LOG_FILE, last_words
from xlt_scale.study_config import ResourceOptions

STATE_FILE = "slurm.json"
SCRIPT_FILE = "job.sbatch"
UNDERWAY = ("PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING")
_ASK_SECONDS = 10.0

States = Callable[[Sequence[str]], Mapping[str, str]]
"""From ids of batch jobs to their states."""


class SlurmExecutor:
    """Hands jobs to sbatch; jobs/<job>/slurm.json says under which id, so that nothing is handed over twice.

    A batch job takes the claims of its phases on the node where it runs, and outlives this program.

    Args:
        states: what the cluster says about ids; default: sacct, else squeue.
    """

    queues = True

    def __init__(self, folder: StudyFolder, resources: ResourceOptions, states: States | None = None) -> None:
        self._folder, self._further = folder, list(resources.slurm)
        self._devices_per_node = resources.devices_per_node or 8
        self._states = states or ask_states
        self._waiting: list[Member] = []
        self._ids: dict[str, str] = {}
        self._jobs: dict[str, StudyJob] = {}
        self._since: dict[str, float] = {}
        self._asked = float("-inf")
        self._adopt()

    def describe(self) -> str:
        return f"SLURM, {self._devices_per_node} devices per node"

    def why_never(self, job: StudyJob) -> str:
        per_node = self._devices_per_node
        if job.devices <= per_node or job.devices % per_node == 0:
            return ""
        return (
            f"a run of size {job.size} needs {job.devices} devices, which is no whole number of nodes of {per_node}; "
            "set sizes.devices to a multiple, or mend resources.devices_per_node"
        )

    def has_room(self, job: StudyJob) -> bool:
        return True

    def start(self, job: StudyJob, folder: Path, claims: Claims) -> None:
        # The script claims them where it runs.
        claims.release()
        claim_files = tuple(self._folder.claim_file(phase).absolute() for phase in job.phases)
        self._waiting.append(Member(job, folder.absolute(), claim_files))
        self._jobs[job.name] = job

    def submit(self) -> None:
        """Hand over what was started since the last call, jobs that others wait for first."""
        waiting, self._waiting = self._waiting, []
        while waiting:
            made = {phase for member in waiting for phase in member.job.phases}
            ready = [member for member in waiting if not member.job.needs & made] or waiting
            waiting = [member for member in waiting if member not in ready]
            for group in group_members(ready, self._devices_per_node):
                self._submit(group)

    def underway(self) -> Mapping[str, StudyJob]:
        return dict(self._jobs)

    def poll(self) -> list[Ended]:
        if not self._ids or time.monotonic() - self._asked < _ASK_SECONDS:
            return []
        self._asked = time.monotonic()
        states = self._states(sorted(set(self._ids.values())))
        over = [name for name, number in self._ids.items() if states.get(number, "UNKNOWN") not in UNDERWAY]
        return [self._close(name, states.get(self._ids[name], "UNKNOWN")) for name in over]

    def stop(self, seconds: float = 10.0) -> str:
        ids = sorted(set(self._ids.values()))
        return f"{len(ids)} batch jobs stay in the queue; to cancel them: scancel {' '.join(ids)}" if ids else ""

    def _submit(self, group: Sequence[Member]) -> None:
        needs = frozenset().union(*(member.job.needs for member in group))
        inside = [name for name, job in self._jobs.items() if needs & set(job.phases) and name in self._ids]
        after = sorted({self._ids[name] for name in inside})
        first = group[0].folder
        log = first / "slurm-%j.txt" if len(group) > 1 else first / LOG_FILE
        path = first / SCRIPT_FILE
        write_atomically(path, script(group, self._devices_per_node, after, self._further, log).encode())
        number = _sbatch(path)
        for member in group:
            facts = {"id": number, "phases": member.job.phases, "size": member.job.size, "submitted": time.time()}
            facts |= {"devices": member.job.devices, "seconds": member.job.seconds, "script": str(path)}
            _write_state(member.folder, facts)
            self._ids[member.job.name] = number
            self._since[member.job.name] = time.time()

    def _adopt(self) -> None:
        """Batch jobs that an earlier start has handed over and that nobody has seen ending."""
        for path in sorted(self._folder.jobs.glob(f"*/{STATE_FILE}")):
            facts = read_facts(path)
            if not facts or facts.get("ended"):
                continue
            name = path.parent.name
            job = StudyJob(
                name, facts["size"], tuple(facts["phases"]), frozenset(), facts["devices"], 1, facts["seconds"], 0
            )
            self._ids[name], self._jobs[name], self._since[name] = facts["id"], job, facts["submitted"]

    def _close(self, name: str, state: str) -> Ended:
        place, number = self._folder.jobs / name, self._ids.pop(name)
        _write_state(place, read_facts(place / STATE_FILE) | {"ended": state})
        job = self._jobs.pop(name)
        seconds = time.time() - self._since.pop(name)
        code, log = _exit_code(place / EXIT_FILE, state), place / LOG_FILE
        reason = last_words(log) if code else f"batch job {number} is {state}"
        return Ended(job, code, seconds, reason, log)


def _write_state(folder: Path, facts: Mapping[str, object]) -> None:
    write_atomically(folder / STATE_FILE, (json.dumps(facts, indent=1) + "\n").encode())


def _exit_code(path: Path, state: str) -> int | None:
    """A job's own exit code; None when it never began or found its phases claimed."""
    try:
        code = int(path.read_text())
        return None if code == CLAIMED_ELSEWHERE else code
    except (OSError, ValueError):
        return {"COMPLETED": 0, "CANCELLED": None}.get(state, 1)


def _sbatch(path: Path) -> str:
    """Hand a script over; the batch job's id.

    Raises:
        UserError: sbatch is absent or refuses it.
    """
    try:
        done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise UserError(
            "sbatch is not on PATH; start the study on a node of the cluster, or use --executor local"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError("sbatch gave no answer within 2 minutes; start the study again later") from None
    number = done.stdout.strip().split(";")[0]
    if done.returncode or not number.isdigit():
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise UserError(f"sbatch refuses {path}: {said}; mend resources.slurm in the study file")
    return number


def ask_states(ids: Sequence[str]) -> Mapping[str, str]:
    """The state of each batch job, from accounting, else from the queue; without both it counts as unknown.

    Raises:
        UserError: the cluster does not answer.
    """
    wanted = ",".join(ids)
    for command in (
        ["sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", wanted],
        ["squeue", "-h", "-t", "all", "-o", "%i|%T", "-j", wanted],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout.strip():
            return _read_states(done.stdout.splitlines())
    raise UserError("neither sacct nor squeue says how the batch jobs are; start the study again on a login node")


def _read_states(lines: Iterable[str]) -> dict[str, str]:
    """'12|CANCELLED by 0' and the like."""
    pairs = [line.split("|", 1) for line in lines if "|" in line]
    return {number.strip(): state.split()[0].rstrip("+") if state.split() else "UNKNOWN" for number, state in pairs}

"""What runs inside a batch job of the slurm executor: one job of the study, or several side by side on a node.

    python -m xlt_scale.scaling.running.batch_task FOLDER        FOLDER: of the submission

It holds the claims of their phases, passes on SLURM's wish to stop, leaves an exit code for each job, and puts the
batch job back into the queue when something is left that only has to go on. Nobody else needs to live for that.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from xlt_scale.cluster.allocation import END_TIME, allocation_end, batch_job_id
from xlt_scale.cluster.batch_shape import meeting_port
from xlt_scale.cluster.ending import END_FOLDER
from xlt_scale.cluster.stop_request import STOP_FILE
from xlt_scale.errors import FAILURE_EXIT_CODE, LOST_EXIT_CODE, STOPPED_EXIT_CODE, USER_ERROR_EXIT_CODE
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.records.atomic import write_atomically
from xlt_scale.scaling.running.claims import Claims, take
from xlt_scale.scaling.running.run_files import job_command, job_environment, train_script
from xlt_scale.scaling.running.turns import take_another_turn

CANCELLED_FILE = "cancelled"
"""In a submission's folder: nobody wants it any more."""

CLAIMED_ELSEWHERE = 75
"""What a job ends with when somebody else works on one of its phases (EX_TEMPFAIL)."""

SECONDS_OF_WARNING = 420
"""How long before the end of the time SLURM says so."""

_ENDED = ".ended"
"""What a node leaves whose launcher has ended, with its code."""

_TOLD = (0, USER_ERROR_EXIT_CODE, STOPPED_EXIT_CODE, LOST_EXIT_CODE)
_POLL_SECONDS = 0.2
_SECONDS_FOR_CLAIMS = 30.0
_SECONDS_FOR_OTHER_NODES = 60.0


@dataclass(frozen=True)
class Member:
    """A job of the study in a batch job.

    Attributes:
        devices: processes, over all nodes.
        visible: indices of its GPUs among those of the batch job; () = all.
        has_gpus: otherwise it runs on processor cores.
    """

    job: str
    phases: tuple[str, ...]
    run_file: str
    log: str
    devices: int
    nodes: int = 1
    visible: tuple[int, ...] = ()
    has_gpus: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def command(self) -> list[str]:
        """What it is started with. On one node it is what the local executor starts: its processes inherit the claims,
        and signals reach them. Over several nodes each has a launcher of its own.
        """
        if self.nodes == 1:
            return job_command(Path(self.run_file), self.devices)
        per_node = self.devices // self.nodes
        hosts = ["scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")]
        first = subprocess.run(hosts, capture_output=True, text=True, check=True).stdout.split()[0]
        number, turn = int(os.environ.get("SLURM_JOB_ID", "0")), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        port = meeting_port(number, turn)
        # The end of one node does not end the others, which may be saving.
        srun = ["srun", f"--nodes={self.nodes}", f"--ntasks={self.nodes}", "--ntasks-per-node=1", "--cpu-bind=none"]
        srun.append("--kill-on-bad-exit=0")
        if os.environ.get("SLURM_CPUS_PER_TASK"):
            # srun does not take it over from sbatch.
            srun.append(f"--cpus-per-task={os.environ['SLURM_CPUS_PER_TASK']}")
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={self.nodes}"]
        launcher += [f"--nproc-per-node={per_node}", "--rdzv-backend=c10d", f"--rdzv-id={os.environ['SLURM_JOB_ID']}"]
        launcher += [f"--rdzv-endpoint={first}:{port}", "--max-restarts=0", str(train_script()), self.run_file]
        # Launchers die of SIGUSR1, and kill their ranks at SIGTERM before these have saved. The ranks listen to both.
        listening = "trap '' USR1 TERM; export TORCHELASTIC_SIGNALS_TO_HANDLE=SIGINT; "
        marking = f'; code=$?; echo $code >"${END_FOLDER}/$SLURMD_NODENAME{_ENDED}"; exit $code'
        return [*srun, "bash", "-c", listening + shlex.join(launcher) + marking]

    def environment(self) -> dict[str, str]:
        if not self.has_gpus:
            return job_environment([])
        if not self.visible:
            return {**os.environ, "PYTHONUNBUFFERED": "1"}
        there = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        return job_environment([there[one] if one < len(there) else str(one) for one in self.visible])


def task_file(folder: Path, index: int) -> Path:
    """Which jobs a batch job of the submission has."""
    return folder / f"task-{index}.json"


def code_file(folder: Path, job: str) -> Path:
    """Where a job of the study leaves its exit code, in its submission's folder."""
    return folder / f"{job}.code"


class BatchTask:
    """The jobs of this batch job, from their start to their exit codes."""

    def __init__(self, folder: Path, index: int) -> None:
        self._folder, self._index = folder, index
        facts = read_facts(task_file(folder, index))
        self._study = StudyFolder(Path(facts["root"]), Path(facts["pool"]))
        self._members = [
            Member(**one | {"phases": tuple(one["phases"]), "visible": tuple(one["visible"])})
            for one in facts["members"]
        ]
        self._stop_file = folder / f"stop-{index}"
        self._running: dict[str, tuple[Member, subprocess.Popen[bytes], IO[bytes]]] = {}
        self.codes: dict[str, int] = {}
        self.was_terminated = False

    def run(self) -> None:
        """Carry out all jobs, until each has an exit code."""
        self._clear()
        signal.signal(signal.SIGUSR1, self._pass_on)
        signal.signal(signal.SIGTERM, self._pass_on)
        common = {STOP_FILE: str(self._stop_file)} | _end_time()
        for member in self._members:
            self._start(member, common)
        while self._running:
            for job, (member, process, log) in list(self._running.items()):
                if process.poll() is not None:
                    del self._running[job]
                    log.close()
                    self._note(job, self._code(member, process.returncode))
                elif member.nodes > 1:
                    self._leave_lost_nodes_behind(member, process)
            time.sleep(_POLL_SECONDS)

    def _leave_lost_nodes_behind(self, member: Member, process: "subprocess.Popen[bytes]") -> None:
        """srun waits for a node that is gone, for minutes or for ever; once a node has ended the others end within
        seconds.
        """
        folder = self._end_folder(member)
        paths = [*folder.glob("*.json"), *folder.glob(f"*{_ENDED}")]
        if paths and time.time() - min(path.stat().st_mtime for path in paths) > _SECONDS_FOR_OTHER_NODES:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _clear(self) -> None:
        """Remove what an earlier turn of this batch job has left, and say that this one has begun."""
        self._stop_file.unlink(missing_ok=True)
        for member in self._members:
            code_file(self._folder, member.job).unlink(missing_ok=True)
            shutil.rmtree(self._end_folder(member), ignore_errors=True)
            self._end_folder(member).mkdir()
        facts: dict[str, Any] = {"number": os.environ.get("SLURM_ARRAY_JOB_ID", ""), "host": socket.gethostname()}
        facts |= {"turn": int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1, "time": time.time()}
        write_atomically(self._folder / f"started-{self._index}.json", (json.dumps(facts) + "\n").encode())

    def _start(self, member: Member, common: Mapping[str, str]) -> None:
        claims = self._take_claims(member)
        if claims is None:
            self._note(member.job, CLAIMED_ELSEWHERE)
            return
        environment = member.environment() | dict(common) | {END_FOLDER: str(self._end_folder(member))}
        log = open(member.log, "ab")  # noqa: SIM115 (closed when the job has ended)
        log.write(
            f"== {time.strftime('%Y-%m-%d %H:%M:%S')} {member.job}, batch job {batch_job_id(os.environ)}\n".encode()
        )
        log.flush()
        process = subprocess.Popen(
            member.command(),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            # All that work on the phases hold their claims, this program too.
            pass_fds=claims.descriptors,
            start_new_session=True,
            preexec_fn=_ignore_usr1,
        )
        self._running[member.job] = (member, process, log)

    def _take_claims(self, member: Member) -> Claims | None:
        owner = {"study": self._study.root.name, "job": member.job, "batch_job": batch_job_id(os.environ)}
        # After a requeue the last processes of the turn before may still be ending.
        seconds = _SECONDS_FOR_CLAIMS if int(os.environ.get("SLURM_RESTART_COUNT", "0")) else 0.0
        deadline = time.monotonic() + seconds
        while (claims := take(self._study, member.phases, owner)) is None and time.monotonic() < deadline:
            time.sleep(1.0)
        return claims

    def _pass_on(self, number: int, frame: object) -> None:
        """SLURM's wish: to every process here, and by a file to those on other nodes."""
        self.was_terminated |= number == signal.SIGTERM
        with contextlib.suppress(OSError):
            self._stop_file.touch()
        for member, process, _ in self._running.values():
            # Launchers on other nodes would die of it; SLURM itself sends SIGTERM to all steps.
            if member.nodes == 1:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)

    def _code(self, member: Member, code: int) -> int:
        """A job's exit code; where its launcher has lost it, the one that its end files tell (cluster/ending.py)."""
        code = 128 - code if code < 0 else code
        if code in _TOLD:
            return code
        told = self._ending(member).get("code", 0)
        if not told and member.nodes > 1:
            ended = list(self._end_folder(member).glob(f"*{_ENDED}"))
            return LOST_EXIT_CODE if len(ended) < member.nodes else code
        return int(told) or code

    def endings(self) -> list[dict[str, Any]]:
        """How each job ended that did not end well, by the end files."""
        return [facts for member in self._members if (facts := self._ending(member))]

    def _ending(self, member: Member) -> dict[str, Any]:
        """This node's word, else any other's: after a cut link both sides blame each other, and this one goes on."""
        folder = self._end_folder(member)
        own = folder / f"{socket.gethostname()}.json"
        found = (read_facts(path) for path in [own, *sorted(folder.glob("*.json"))])
        return next((facts for facts in found if isinstance(facts.get("code"), int)), {})

    def _note(self, job: str, code: int) -> None:
        self.codes[job] = code
        write_atomically(code_file(self._folder, job), f"{code}\n".encode())
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {job}: exit code {code}", flush=True)

    def _end_folder(self, member: Member) -> Path:
        return self._folder / f"end-{member.job}"


def _ignore_usr1() -> None:
    """A program that does not listen yet must not die of it; the stop file tells it later."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _end_time() -> dict[str, str]:
    """When the allocation ends, for the jobs; {} when nobody says."""
    end = allocation_end()
    return {} if end is None else {END_TIME: str(end)}


def exit_code(codes: Sequence[int]) -> int:
    """Of the batch job: 0 when all jobs have ended well, else what most needs to be told."""
    for wanted in (*(code for code in codes if code not in (*_TOLD, CLAIMED_ELSEWHERE)), USER_ERROR_EXIT_CODE):
        if wanted in codes:
            return wanted
    return max(codes, default=FAILURE_EXIT_CODE)


def main() -> int:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print(__doc__, file=sys.stderr)
        return FAILURE_EXIT_CODE
    folder, index = Path(sys.argv[1]), int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    task = BatchTask(folder, index)
    task.run()
    codes = list(task.codes.values())
    # SIGTERM comes from somebody who ends the batch job, or has it queued again already.
    if {STOPPED_EXIT_CODE, LOST_EXIT_CODE}.intersection(codes) and not task.was_terminated:
        take_another_turn(folder, index, batch_job_id(os.environ), task.endings(), (folder / CANCELLED_FILE).exists())
    return exit_code(codes)


if __name__ == "__main__":
    sys.exit(main())

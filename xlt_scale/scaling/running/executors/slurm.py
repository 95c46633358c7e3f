"""Jobs in a cluster's queue: handed over once, remembered in files, watched from a login node."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from xlt_scale.errors import LOST_EXIT_CODE, UserError
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.running.batch_task import CLAIMED_ELSEWHERE, code_file
from xlt_scale.scaling.running.claims import Claims
from xlt_scale.scaling.running.control_lock import take_control
from xlt_scale.scaling.running.executors.interface import Ended
from xlt_scale.scaling.running.executors.slurm_notes import SCRIPT_FILE, Submission, new_submission, open_submissions
from xlt_scale.scaling.running.executors.slurm_queue import (
    BatchJob,
    NotNow,
    Unanswered,
    accounted,
    hand_over,
    queue,
    set_throttle,
)
from xlt_scale.scaling.running.executors.slurm_script import Nodes, group, options, write_files
from xlt_scale.scaling.running.run_files import LOG_FILE, last_words
from xlt_scale.study_config import ResourceOptions

_MOST_TASKS = 1000
_LEAST_SECONDS, _MOST_SECONDS = 2.0, 15.0
_SECONDS_TO_SETTLE = 5.0
_SECONDS_UNTIL_NEXT_TRY = 30.0
_FAILURES = ("FAILED", "OUT_OF_MEMORY", "DEADLINE")


class SlurmExecutor:
    """Hands jobs to sbatch, alike ones as one array.

    A note is written before sbatch is called, under a name that no other batch job has (slurm_notes.py). Whatever is
    killed when, a later start finds by that name in the queue what has been handed over, and hands over nothing twice.
    Batch jobs outlive this program and put themselves back into the queue (batch_task.py).

    Args:
        nodes: what a node has; default: by the resources, with GPUs.
        say: gets a line about what a person may want to know.

    Raises:
        UserError: another program hands over batch jobs of this study.
    """

    queues = True

    def __init__(
        self,
        folder: StudyFolder,
        resources: ResourceOptions,
        nodes: Nodes | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self._folder, self._further, self._most = folder, list(resources.slurm), resources.max_jobs
        self._nodes = nodes or nodes_of(resources, has_gpus=True)
        self._say = say
        self._lock = take_control(folder, say)
        self._began = time.monotonic()
        self._waiting: list[StudyJob] = []
        self._open = list(open_submissions(folder))
        self._unclear_since = {one.name: self._began for one in self._open if not one.number}
        self._missed: Counter[str] = Counter()
        self._said: set[str] = set()
        self._next_look = self._changed = self._next_try = self._began
        self._is_silent = False

    def describe(self) -> str:
        what = "GPUs" if self._nodes.has_gpus else "processor cores"
        most = f", {self._most} batch jobs at a time" if self._most else ""
        return f"SLURM, {self._nodes.devices} {what} per node{most}"

    def why_never(self, job: StudyJob) -> str:
        per_node = self._nodes.devices
        if job.devices <= per_node or job.devices % per_node == 0:
            return ""
        return (
            f"a run of size {job.size} needs {job.devices} devices, which is no whole number of nodes of {per_node}; "
            "set sizes.devices to a multiple, or mend resources.devices_per_node"
        )

    def has_room(self, job: StudyJob) -> bool:
        if time.monotonic() < self._next_try:
            return False
        # A job cannot wait for one whose number is not known yet.
        if any(not one.number and job.needs & _phases(one) for one in self._open):
            return False
        if not self._most:
            return True
        is_alike = not self._waiting or _kind(job) == _kind(self._waiting[0])
        return is_alike and self._num_at_a_time() < self._most

    def start(self, job: StudyJob, folder: Path, claims: Claims) -> None:
        # The batch job claims them where it runs.
        claims.release()
        self._waiting.append(job)

    def submit(self) -> None:
        """Hand over what was started since the last call, jobs that others wait for first."""
        waiting, self._waiting = self._waiting, []
        while waiting:
            made = {phase for job in waiting for phase in job.phases}
            ready = [job for job in waiting if not job.needs & made] or waiting
            waiting = [job for job in waiting if job not in ready]
            for tasks in group(ready, self._nodes, _MOST_TASKS):
                # What is left over is offered again in a later round.
                if not self._hand_over(tasks):
                    return

    def underway(self) -> Mapping[str, StudyJob]:
        return {job.name: job for job in (*self._waiting, *(job for one in self._open for job in one.open_jobs))}

    def poll(self) -> list[Ended]:
        self._lock.beat()
        now = time.monotonic()
        if not self._open or now < self._next_look:
            return []
        # Often at first, so that short jobs are not waited for; then gently.
        self._next_look = now + min(_MOST_SECONDS, _LEAST_SECONDS + (now - self._changed) / 20)
        try:
            seen = queue({one.user for one in self._open})
        except Unanswered as why:
            if not self._is_silent:
                self._is_silent = True
                self._say(f"SLURM does not answer ({why}); waiting until it does")
            return []
        if self._is_silent:
            self._is_silent = False
            self._say("SLURM answers again")
        ended = self._look_at(seen)
        if ended:
            self._changed = time.monotonic()
            self._let_more_run()
        return ended

    def ask_to_stop(self) -> int:
        """Batch jobs go on without this program."""
        return 0

    def stop(self, seconds: float = 10.0) -> str:
        self._lock.release()
        num_jobs = sum(len(one.open_tasks) for one in self._open)
        if not num_jobs:
            return ""
        return f"{num_jobs} batch jobs stay in the queue; to cancel them: xlt-scale study cancel {self._folder.root}"

    def _num_at_a_time(self) -> int:
        return sum(min(len(one.open_tasks), one.most or self._most) for one in self._open)

    def _hand_over(self, tasks: Sequence[Sequence[StudyJob]]) -> bool:
        """Whether it is in the queue for certain."""
        needs = tasks[0][0].needs
        makers = [(one, job) for one in self._open for job in one.open_jobs if needs.intersection(job.phases)]
        most = max(1, self._most - self._num_at_a_time()) if self._most else 0
        one = new_submission(self._folder, tasks, most)
        chosen = options(one, self._nodes, sorted({maker.id_of(job.name) for maker, job in makers}), self._further)
        write_files(one, self._folder, self._nodes, chosen)
        one.write()
        try:
            number = hand_over(one.folder / SCRIPT_FILE, chosen, [self._lock.descriptor])
        except Unanswered as why:
            self._say(
                f"SLURM does not answer ({why}); when it does, the queue will say whether it has taken {one.name}"
            )
            self._is_silent = True
            self._open.append(one)
            self._unclear_since[one.name] = time.monotonic()
            return False
        except (NotNow, UserError) as why:
            one.with_ended([job.name for job in one.jobs], "refused").write()
            if isinstance(why, UserError):
                raise
            self._say_once(f"not now: {why}", f"SLURM takes no more for now: {why}; tried again every half a minute")
            self._next_try = time.monotonic() + _SECONDS_UNTIL_NEXT_TRY
            return False
        self._open.append(one.with_number(number))
        self._open[-1].write()
        self._changed = time.monotonic()
        return True

    def _look_at(self, seen: Sequence[BatchJob]) -> list[Ended]:
        names = {job.name: job.id.split("_")[0] for job in seen}
        self._open = [found for one in self._open if (found := self._with_number(one, names)) is not None]
        # By name as well: numbers may come again on a cluster that was set up anew.
        known = {job.id: job for job in seen if job.name in {one.name for one in self._open}}
        forgotten = {one.name for one in self._open for task in one.open_tasks if f"{one.number}_{task}" not in known}
        known |= {job.id: job for job in accounted(forgotten) if job.id not in known}
        ended: list[Ended] = []
        for place, one in enumerate(self._open):
            for task in one.open_tasks if one.number else ():
                batch_job = known.get(f"{one.number}_{task}")
                if batch_job and batch_job.is_held:
                    self._say_once(
                        f"held {batch_job.id}",
                        f"batch job {batch_job.id} is held ({batch_job.reason}); scontrol release {batch_job.id} lets "
                        "it go on",
                    )
                if self._is_over(one, task, batch_job):
                    state = batch_job.state if batch_job else "FORGOTTEN"
                    jobs = [job for job in one.tasks[task] if job.name not in one.ended]
                    ended += [_end(one, job, f"{one.number}_{task}", state, self._folder) for job in jobs]
                    one = one.with_ended([job.name for job in jobs], state)
                    self._open[place] = one
                    one.write()
        self._open = [one for one in self._open if one.open_jobs]
        return ended

    def _with_number(self, one: Submission, names: Mapping[str, str]) -> Submission | None:
        """With its number in SLURM, when that has become known; None when it was never handed over."""
        if one.number:
            return one
        by_accounting = (job.id.split("_")[0] for job in ([] if one.name in names else accounted([one.name])))
        number = one.started_number() or names.get(one.name) or next(by_accounting, "")
        if number:
            self._say(f"{one.name} is in SLURM's queue as batch job {number}: not handed over again")
            one = one.with_number(number)
            one.write()
            return one
        # What sbatch has sent last may still be on its way.
        if time.monotonic() - self._unclear_since[one.name] < _SECONDS_TO_SETTLE:
            return one
        one.with_ended([job.name for job in one.jobs], "never handed over").write()
        return None

    def _is_over(self, one: Submission, task: int, batch_job: BatchJob | None) -> bool:
        """Whether a batch job will not run any more. Without the exit codes of all its jobs it has to be seen so twice:
        one whose node was lost is on its way back into the queue.
        """
        key = f"{one.number}_{task}"
        if batch_job is not None and not batch_job.is_over:
            del self._missed[key]
            return False
        self._missed[key] += 1
        has_codes = all(code_file(one.folder, job.name).exists() for job in one.tasks[task])
        return self._missed[key] > 1 or (batch_job is not None and has_codes)

    def _let_more_run(self) -> None:
        """Places that have become free go to arrays that have more to run."""
        for place, one in enumerate(self._open):
            free = self._most - self._num_at_a_time()
            more = min(free, len(one.open_tasks) - one.most) if one.most and one.number else 0
            if more > 0:
                self._open[place] = one = one.with_most(one.most + more)
                set_throttle(one.number, one.most)
                one.write()

    def _say_once(self, subject: str, line: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            self._say(line)


def nodes_of(resources: ResourceOptions, has_gpus: bool) -> Nodes:
    """A node, by the study's resources. Processor cores are given out one by one where nothing else is said: small jobs
    need not share a batch job then.
    """
    return Nodes(resources.devices_per_node or 8, has_gpus, shares=has_gpus or bool(resources.devices_per_node))


def _kind(job: StudyJob) -> tuple[object, ...]:
    """Jobs of a kind are one array."""
    return job.size, job.devices, job.needs


def _phases(one: Submission) -> set[str]:
    return {phase for job in one.open_jobs for phase in job.phases}


def _end(one: Submission, job: StudyJob, batch_job: str, state: str, folder: StudyFolder) -> Ended:
    code = _exit_code(one, job, state)
    log = folder.jobs / job.name / LOG_FILE
    index = batch_job.rsplit("_", 1)[1]
    began = float(read_facts(one.folder / f"started-{index}.json").get("time", 0)) or one.written
    reason = last_words(log) if code and state != "CANCELLED" else f"batch job {batch_job} is {state}"
    return Ended(job, code, max(0.0, time.time() - began), reason, log)


def _exit_code(one: Submission, job: StudyJob, state: str) -> int | None:
    """Of a job of the study; None when it was not carried out, or somebody did not want it to be.

    Without a code of its own it has failed where SLURM says so; otherwise it was lost: with its node, at the end of its
    time, or without a trace.
    """
    if state == "CANCELLED" and not one.is_cancelled:
        return None
    try:
        code = int(code_file(one.folder, job.name).read_text())
        return None if code == CLAIMED_ELSEWHERE else code
    except (OSError, ValueError):
        return 1 if state in _FAILURES else LOST_EXIT_CODE

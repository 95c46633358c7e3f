"""Carry out a study: what is left becomes jobs, jobs become records, until nothing is left that can be done.

The files are the state. This program only decides by them what comes next: it can be killed at any moment, started
again, and started twice at a time.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.disk import bytes_below, free_bytes
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import Placement, StudyJob, pack, phases_left
from xlt_scale.scaling.running.attempts import Attempts, why
from xlt_scale.scaling.running.claims import by_holder, is_claimed, take
from xlt_scale.scaling.running.encoder_needs import (
    drop_unneeded_encoders,
    encoders_of,
    encoders_there,
    make_trainable_again,
    note_needs,
    remove_remains,
)
from xlt_scale.scaling.running.events import Events
from xlt_scale.scaling.running.executors.interface import Ended, Executor
from xlt_scale.scaling.running.outcome import Outcome, count, gib, some, summary
from xlt_scale.scaling.running.progress import Progress, duration
from xlt_scale.scaling.running.run_files import write_job
from xlt_scale.scaling.running.stopping import stop_on_signals
from xlt_scale.scaling.running.study_changes import describe_changes, remember_study
from xlt_scale.study_config import StudyOptions

Say = Callable[[str], None]
Collect = Callable[[StudyFolder, StudyGrid, Iterable[str] | None], list[str]]
"""Write the records of finished phases that have none (of these, or of all); their names."""
Estimate = Callable[[StudyGrid], tuple[Mapping[str, Placement], Mapping[str, float]]]
"""Devices by size and rough seconds by phase."""
Finished = Callable[[StudyFolder, StudyGrid], set[str]]
"""Phases whose records have everything that the grid asks for."""

_POLL_SECONDS = 0.2
_ROUND_SECONDS = 3.0


def run_study(
    study: StudyOptions,
    executor: Executor,
    *,
    redesign: Callable[[], StudyGrid],
    estimate: Estimate,
    collect: Collect,
    say: Say,
    finished: Finished | None = None,
    poll_seconds: float = _POLL_SECONDS,
    round_seconds: float = _ROUND_SECONDS,
) -> Outcome:
    """Run what is left of a study; every event is a line to `say`.

    Args:
        finished: asked rarely; default: every phase of the grid with a record.
        redesign: the grid with what a learning-rate search has chosen so far.
        poll_seconds: between looks at the processes.
        round_seconds: between looks at the files, when nothing has ended meanwhile.

    Raises:
        UserError: the study cannot be carried out as it is written, or a file cannot be written.
    """
    runner = _Runner(study, executor, redesign, estimate, collect, say, finished, poll_seconds, round_seconds)
    with stop_on_signals(runner.stop):
        try:
            return runner.run()
        except OSError as error:
            raise UserError(
                f"{error.filename or StudyFolder.of(study).root}: {error.strerror or error}; mend that and start the "
                "study again, nothing is lost"
            ) from None
        finally:
            runner.close()


@dataclass
class _Round:
    """What came of looking for jobs to start.

    Attributes:
        elsewhere: phases that others work on.
        started: a job was handed over, or its phases turned out to be done.
        stuck: what is missing on the disk for a job, in words.
        no_room: a job waits for devices.
    """

    elsewhere: list[str]
    started: bool = False
    stuck: str = ""
    no_room: bool = False


class _Runner:
    def __init__(
        self,
        study: StudyOptions,
        executor: Executor,
        redesign: Callable[[], StudyGrid],
        estimate: Estimate,
        collect: Collect,
        say: Say,
        finished: Finished | None,
        poll_seconds: float,
        round_seconds: float,
    ) -> None:
        self._study, self._executor = study, executor
        self._redesign, self._estimate, self._collect_records = redesign, estimate, collect
        self._finished = finished or (lambda folder, grid: folder.recorded() & grid.phases.keys())
        self._poll_seconds, self._round_seconds = poll_seconds, round_seconds
        self._folder = StudyFolder.of(study)
        self._events = Events(self._folder.events_file)
        self._attempts = Attempts(study.resources.retries)
        self._say = say
        self._said: set[str] = set()
        self._stopping = False
        self._packed: tuple[object, list[StudyJob]] = (None, [])
        self._plan(redesign())
        self._progress = Progress(self._seconds)

    def stop(self) -> None:
        """Ask for the end; called by a signal's handler."""
        self._stopping = True

    def run(self) -> Outcome:
        self._open()
        while True:
            left = self._left()
            now = self._start_what_is_ready(left)
            self._executor.submit()
            if now.started:
                continue
            if self._stopping:
                return self._outcome(left, interrupted=True)
            if not self._executor.underway() and not now.elsewhere and not now.no_room:
                # What has ended since the last look may have named or freed something.
                if not self._collect():
                    return self._outcome(left, stuck=now.stuck)
                continue
            if now.no_room and not self._executor.underway():
                self._say_once("room", f"waiting: {self._executor.describe()}, and others use them")
            self._wait(now.elsewhere)

    def close(self) -> None:
        """End the jobs and leave nothing claimed."""
        rest = self._executor.stop()
        if rest:
            self._say(rest)

    def _open(self) -> None:
        for place in (self._folder.pool, self._folder.jobs, self._folder.records):
            place.mkdir(parents=True, exist_ok=True)
        note_needs(self._folder, self._grid, self._recorded)
        self._collect(says=False)
        left = self._left()
        for line in describe_changes(self._folder, self._grid, self._folder.recorded(), len(left)):
            self._say(line)
        remember_study(self._folder, self._study)
        note_needs(self._folder, self._grid, self._recorded)
        self._refuse_what_never_fits(left)
        self._events.write("runner started", phases=len(self._grid.phases), done=self._num_done, left=len(left))
        self._progress = Progress(self._seconds, self._recorded)
        self._say(
            f"{self._study.name}: {self._num_done} of {len(self._grid.phases)} phases done, {len(left)} to run "
            f"on {self._executor.describe()} -> {self._folder.root}"
        )

    def _plan(self, grid: StudyGrid) -> None:
        self._grid = grid
        self._placements, self._seconds = self._estimate(grid)
        self._look_at_records()

    def _look_at_records(self) -> None:
        there = self._folder.recorded() & self._grid.phases.keys()
        # Records of phases that the study now asks more of: they are scored again, and recorded again.
        self._lacking = there - self._finished(self._folder, self._grid)
        self._recorded = there - self._lacking

    def _refuse_what_never_fits(self, left: Sequence[str]) -> None:
        for job in self._pack(left):
            reason = self._executor.why_never(job)
            if reason:
                self._say_once(reason, reason)
                self._attempts.give_up(job.phases, reason)

    @property
    def _num_done(self) -> int:
        return len(self._recorded)

    def _left(self) -> list[str]:
        """Phases to be run, by the files as they are."""
        self._recorded = (self._folder.recorded() & self._grid.phases.keys()) - self._lacking
        self._with_weights = encoders_there(self._folder, self._grid)
        return phases_left(self._grid, self._recorded, self._with_weights)

    def _pack(self, names: Sequence[str]) -> list[StudyJob]:
        """Jobs in the order of their start: what others wait for, what lets an encoder go, then the largest size. What
        has failed stands alone.
        """
        # Unchanged for most of the rounds; a grid may have tens of thousands of phases.
        key = (self._attempts.alone, tuple(names), id(self._seconds))
        if self._packed[0] != key:
            self._packed = (key, self._pack_anew(names))
        return self._packed[1]

    def _pack_anew(self, names: Sequence[str]) -> list[StudyJob]:
        keep_last = max((run.checkpoints.keep_last for run in self._grid.runs.values()), default=2)
        alone = [name for name in names if name in self._attempts.alone]
        groups = [[name for name in names if name not in self._attempts.alone], *([name] for name in alone)]
        jobs = [
            job
            for group in groups
            for job in pack(
                self._grid, group, self._placements, self._seconds, self._study.resources.hours_per_job, keep_last
            )
        ]
        return sorted(jobs, key=self._turn)

    def _turn(self, job: StudyJob) -> tuple[int, int]:
        size = -list(self._grid.runs).index(job.size)
        role = self._grid.phases[job.phases[0]].role
        if role == "pretraining":
            return 0, size
        needed = {self._grid.phases[name].role for name in job.needs}
        if "intermediate" in needed and role != "intermediate":
            return 1, size
        return (2 if role == "intermediate" else 3), size

    def _start_what_is_ready(self, left: Sequence[str]) -> _Round:
        """Hand over jobs."""
        underway = {name for job in self._executor.underway().values() for name in job.phases}
        given_up = {failed.name for failed in self._attempts.failed} | set(self._attempts.blocked(self._grid, left))
        open_phases = [name for name in left if name not in underway and name not in given_up]
        now = _Round([name for name in open_phases if is_claimed(self._folder, name)])
        if self._stopping:
            return now
        held = set(now.elsewhere)
        coming = self._with_weights | (underway if self._executor.queues else set())
        for job in self._pack([name for name in open_phases if name not in held]):
            if not job.needs <= coming:
                continue
            if not self._executor.has_room(job):
                # Smaller ones wait too: they would take the room away from it for ever.
                now.no_room = True
                break
            missing = self._missing_space(job)
            if missing:
                self._say_once(f"space for {job.name}", missing)
                now.stuck = now.stuck or missing
                continue
            if not self._start(job):
                now.elsewhere += job.phases
                continue
            now.started = True
            coming |= set(job.phases) if self._executor.queues else set()
        self._tell_of_others(now.elsewhere)
        return now

    def _start(self, job: StudyJob) -> bool:
        claims = take(self._folder, job.phases, {"study": self._study.name, "job": job.name})
        if claims is None:
            return False
        try:
            # Somebody may have finished one of them just before it could be claimed.
            if self._collect(job.phases) or self._have_changed(job):
                claims.release()
                return True
            for name in encoders_of(self._grid) & set(job.phases):
                make_trainable_again(self._folder, name)
            place = write_job(self._folder, self._grid, job)
            self._executor.start(job, place, claims)
        except BaseException:
            claims.release()
            raise
        self._events.write("job started", job=job.name, phases=list(job.phases), devices=job.devices)
        self._say(f"{self._mark} {job.name}: started, {count(job.phases, 'phase')}")
        return True

    def _have_changed(self, job: StudyJob) -> bool:
        """Whether another runner has recorded one of the job's phases again."""
        if not self._lacking & set(job.phases):
            return False
        before = self._lacking
        self._look_at_records()
        return self._lacking != before

    def _missing_space(self, job: StudyJob) -> str:
        """What is missing on the disk for a job to start, in words; '' when there is enough."""
        promised = 0
        # How many of a queue's jobs will run at once is not known here.
        for other in () if self._executor.queues else self._executor.underway().values():
            taken = sum(bytes_below(self._folder.phase(name)) for name in other.phases)
            promised += max(0, other.space - taken)
        free = free_bytes(self._folder.pool)
        if job.space + promised <= free:
            return ""
        running = f" beside {gib(promised)} that running jobs may still need" if promised else ""
        return (
            f"{job.name} waits for disk space: it needs {gib(job.space)}{running}, and {self._folder.pool} has "
            f"{gib(free)}; free some, or set pool to another disk"
        )

    def _wait(self, elsewhere: Sequence[str]) -> None:
        """Until a job has ended, or it is time to look at the files again."""
        deadline = time.monotonic() + self._round_seconds
        while time.monotonic() < deadline and not self._stopping:
            ended = self._executor.poll()
            for one in ended:
                self._note_end(one)
            if ended:
                return
            time.sleep(self._poll_seconds)
        underway = [name for job in self._executor.underway().values() for name in job.phases]
        self._collect([*underway, *elsewhere])

    def _note_end(self, ended: Ended) -> None:
        job = ended.job
        self._collect(job.phases, says=False)
        self._drop_encoders(job.phases)
        left = set(self._left())
        undone = [name for name in job.phases if name in left]
        facts = {"job": job.name, "seconds": round(ended.seconds, 1), "code": ended.code}
        if not undone:
            note = f"all done, then: {why(ended)}" if ended.code else "done"
            self._events.write("job ended", **facts)
            self._say(f"{self._mark} {job.name}: {note}, {duration(ended.seconds)}{self._time_left(left)}")
        elif ended.code is None:
            if job.needs <= self._with_weights and not any(is_claimed(self._folder, name) for name in undone):
                # Somebody wanted it so.
                self._attempts.give_up(undone, ended.reason, ended.log)
            self._events.write("job not carried out", **facts, reason=ended.reason)
            self._say(f"{self._mark} {job.name}: not carried out, {ended.reason}")
        else:
            plan = self._attempts.note(ended, undone)
            self._events.write("job failed", **facts, reason=why(ended), log=str(ended.log))
            self._say(f"{self._mark} {job.name}: FAILED, {why(ended)}; {plan} ({ended.log})")

    def _collect(self, phases: Iterable[str] | None = None, says: bool = True) -> bool:
        """Record what is finished; whether there was anything."""
        if phases is not None:
            phases = [name for name in phases if name in self._grid.phases and name not in self._recorded]
            if not phases:
                return False
        names = self._collect_records(self._folder, self._grid, phases)
        if not names:
            return False
        self._lacking.difference_update(names)
        self._recorded.update(names)
        for name in names:
            self._events.write("phase finished", phase=name)
        self._progress.note(names)
        if says:
            self._say(f"{self._mark} done: {some([self._grid.phases[name].label for name in names])}")
        if self._grid.waiting and any(self._grid.phases[name].role == "search" for name in names):
            self._plan(self._redesign())
        self._drop_encoders()
        return True

    def _drop_encoders(self, and_remains_of: Iterable[str] = ()) -> None:
        """Also when a job has ended: what it held could not be removed before."""
        remove_remains(self._folder, self._grid, self._recorded.intersection(and_remains_of))
        for name in drop_unneeded_encoders(self._folder, self._grid, self._recorded):
            self._events.write("encoder removed", phase=name)

    def _tell_of_others(self, elsewhere: Sequence[str]) -> None:
        for who, names in by_holder(self._folder, elsewhere).items():
            self._say_once(who, f"{count(names, 'phase')} in the hands of {who}: {some(names)}")

    def _say_once(self, subject: str, line: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            self._say(line)

    @property
    def _mark(self) -> str:
        return f"[{self._num_done}/{len(self._grid.phases)}]"

    def _time_left(self, left: Iterable[str]) -> str:
        seconds = self._progress.seconds_left(self._seconds, left)
        return "" if not seconds else f", about {duration(seconds)} left"

    def _outcome(self, left: Sequence[str], interrupted: bool = False, stuck: str = "") -> Outcome:
        self._drop_encoders(self._grid.phases)
        blocked = tuple(self._attempts.blocked(self._grid, left))
        failed = tuple(one for one in self._attempts.failed if one.name in set(left))
        outcome = Outcome(
            len(self._grid.phases), self._num_done, failed, blocked, interrupted, stuck, self._grid.waiting
        )
        self._events.write("runner ended", done=outcome.num_done, failed=len(failed), interrupted=interrupted)
        for line in summary(outcome):
            self._say(line)
        return outcome

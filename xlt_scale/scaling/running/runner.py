"""Carry out a study: what is left becomes jobs, jobs become records, until nothing is left that can be done.

The files are the state. This program only decides by them what comes next: it can be killed at any moment, started
again, and started twice at a time.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xlt_scale.cluster.allocation import allocation_end, seconds_left
from xlt_scale.errors import LOST_EXIT_CODE, STOPPED_EXIT_CODE, UserError
from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import Placement, StudyJob, phases_left
from xlt_scale.scaling.running.attempts import Attempts, why
from xlt_scale.scaling.running.claims import by_holder, is_claimed, take
from xlt_scale.scaling.running.disk_room import missing_space
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
from xlt_scale.scaling.running.job_order import JobOrder
from xlt_scale.scaling.running.outcome import Outcome, count, some, summary
from xlt_scale.scaling.running.progress import Progress, duration
from xlt_scale.scaling.running.run_files import write_job
from xlt_scale.scaling.running.runner_files import RunnerFile
from xlt_scale.scaling.running.stopping import Wish
from xlt_scale.scaling.running.study_changes import describe_changes, remember_study
from xlt_scale.study_config import StudyOptions

Say = Callable[[str], None]
Collect = Callable[[StudyFolder, StudyGrid, Iterable[str] | None], list[str]]
"""Write the records of finished phases that have none (of these, or of all); their names."""
Estimate = Callable[[StudyGrid], tuple[Mapping[str, Placement], Mapping[str, float]]]
"""Devices by size and rough seconds by phase."""
Finished = Callable[[StudyFolder, StudyGrid], set[str]]
"""Phases whose records have everything that the grid asks for."""

GO_ON_EXIT_CODES = (STOPPED_EXIT_CODE, LOST_EXIT_CODE)
_SECONDS_TO_SAVE = 900.0
# A job that stops of itself so shortly before the end of this program's allocation does so for that reason.
_NEAR = 3600.0
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
    with runner.wish.from_signals():
        try:
            with runner.file:
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
        self.wish, self.file = Wish(), RunnerFile(self._folder)
        self._plan(redesign())
        self._progress = Progress(self._seconds)

    def run(self) -> Outcome:
        self._open()
        while True:
            left = self._left()
            now = self._start_what_is_ready(left)
            self._executor.submit()
            if now.started:
                continue
            if self._is_to_end():
                self._let_jobs_save()
                return self._outcome(self._left())
            if not self._executor.underway() and not now.elsewhere and not now.no_room:
                # What has ended since the last look may have named or freed something.
                if not self._collect():
                    return self._outcome(left, stuck=now.stuck)
                continue
            if now.no_room and not self._executor.underway():
                self._say_once("room", f"waiting: {self._executor.describe()}, and others use them")
            self._wait(now.elsewhere)

    def _is_to_end(self) -> bool:
        if self.file.is_asked_to_stop:
            self.wish.ask("study cancel")
        return bool(self.wish.reason)

    def _let_jobs_save(self) -> None:
        """Wait for what ends with this program."""
        num_jobs = self._executor.ask_to_stop()
        if not num_jobs:
            return
        self._say(f"{self.wish.reason}: {num_jobs} jobs save and end; a second signal does not wait for them")
        deadline = time.monotonic() + _SECONDS_TO_SAVE
        while self._executor.underway() and not self.wish.is_urgent and time.monotonic() < deadline:
            for one in self._executor.poll():
                self._note_end(one)
            time.sleep(self._poll_seconds)

    def close(self) -> None:
        """End the jobs and leave nothing claimed."""
        rest = self._executor.stop()
        # Whoever cancels the study cancels these as well.
        if rest and not self.file.is_asked_to_stop:
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
        placements, self._seconds = self._estimate(grid)
        self._order = JobOrder(grid, placements, self._seconds)
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
        return self._order.jobs(names, self._attempts.alone)

    def _start_what_is_ready(self, left: Sequence[str]) -> _Round:
        """Hand over jobs."""
        underway = {name for job in self._executor.underway().values() for name in job.phases}
        given_up = {failed.name for failed in self._attempts.failed} | set(self._attempts.blocked(self._grid, left))
        open_phases = [name for name in left if name not in underway and name not in given_up]
        now = _Round([name for name in open_phases if is_claimed(self._folder, name)])
        if self.wish.reason:
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
            # How many of a queue's jobs will run at once is not known here.
            running = () if self._executor.queues else self._executor.underway().values()
            missing = missing_space(self._folder, job, running)
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

    def _wait(self, elsewhere: Sequence[str]) -> None:
        """Until a job has ended, or it is time to look at the files again."""
        deadline = time.monotonic() + self._round_seconds
        while time.monotonic() < deadline and not self._is_to_end():
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
        elif self.wish.reason or ended.code in GO_ON_EXIT_CODES:
            self._note_unfinished(ended, undone)
        else:
            plan = self._attempts.note(ended, undone)
            self._events.write("job failed", **facts, reason=why(ended), log=str(ended.log))
            self._say(f"{self._mark} {job.name}: FAILED, {why(ended)}; {plan} ({ended.log})")

    def _note_unfinished(self, ended: Ended, undone: Sequence[str]) -> None:
        """A job that goes on later from its checkpoints: it was stopped, or has lost a process, node or link."""
        job, reason = ended.job, why(ended)
        what = "lost" if ended.code == LOST_EXIT_CODE else "stopped"
        self._events.write(f"job {what}", job=job.name, seconds=round(ended.seconds, 1), code=ended.code, reason=reason)
        if self.wish.reason:
            self._say(f"{self._mark} {job.name}: ended, {reason}")
        elif ended.code == STOPPED_EXIT_CODE and not self._executor.queues and seconds_left(allocation_end()) < _NEAR:
            self._say(f"{self._mark} {job.name}: stopped, {reason}")
            self.wish.ask("the end of the allocation")
        elif self._attempts.note_loss(ended, undone):
            self._say(f"{self._mark} {job.name}: {what}, {reason}; not started again ({ended.log})")
        else:
            self._say(f"{self._mark} {job.name}: {what}, {reason}; it goes on")

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

    def _outcome(self, left: Sequence[str], stuck: str = "") -> Outcome:
        self._drop_encoders(self._grid.phases)
        blocked = tuple(self._attempts.blocked(self._grid, left))
        failed = tuple(one for one in self._attempts.failed if one.name in set(left))
        outcome = Outcome(
            len(self._grid.phases), self._num_done, failed, blocked, self.wish.reason, stuck, self._grid.waiting
        )
        self._events.write("runner ended", done=outcome.num_done, failed=len(failed), stopped_by=outcome.stopped_by)
        self.file.ends_with(outcome.exit_code)
        for line in summary(outcome):
            self._say(line)
        return outcome

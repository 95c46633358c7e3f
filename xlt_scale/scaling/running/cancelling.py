"""End whatever works on a study, and leave what it has done."""

import time
from collections.abc import Callable, Collection, Sequence

from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.running.batch_task import CANCELLED_FILE
from xlt_scale.scaling.running.control_lock import in_control
from xlt_scale.scaling.running.executors.slurm_notes import batch_folder, name_prefix, open_submissions
from xlt_scale.scaling.running.executors.slurm_queue import BatchJob, Unanswered, cancel, queue
from xlt_scale.scaling.running.outcome import count, some
from xlt_scale.scaling.running.runner_files import RunnerSeen, is_locked, runners

Say = Callable[[str], None]

_POLL_SECONDS = 0.5
_RUNS = ("RUNNING", "SUSPENDED", "CONFIGURING")


def cancel_study(folder: StudyFolder, seconds: float, say: Say) -> None:
    """Ask the study's runners to end, then its batch jobs; SLURM ends what does not do so in time. Can be repeated.

    Args:
        seconds: for what runs to save.

    Raises:
        UserError: a program that hands over batch jobs does not end, or SLURM does not answer.
    """
    runs_or_waits = list(runners(folder))
    batch_jobs = {one.batch_job for one in runs_or_waits if one.batch_job}
    found = _stop_runners([one for one in runs_or_waits if one.is_alive], seconds, say)
    if batch_jobs or batch_folder(folder).is_dir():
        with in_control(folder, say):
            found |= _cancel_batch_jobs(folder, batch_jobs, seconds, say)
    for one in runs_or_waits:
        if not one.is_alive:
            one.forget()
    if found:
        say("what is recorded and saved stays: xlt-scale study run goes on from there")
    else:
        say(f"{folder.root}: nothing to cancel, no runner and no batch job of this study is there")


def _stop_runners(alive: Sequence[RunnerSeen], seconds: float, say: Say) -> bool:
    for one in alive:
        one.ask_to_stop()
        say(f"asked to end: runner, {one.describe()}")
    deadline = time.monotonic() + seconds
    left = list(alive)
    while left and time.monotonic() < deadline:
        left = [one for one in left if one.path.exists() and _still_lives(one)]
        time.sleep(_POLL_SECONDS if left else 0)
    for one in left:
        say(f"still ending: {one.describe()}; its jobs save, which may take minutes")
    return bool(alive)


def _still_lives(one: RunnerSeen) -> bool:
    try:
        return is_locked(one.path)
    except FileNotFoundError:
        return False


def _cancel_batch_jobs(folder: StudyFolder, arrays: Collection[str], seconds: float, say: Say) -> bool:
    """Batch jobs of the study: those whose notes are there, those of its name, and those that its runners run in."""
    notes = list(open_submissions(folder))
    for one in notes:
        # A batch job that saves now does not put itself back into the queue.
        (one.folder / CANCELLED_FILE).touch()

    def there() -> list[BatchJob]:
        numbers = {one.number for one in notes if one.number} | set(arrays)
        prefix = name_prefix(folder)
        try:
            jobs = queue({one.user for one in notes})
        except (Unanswered, UserError) as why:
            # Nothing is written down: the queue is only asked to be on the safe side.
            if not numbers and not notes:
                return []
            raise UserError(f"SLURM does not answer ({why}); batch jobs were not cancelled, try again later") from None
        return [
            job
            for job in jobs
            if not job.is_over and job.state != "COMPLETING"
            if job.name.startswith(prefix) or job.id.split("_")[0] in numbers
        ]

    jobs = there()
    running = [job for job in jobs if job.state in _RUNS]
    waiting = [job for job in jobs if job not in running]
    if waiting:
        _tell(cancel, [job.id for job in waiting])
        say(f"cancelled in the queue: {_listed(waiting)}")
    if running:
        _tell(lambda ids: cancel(ids, "USR1"), [job.id for job in running])
        say(f"running, asked to save: {_listed(running)}")
        deadline = time.monotonic() + seconds
        while (left := there()) and time.monotonic() < deadline:
            time.sleep(2 * _POLL_SECONDS)
        if left:
            _tell(cancel, [job.id for job in left])
            say(f"ended by SLURM: {_listed(left)}")
    for one in notes:
        one.with_ended([job.name for job in one.open_jobs], "CANCELLED").write()
    return bool(jobs)


def _tell(tell: Callable[[Sequence[str]], None], ids: Sequence[str]) -> None:
    try:
        tell(ids)
    except Unanswered as why:
        raise UserError(f"SLURM does not answer ({why}); the same command again cancels what is left") from None


def _listed(jobs: Sequence[BatchJob]) -> str:
    ids = [job.id for job in jobs]
    return f"{count(ids, 'batch job')} ({some(ids)})"

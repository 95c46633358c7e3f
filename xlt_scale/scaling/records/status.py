"""How far a study is: what is done, what runs, what has failed, and how long the rest will take."""

import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from xlt_scale.config import PhaseOptions
from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.records.job_events import FailedJob, JobHistory
from xlt_scale.scaling.records.plan_places import waiting_runs
from xlt_scale.scaling.records.record_index import RecordIndex, finished, recorded_seconds
from xlt_scale.scaling.records.study_tasks import adapters_of
from xlt_scale.scaling.running.claims import is_claimed
from xlt_scale.scaling.running.executors.slurm_notes import open_submissions
from xlt_scale.scaling.running.progress import duration

_SECONDS_FOR_DISK = 0.4
_MOST_FAILURES = 10
_ENCODERS = {"pretraining": "pre-training", "intermediate": "intermediate", "search": "search"}


@dataclass(frozen=True)
class CellStatus:
    """Phases of one place of the grid.

    Attributes:
        waiting: of `total`, those that wait for the learning-rate search.
    """

    done: int = 0
    total: int = 0
    running: int = 0
    failed: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class RowStatus:
    """One size and arm; arm '' = what all arms of the size start from.

    Attributes:
        cells: by target's name; by 'intermediate', 'pre-training' and 'search' what comes before them.
        adapters: what its phases train in place of all weights ('lora-16'), in one word; '' = all weights.
    """

    size: str
    arm: str
    cells: Mapping[str, CellStatus]
    adapters: str = ""


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        columns: keys of the rows' cells, in their order.
        running: phases that somebody works on right now, on any machine.
        queued: phases of batch jobs that wait, as far as the notes about them tell.
        seconds_left: at the speed of what has run and with as many jobs at a time as run now; None while nothing has
            been measured.
        unmeasured: phases among those left of whose kind and role nothing has been measured.
        disk_bytes: what the study's folder and its pool take; at least, where `disk_is_partial`.
        problems: records that could not be read.
    """

    study: str
    folder: str
    columns: tuple[str, ...]
    rows: tuple[RowStatus, ...]
    total: CellStatus
    running: tuple[str, ...]
    queued: tuple[str, ...]
    failed: tuple[FailedJob, ...]
    num_jobs: int
    seconds_left: float | None
    unmeasured: int
    disk_bytes: int
    disk_is_partial: bool
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        return asdict(self)


def study_status(folder: StudyFolder, grid: StudyGrid) -> Status:
    """The status by the files that are there. New records are taken into the index; nothing else is written."""
    problems: list[str] = []
    index = RecordIndex(folder, problems.append)
    done = finished(folder, grid, index)
    history = JobHistory.read(folder)
    left = [name for name in grid.phases if name not in done]
    running = _running(folder, left)
    handed_over = {name for one in open_submissions(folder) for job in one.open_jobs for name in job.phases}
    failed = [job for job in history.failures(done) if not running.intersection(job.phases)]
    undone = {phase for job in failed for phase in job.phases if phase not in done}
    jobs = {history.last_job.get(name, name) for name in running}
    seconds = recorded_seconds(index)
    expected, unmeasured = _expected([grid.phases[name] for name in left], grid, seconds)
    measured = expected * history.overhead(seconds) / max(1, len(jobs))
    size, is_partial = _disk((folder.root, folder.pool))
    columns, rows = _rows(grid, done, running, undone)
    return Status(
        study=grid.study.name,
        folder=str(folder.root),
        columns=columns,
        rows=rows,
        total=_sum(cell for row in rows for cell in row.cells.values()),
        running=tuple(name for name in left if name in running),
        queued=tuple(name for name in left if name in handed_over - running),
        failed=tuple(failed),
        num_jobs=len(jobs),
        seconds_left=measured if not left or expected else None,
        unmeasured=unmeasured,
        disk_bytes=size,
        disk_is_partial=is_partial,
        problems=tuple(problems),
    )


def status_table(status: Status) -> Group:
    """The status for a terminal."""
    titles = {name: name.replace("_", " ") for name in status.columns}
    table = Table(title=_headline(status), title_justify="left", caption_justify="left")
    for name in ("size", "arm"):
        table.add_column(name, no_wrap=True)
    for name in status.columns:
        table.add_column(titles[name], justify="right")
    sizes = [row.size for row in status.rows]
    for number, row in enumerate(status.rows):
        shown = row.size if number == 0 or sizes[number - 1] != row.size else ""
        ends = number + 1 == len(sizes) or sizes[number + 1] != row.size
        cells = [_cell(row.cells.get(name)) for name in status.columns]
        arm = f"{row.arm or 'all arms'} ({row.adapters})" if row.adapters else row.arm or "all arms"
        table.add_row(shown, arm, *cells, end_section=ends)
    return Group(table, *[Text(line) for line in _lines(status)])


def _running(folder: StudyFolder, left: Iterable[str]) -> set[str]:
    """Phases whose claim somebody holds."""
    claims = folder.claim_file("any").parent
    there = set(os.listdir(claims)) if claims.is_dir() else set()
    return {name for name in left if name in there and is_claimed(folder, name)}


def _rows(
    grid: StudyGrid, done: Collection[str], running: Collection[str], failed: Collection[str]
) -> tuple[tuple[str, ...], tuple[RowStatus, ...]]:
    """Columns and rows of the grid, in the study's order; columns and rows without any phase are left out."""
    counts: dict[tuple[str, str], dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    trained: dict[tuple[str, str], list[PhaseOptions]] = defaultdict(list)
    for name, phase in grid.phases.items():
        arm = "" if phase.role == "pretraining" else phase.arm
        cell = counts[phase.size, arm][_ENCODERS.get(phase.role) or phase.target]
        cell["total"] += 1
        trained[phase.size, arm].append(phase.options)
        state = "done" if name in done else "running" if name in running else "failed" if name in failed else "left"
        cell[state] += 1
    for size, arm, target, _ in waiting_runs(grid):
        counts[size, arm][target].update(total=1, waiting=1)
    study = grid.study
    used = {column for cells in counts.values() for column in cells}
    columns = [name for name in (*_ENCODERS.values(), *(target.name for target in study.targets)) if name in used]
    order = [(size.name, arm) for size in study.sizes for arm in ("", *(arm.name for arm in study.arms))]
    rows = [
        RowStatus(
            size,
            arm,
            {name: _cell_of(cell) for name, cell in counts[size, arm].items()},
            adapters_of(trained[size, arm]),
        )
        for size, arm in order
        if (size, arm) in counts
    ]
    return tuple(dict.fromkeys(columns)), tuple(rows)


def _cell_of(counts: Mapping[str, int]) -> CellStatus:
    return CellStatus(**{name: counts.get(name, 0) for name in ("done", "total", "running", "failed", "waiting")})


def _sum(cells: Iterable[CellStatus]) -> CellStatus:
    total: Counter[str] = Counter()
    for cell in cells:
        total.update(asdict(cell))
    return _cell_of(total)


def _expected(left: Sequence[PlannedPhase], grid: StudyGrid, seconds: Mapping[str, float]) -> tuple[float, int]:
    """Seconds of the phases that are left by those of the same kind that have run, else of the same role and size, else
    of the same role; and how many have none of them.
    """
    measured: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for name, value in seconds.items():
        if name in grid.phases:
            for kind in _kinds(grid.phases[name]):
                measured[kind].append(value)
    medians = {kind: statistics.median(values) for kind, values in measured.items()}
    total, unknown = 0.0, 0
    for phase in left:
        known = next((medians[kind] for kind in _kinds(phase) if kind in medians), None)
        total += known or 0.0
        unknown += known is None
    return total, unknown + grid.waiting


def _kinds(phase: PlannedPhase) -> list[tuple[object, ...]]:
    """What the time of a phase is taken from, the nearest first."""
    trains = (phase.role, phase.options.trains)
    same = (*trains, phase.size, *phase.options.tasks, phase.options.steps, phase.options.epochs)
    return [same, (*trains, phase.size), trains]


def _disk(folders: Iterable[Path]) -> tuple[int, bool]:
    """Bytes below the folders, and whether the time for counting them was too short."""
    deadline = time.monotonic() + _SECONDS_FOR_DISK
    total, seen = 0, set[str]()
    stack = [os.path.realpath(folder) for folder in folders]
    while stack:
        place = stack.pop()
        if place in seen:
            continue
        seen.add(place)
        if time.monotonic() > deadline:
            return total, True
        with suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(os.path.realpath(entry.path))
                elif not entry.is_symlink():
                    with suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_size
    return total, False


def _headline(status: Status) -> str:
    total = status.total
    share = 100 * total.done / max(1, total.total)
    parts = [f"{status.study}: {total.done:,} of {total.total:,} phases done ({share:.0f} %)"]
    if status.running:
        parts.append(f"{len(status.running):,} running")
    if status.queued:
        parts.append(f"{len(status.queued):,} in SLURM's queue")
    if total.failed:
        parts.append(f"{total.failed:,} failed")
    if total.waiting:
        parts.append(f"{total.waiting:,} wait for the learning-rate search")
    return ", ".join(parts)


def _lines(status: Status) -> list[str]:
    """What stands below the grid."""
    lines = []
    if status.total.done < status.total.total:
        lines.append(_time_left(status))
    at_least = "at least " if status.disk_is_partial else ""
    lines.append(f"disk: {at_least}{status.disk_bytes / 2**30:,.2f} GiB in {status.folder}")
    for job in status.failed[-_MOST_FAILURES:]:
        times = f", {job.attempts} times" if job.attempts > 1 else ""
        lines.append(f"failed: {job.job}{times}: {job.reason}" + (f" ({job.log})" if job.log else ""))
    if len(status.failed) > _MOST_FAILURES:
        lines.append(f"and {len(status.failed) - _MOST_FAILURES} more failed jobs; events.jsonl has them all")
    return lines + [f"left out: {problem}" for problem in status.problems]


def _time_left(status: Status) -> str:
    if status.seconds_left is None:
        return "time left: not known before the first phases are done"
    others = f", without {status.unmeasured:,} phases like which none has run" if status.unmeasured else ""
    jobs = f"{status.num_jobs} jobs at a time" if status.num_jobs > 1 else "one job at a time"
    return f"time left: about {duration(status.seconds_left)} with {jobs}{others}"


def _cell(cell: CellStatus | None) -> Text:
    if cell is None or not cell.total:
        return Text("")
    if not (cell.done or cell.running or cell.failed):
        return Text("·", style="dim")
    text = Text(f"{cell.done}/{cell.total}", style="green" if cell.done == cell.total else "")
    if cell.running:
        text.append(f" ▶{cell.running}", style="cyan")
    if cell.failed:
        text.append(f" ✗{cell.failed}", style="red")
    return text

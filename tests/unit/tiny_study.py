"""A grid without any training: studies of a few phases, and an executor that pretends to carry jobs out."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlt_scale.scaling.grid.design import StudyGrid, design
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.grid.jobs import Placement, StudyJob
from xlt_scale.scaling.records.atomic import write_atomically
from xlt_scale.scaling.running.claims import Claims
from xlt_scale.scaling.running.executors.interface import Ended
from xlt_scale.scaling.running.outcome import Outcome
from xlt_scale.scaling.running.runner import run_study
from xlt_scale.study_config import StudyOptions

ROWS = {"task": "micro-nli", "steps": 2}


def tiny_study(root: Path, **changes: Any) -> StudyOptions:
    """Two sizes with the baseline and one arm, two intermediate seeds, one target: per size a pre-training, two
    encoders, four targets.
    """
    table: dict[str, Any] = {
        "name": "tiny",
        "question": "does it run?",
        "output": str(root / "study"),
        "run": {"model": {"tokenizer": "micro"}, "data": {"cache": str(root / "cache")}},
        "pretraining": [{"task": "micro-mlm", "steps": 3}],
        "seeds": {"intermediate": [1, 2], "target": [1]},
        "sizes": [{"name": "micro-small"}, {"name": "micro-large"}],
        "arms": [{"name": "none"}, {"name": "nli", "phases": [ROWS]}],
        "targets": [
            {"name": "valence", "phase": {"task": "micro-valence", "steps": 2}, "evaluate": ["micro-valence"]},
        ],
    }
    return StudyOptions.model_validate(table | changes)


def flat_estimate(grid: StudyGrid, **changes: Any) -> tuple[Mapping[str, Placement], Mapping[str, float]]:
    facts: dict[str, Any] = {"devices": 1, "per_device": 1, "bytes_per_encoder": 0, "bytes_per_checkpoint": 0}
    return {size: Placement(**(facts | changes)) for size in grid.runs}, dict.fromkeys(grid.phases, 60.0)


def collect(folder: StudyFolder, grid: StudyGrid, phases: Iterable[str] | None = None) -> list[str]:
    """A stand-in: a phase is finished when it has scores."""
    done = []
    for name in grid.phases if phases is None else phases:
        if (folder.phase(name) / "scores.json").is_file() and not folder.record_file(name).exists():
            write_atomically(folder.record_file(name), b"{}\n")
            done.append(name)
    return done


def finish_phase(folder: StudyFolder, grid: StudyGrid, name: str) -> None:
    """What launch/train.py leaves of a phase."""
    place = folder.phase(name)
    keeps = grid.phases[name].options.weights == "keep"
    if keeps:
        (place / "result").mkdir(parents=True, exist_ok=True)
        (place / "result" / "manifest.json").write_text("{}")
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(place / "phase.json", json.dumps({"checkpoint": "result" if keeps else None}).encode())
    write_atomically(place / "scores.json", b"{}")


@dataclass
class FakeExecutor:
    """Jobs are carried out between two looks.

    Attributes:
        slots: at most so many at a time.
        fails: gets a phase's name; an exit code with the last line, or None for a phase that works.
        ends: whether a job that was started ends.
    """

    folder: StudyFolder
    grid: StudyGrid
    slots: int = 1
    fails: Callable[[str], tuple[int | None, str] | None] = lambda name: None
    ends: Callable[[StudyJob], bool] = lambda job: True
    queues: bool = False
    started: list[StudyJob] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    most_at_once: int = 0
    stopped: bool = False

    def __post_init__(self) -> None:
        self._running: dict[str, tuple[StudyJob, Claims]] = {}

    def describe(self) -> str:
        return f"{self.slots} pretended devices"

    def why_never(self, job: StudyJob) -> str:
        return f"{job.size} needs {job.devices} devices; set sizes.devices" if job.devices > self.slots else ""

    def has_room(self, job: StudyJob) -> bool:
        return sum(one.devices for one, _ in self._running.values()) + job.devices <= self.slots

    def start(self, job: StudyJob, folder: Path, claims: Claims) -> None:
        assert (folder / "job.toml").is_file()
        self.started.append(job)
        self._running[job.name] = (job, claims)
        self.most_at_once = max(self.most_at_once, len(self._running))

    def submit(self) -> None:
        pass

    def underway(self) -> dict[str, StudyJob]:
        return {name: job for name, (job, _) in self._running.items()}

    def poll(self) -> list[Ended]:
        ending = [job for job, _ in self._running.values() if self.ends(job)]
        return [self._end(job) for job in ending]

    def ask_to_stop(self) -> int:
        self.ends, self.fails = lambda job: True, lambda name: (85, "stopped: it has saved")
        return len(self._running)

    def stop(self, seconds: float = 10.0) -> str:
        self.stopped = True
        for _, claims in self._running.values():
            claims.release()
        self._running.clear()
        return ""

    def _end(self, job: StudyJob) -> Ended:
        log = self.folder.jobs / job.name / "log.txt"
        code: int | None = 0
        reason = "well"
        for name in job.phases:
            failure = self.fails(name)
            if failure:
                code, reason = failure
                break
            facts = read_facts(self.folder.phase(name) / "phase.json")
            if facts and (facts["checkpoint"] is None or self.folder.has_weights(name)):
                continue  # as launch/train.py does with what is there
            parent = self.grid.phases[name].parent
            assert not parent or self.folder.has_weights(parent), "a phase begins where its parent has ended"
            finish_phase(self.folder, self.grid, name)
            self.trained.append(name)
        self._running.pop(job.name)[1].release()
        return Ended(job, code, 1.0, reason, log)


@dataclass
class Ran:
    outcome: Outcome
    executor: FakeExecutor
    lines: list[str]
    grid: StudyGrid
    folder: StudyFolder

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def go(study: StudyOptions, estimate: Callable[..., Any] = flat_estimate, **executor: Any) -> Ran:
    """Run a study with pretended jobs."""
    grid, folder, lines = design(study), StudyFolder.of(study), list[str]()
    place = FakeExecutor(folder, grid, **executor)
    outcome = run_study(
        study,
        place,
        redesign=lambda: design(study),
        estimate=estimate,
        collect=collect,
        say=lines.append,
        poll_seconds=0.001,
        round_seconds=0.01,
    )
    return Ran(outcome, place, lines, grid, folder)


def names(grid: StudyGrid, **facts: Any) -> list[str]:
    """Phases of a grid by what they are: role, size, arm, pair."""
    return [p.name for p in grid.phases.values() if all(getattr(p, key) == value for key, value in facts.items())]


def all_of(grid: StudyGrid, among: Collection[str]) -> list[str]:
    return [name for name in grid.phases if name in set(among)]


def soon(condition: Callable[[], bool], limit: float = 20.0) -> bool:
    """Wait for what another process or thread does."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True

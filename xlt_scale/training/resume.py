"""Where a phase starts: at its beginning, or where an earlier start of it was interrupted."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.manifest import Manifest
from xlt_scale.checkpoint.reader import CheckpointReader
from xlt_scale.checkpoint.store import list_checkpoints, step_of
from xlt_scale.checkpoint.training_state import load_training_state
from xlt_scale.checkpoint.writer import remove_remains
from xlt_scale.engines.interface import Engine
from xlt_scale.errors import UserError
from xlt_scale.training.handoff import load_parent
from xlt_scale.training.job import PhaseJob
from xlt_scale.training.lineage import PHASE_FILE, describe_changes, find_checkpoints, training_checkpoint
from xlt_scale.training.loop import Progress
from xlt_scale.training.setup import read_json


@dataclass(frozen=True)
class Start:
    """What there is to start from; the same on every rank.

    Attributes:
        candidates: checkpoints to go on from, the best choice first; none to begin.
        notes: what to tell the user.
    """

    candidates: tuple[tuple[Path, Manifest], ...] = ()
    notes: tuple[str, ...] = ()


def find_start(job: PhaseJob) -> Start:
    """Look at what the phase's folder holds, and put aside what will not be continued; collective.

    Raises:
        UserError: the options or data have changed since the phase was interrupted, or its checkpoints are damaged.
    """
    return job.setup.world.share(lambda: _look(job))


def load_start(job: PhaseJob, engine: Engine, start: Start) -> tuple[Progress, dict[str, Any] | None] | None:
    """Fill the engine from the first candidate that is intact; how far that is, and the best score until then. None
    when there is no candidate. Collective.

    Raises:
        UserError: there are candidates and none is intact.
    """
    problems = []
    if job.phase.adapter is not None and start.candidates:
        load_parent(job, engine, quietly=True)
    for folder, manifest in start.candidates:
        reader = CheckpointReader(folder, manifest)
        try:
            # With changes that were asked for, the run file's hyper-parameters hold, not those of the checkpoint.
            is_the_same = manifest.facts.get("identity") == job.identity
            load_training_state(engine, reader, job.saved_parameters, with_settings=is_the_same)
        except UserError as error:
            problems.append(str(error))
            job.setup.announce(f"phase {job.phase.name}: skipped {error}")
            continue
        finally:
            reader.close()
        facts = manifest.facts
        # A state that comes from another program has none of it.
        done = facts.get("progress", {})
        origin = f"saved by {facts['engine']} on {facts['world_size']}" if "engine" in facts else "converted"
        job.setup.announce(
            f"phase {job.phase.name}: goes on after step {facts['step']} of {job.num_steps} ({folder.name}, {origin})"
        )
        spent = {name: done[name] for name in ("tokens", "seconds", "device_seconds", "flops") if name in done}
        return Progress(facts["step"], **spent), facts.get("best")
    if problems:
        raise _nothing_intact(job, problems)
    return None


def _look(job: PhaseJob) -> Start:
    resume = job.setup.options.resume
    checkpoints = job.folder / "checkpoints"
    if job.setup.resumed_phase == job.phase.name:
        path, manifest = training_checkpoint(Path(resume))
        if manifest.facts["step"] > job.num_steps:
            raise UserError(
                f"resume = {resume!r} is after step {manifest.facts['step']}, but phase {job.phase.name!r} has "
                f"{job.num_steps} steps; raise steps, or name an earlier checkpoint"
            )
        earlier = manifest.facts.get("identity")
        changes = describe_changes(earlier, job.identity) if earlier else "it comes from another program"
        notes = [f"goes on with changes, as asked for: {changes}"] if changes else []
        if (job.folder / PHASE_FILE).exists():
            aside = _put_aside(job)
            if path.resolve().is_relative_to(job.folder.resolve()):
                path = aside / path.resolve().relative_to(job.folder.resolve())
            return Start(((path, manifest),), (*notes, f"the earlier result is kept as {aside.name}"))
        return Start(((path, manifest),), (*notes, *_supersede(checkpoints, path, manifest.facts["step"])))
    if not job.folder.exists():
        return Start()
    if resume == "never":
        return Start(notes=(f"starts anew; what was there is kept as {_put_aside(job).name}",))
    finished = read_json(job.folder / PHASE_FILE)
    if finished and not job.was_dropped():
        changes = describe_changes(finished.get("identity", {}), job.identity) or "what it starts from is another"
        return Start(notes=(f"{changes}; the earlier result is kept as {_put_aside(job).name}",))
    for folder in (job.folder, checkpoints):
        remove_remains(folder)
    found = find_checkpoints(checkpoints)
    if not found.whole:
        if found.damaged:
            raise _nothing_intact(job, list(found.skipped))
        return Start(notes=tuple(f"skipped {problem}" for problem in found.skipped))
    newest, manifest = found.whole[0]
    changes = describe_changes(manifest.facts["identity"], job.identity)
    if changes or manifest.facts["hash"] != job.hash:
        raise UserError(
            f"phase {job.phase.name!r} was interrupted after step {manifest.facts['step']}, and since then "
            f"{changes or 'its parent has changed'}; put that back, go on with the change by --resume {newest}, "
            "or start anew by --resume never"
        )
    same = tuple((folder, manifest) for folder, manifest in found.whole if manifest.facts["hash"] == job.hash)
    return Start(same, tuple(f"skipped {problem}" for problem in found.skipped))


def _put_aside(job: PhaseJob) -> Path:
    """Rename the phase's folder and give it its rows of metrics, so that nothing is lost and its name is free."""
    number = 1
    while (aside := job.folder.with_name(f"{job.folder.name}.before-{number}")).exists():
        number += 1
    os.replace(job.folder, aside)
    metrics = job.setup.folder / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    rows = [line for line in lines if f'"phase": {json.dumps(job.phase.name)}' in line]
    (aside / metrics.name).write_text("".join(f"{line}\n" for line in rows), encoding="utf-8")
    return aside


def _supersede(checkpoints: Path, path: Path, step: int) -> list[str]:
    """Rename checkpoints of a future that is left: a later start would go on from them."""
    notes = []
    for folder in list_checkpoints(checkpoints):
        if step_of(folder) > step and folder.resolve() != path.resolve():
            number = 1
            while (aside := folder.with_name(f"superseded-{number}-{folder.name}")).exists():
                number += 1
            os.replace(folder, aside)
            notes.append(f"{folder.name} is kept as {aside.name}")
    return notes


def _nothing_intact(job: PhaseJob, problems: list[str]) -> UserError:
    return UserError(
        f"phase {job.phase.name!r} was interrupted, but none of its checkpoints can be loaded ({problems[0]}); "
        "mend the files, or start the phase anew by --resume never"
    )

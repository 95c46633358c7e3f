"""Intermediate encoders are large: they go when nobody starts from them any more, and come back when somebody does."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.folder import StudyFolder, read_facts
from xlt_scale.scaling.grid.jobs import phases_left
from xlt_scale.scaling.records.atomic import write_atomically
from xlt_scale.scaling.running.claims import take

_PHASE_FILE = "phase.json"
_DROPPED_FILE = "phase.dropped.json"
_RESULT = "result"


def encoders_of(grid: StudyGrid) -> set[str]:
    """Phases that others start from."""
    return {phase.parent for phase in grid.phases.values() if phase.parent}


def encoders_there(folder: StudyFolder, grid: StudyGrid) -> set[str]:
    """Those whose weights are there."""
    return {name for name in encoders_of(grid) if folder.has_weights(name)}


def needed_encoders(folder: StudyFolder, grid: StudyGrid, recorded: set[str]) -> set[str]:
    """Encoders that phases of this study will still start from."""
    keeps_all = grid.study.resources.keep_encoders == "always"
    # A search has yet to choose what starts from them.
    if keeps_all or grid.waiting:
        return {name for name, phase in grid.phases.items() if phase.role in ("pretraining", "intermediate")}
    left = phases_left(grid, recorded, encoders_there(folder, grid))
    return {grid.phases[name].parent for name in left} - {""}


def note_needs(folder: StudyFolder, grid: StudyGrid, recorded: set[str]) -> None:
    """Tell the other studies that share the pool which encoders this one needs, before anything is done."""
    with _locked(folder):
        _write_needs(folder, needed_encoders(folder, grid, recorded))


def drop_unneeded_encoders(folder: StudyFolder, grid: StudyGrid, recorded: set[str]) -> list[str]:
    """Remove the weights of recorded encoders that no phase of any study with this pool will start from; their names.

    What is outside the pool is never touched.
    """
    with _locked(folder):
        needed = needed_encoders(folder, grid, recorded)
        _write_needs(folder, needed)
        needed |= _needs_of_others(folder)
        dropped = []
        for name in sorted(encoders_there(folder, grid) & recorded - needed):
            claims = take(folder, [name], {"study": grid.study.name})
            if claims is None:
                continue
            try:
                _drop(folder.phase(name))
            finally:
                claims.release()
            dropped.append(name)
        return dropped


def remove_remains(folder: StudyFolder, grid: StudyGrid, phases: Iterable[str]) -> list[str]:
    """Remove weights of recorded phases that a kill has left just before or while they were removed; the phases."""
    cleared = []
    for name in phases:
        place = folder.phase(name)
        if not (place / _RESULT).is_dir():
            continue
        facts = read_facts(place / _PHASE_FILE)
        is_dropped = bool(facts) and facts.get("checkpoint") is None
        if not is_dropped and not (facts and grid.phases[name].options.weights == "drop"):
            continue
        # Who works on it will remove them.
        claims = take(folder, [name], {"study": grid.study.name})
        if claims is None:
            continue
        try:
            _drop(place)
        finally:
            claims.release()
        cleared.append(name)
    return cleared


def make_trainable_again(folder: StudyFolder, phase: str) -> bool:
    """Let an encoder be trained again whose weights were dropped; whether they were. Its claim is held.

    launch/train.py takes a scored phase without weights for finished; its scores stay.
    """
    path = folder.phase(phase) / _PHASE_FILE
    facts = read_facts(path)
    if not facts or facts.get("checkpoint") is not None:
        return False
    path.replace(path.with_name(_DROPPED_FILE))
    return True


def _drop(place: Path) -> None:
    """phase.json comes first: a kill between the two leaves weights that nobody reads, and not a phase that names
    weights which are gone.
    """
    facts = read_facts(place / _PHASE_FILE)
    if facts.get("checkpoint") is not None:
        text = json.dumps(facts | {"checkpoint": None}, indent=1, ensure_ascii=False) + "\n"
        write_atomically(place / _PHASE_FILE, text.encode())
    # Its own weights only: a phase that only scores names its parent's.
    shutil.rmtree(place / _RESULT, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: StudyFolder) -> Iterator[None]:
    """One at a time says what it needs and removes what nobody needs."""
    place = folder.pool / ".needs"
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "a", encoding="utf-8") as file:
        # Without locks on this file system the study files still say the same a moment later.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _needs_file(folder: StudyFolder, study: str) -> Path:
    """Of the study in this folder: another folder's study of the same name has another file."""
    digest = hashlib.blake2b(str(folder.root.resolve()).encode(), digest_size=4).hexdigest()
    return folder.pool / ".needs" / f"{study}-{digest}.json"


def _write_needs(folder: StudyFolder, encoders: set[str]) -> None:
    path = _needs_file(folder, folder.root.name)
    table = {"study": str(folder.root.resolve()), "encoders": sorted(encoders)}
    if read_facts(path) != table:
        write_atomically(path, (json.dumps(table, indent=1) + "\n").encode())


def _needs_of_others(folder: StudyFolder) -> set[str]:
    own = _needs_file(folder, folder.root.name)
    needed: set[str] = set()
    for path in (folder.pool / ".needs").glob("*.json"):
        facts = read_facts(path)
        # A study whose folder was removed needs nothing.
        if path != own and os.path.isdir(facts.get("study", "")):
            needed.update(facts.get("encoders", []))
    return needed

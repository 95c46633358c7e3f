"""Find checkpoints from what a person names: one of them, a phase's folder, a run's, or a folder of checkpoints."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from xlt_scale.checkpoint.manifest import COMPLETE, MANIFEST, Manifest, read_manifest
from xlt_scale.checkpoint.store import check_files, list_checkpoints
from xlt_scale.checkpoint.writer import list_remains
from xlt_scale.errors import UserError

RESULT = "result"
"""The folder, beside a phase's `checkpoints`, of the weights that it ends with."""


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint as it lies on the disk, judged by its manifest and the sizes of its files.

    Attributes:
        manifest: None where there is none that can be read.
        state: 'unfinished' was never marked as complete, 'damaged' was.
        problem: why it is not whole, in one line; '' when it is.
    """

    folder: Path
    manifest: Manifest | None
    state: Literal["whole", "unfinished", "damaged"]
    problem: str

    @property
    def is_result(self) -> bool:
        return self.folder.absolute().name == RESULT

    @property
    def phase(self) -> str:
        """The phase's name, from the folders' names where the manifest does not say."""
        above = self.folder.absolute().parent
        named = above.name if self.is_result or above.name != "checkpoints" else above.parent.name
        return str(self.manifest.facts.get("phase", named)) if self.manifest else named

    @property
    def step(self) -> int | None:
        """Optimiser steps that it has seen, from the folder's name where the manifest does not say."""
        if self.manifest and isinstance(step := self.manifest.facts.get("step"), int):
            return step
        digits = self.folder.absolute().name.removeprefix("step-")
        return int(digits) if digits.isdecimal() else None

    @property
    def num_bytes(self) -> int:
        """What its files take on the disk, those without a manifest too."""
        total = 0
        for path in self.folder.glob("*"):
            # A run that goes on may remove it meanwhile.
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total

    @property
    def saved_at(self) -> datetime | None:
        """When it was saved, in UTC; by the file's time where the manifest does not say."""
        try:
            return datetime.fromisoformat(self.manifest.facts["saved_at"] if self.manifest else "").astimezone(UTC)
        except (KeyError, TypeError, ValueError):
            path = self.folder / MANIFEST
            return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.is_file() else None


def look_at(folder: Path) -> FoundCheckpoint:
    """What one checkpoint is; reads its manifest, and no data."""
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return FoundCheckpoint(folder, None, "damaged" if (folder / COMPLETE).is_file() else "unfinished", str(error))
    try:
        check_files(folder, manifest)
    except UserError as error:
        return FoundCheckpoint(folder, manifest, "damaged", str(error))
    return FoundCheckpoint(folder, manifest, "whole", "")


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, of whatever state."""
    return any((path / name).is_file() for name in (COMPLETE, MANIFEST))


def phase_folders(path: Path) -> list[Path]:
    """The folders of phases that `path` stands for: a run's in alphabetical order, a phase's own, or a folder of
    checkpoints as if it were one.

    Raises:
        UserError: it is none of these.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; name a run's folder, a phase's or a checkpoint's")
    if (path / "phases").is_dir():
        return sorted(folder for folder in (path / "phases").iterdir() if folder.is_dir())
    if (path / "checkpoints").is_dir() or (path / RESULT).is_dir() or (path / "phase.json").is_file():
        return [path]
    if path.name == "checkpoints" or list_checkpoints(path):
        return [path]
    raise UserError(f"{path} holds no checkpoints; name a run's folder, a phase's, or a folder with step-... in it")


def checkpoints_folder(phase: Path) -> Path:
    """Where the training states of one of `phase_folders` lie."""
    return phase / "checkpoints" if (phase / "checkpoints").is_dir() else phase


def find_checkpoints(path: Path, with_remains: bool = False) -> list[FoundCheckpoint]:
    """Every checkpoint that `path` stands for: by phase, oldest first, a phase's result last.

    Args:
        with_remains: also what interrupted saves have left, or a save under way is writing, as 'unfinished'.

    Raises:
        UserError: `path` is neither a checkpoint nor a folder of a run, a phase or checkpoints.
    """
    if is_checkpoint(path):
        return [look_at(path)]
    found = []
    for phase in phase_folders(path):
        checkpoints = checkpoints_folder(phase)
        found += [look_at(folder) for folder in list_checkpoints(checkpoints)]
        if (phase / RESULT).is_dir():
            found.append(look_at(phase / RESULT))
        for remains in list_remains(checkpoints) + list_remains(phase) if with_remains else []:
            # The glob gives a folder twice when it stands for both.
            if remains not in [other.folder for other in found]:
                problem = f"{remains} is a save under way, or what an interrupted one has left"
                found.append(FoundCheckpoint(remains, None, "unfinished", problem))
    return found


def find_checkpoint(path: Path) -> FoundCheckpoint:
    """The one checkpoint that `path` stands for: itself, or the newest whole one of a phase; its result where there is
    no newer one.

    Raises:
        UserError: there is none, or it cannot be told which; the manifest cannot be read.
    """
    if is_checkpoint(path):
        found = look_at(path)
        if found.manifest is None:
            raise UserError(found.problem)
        return found
    phases = phase_folders(path)
    if len(phases) != 1:
        names = ", ".join(folder.name for folder in phases) or "none yet"
        raise UserError(f"{path} is a run's folder; name one of its phases ({names}) or a checkpoint")
    everything = find_checkpoints(phases[0])
    if not everything:
        raise UserError(f"{path} holds no checkpoint yet; name another phase")
    whole = newest_last([found for found in everything if found.state == "whole"])
    if not whole:
        raise UserError(everything[-1].problem)
    return whole[-1]


def newest_last(found: Sequence[FoundCheckpoint]) -> list[FoundCheckpoint]:
    """By step; the result behind a training state of the same step."""
    return sorted(found, key=lambda one: (one.step or 0, one.is_result))

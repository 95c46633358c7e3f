"""Whether what lies in a phase's folder is the same phase: what its results were made from, and what has changed."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlt_scale.checkpoint.finding import look_at
from xlt_scale.checkpoint.manifest import Manifest, read_manifest
from xlt_scale.checkpoint.store import list_checkpoints
from xlt_scale.errors import UserError

PHASE_FILE = "phase.json"
CONTINUED = "continued_from"
"""In an identity: the checkpoint of another phase that this one went on from, when that was asked for."""

Identity = Mapping[str, Any]


@dataclass(frozen=True)
class FoundCheckpoints:
    """The checkpoints of a phase's folder, newest first.

    Attributes:
        whole: those that are complete, with files of the right size.
        skipped: why each of the others is not, newest first.
        damaged: some of the others were complete once.
    """

    whole: tuple[tuple[Path, Manifest], ...]
    skipped: tuple[str, ...]
    damaged: bool


def find_checkpoints(checkpoints: Path) -> FoundCheckpoints:
    """Look at every checkpoint in a folder; reads manifests and sizes, not the data. Called on rank 0."""
    seen = [look_at(folder) for folder in reversed(list_checkpoints(checkpoints))]
    return FoundCheckpoints(
        whole=tuple((found.folder, found.manifest) for found in seen if found.state == "whole" and found.manifest),
        skipped=tuple(found.problem for found in seen if found.state != "whole"),
        damaged=any(found.state == "damaged" for found in seen),
    )


def training_checkpoint(path: Path) -> tuple[Path, Manifest]:
    """The training state that a user names: a checkpoint's folder, or a phase's, whose newest whole one it is.

    Raises:
        UserError: there is none.
    """
    if (path / "checkpoints").is_dir():
        found = find_checkpoints(path / "checkpoints")
        if not found.whole:
            why = f": {found.skipped[0]}" if found.skipped else ""
            raise UserError(f"resume = {str(path)!r} has no whole training checkpoint{why}")
        return found.whole[0]
    manifest = read_manifest(path)
    if not manifest.holds_training_state:
        raise UserError(f"resume = {str(path)!r} holds weights only; name a folder step-... with a training state")
    return path, manifest


def continuation(folder: Path, identity: Identity, resume: str) -> dict[str, Any]:
    """What the identity of a phase gets when it goes on from a checkpoint of a phase with other options or data: that
    checkpoint. Else nothing. Called on rank 0.

    Args:
        folder: the phase's. What an earlier start of the same phase went on from holds for this one too.
        resume: the checkpoint that the user names, or ''.
    """
    if resume:
        manifest = training_checkpoint(Path(resume))[1]
        earlier = manifest.facts.get("identity", {})
        if describe_changes(earlier, identity):
            origin = manifest.facts.get("hash") or f"state:{zlib.crc32(manifest.to_json().encode()):08x}"
            return {CONTINUED: {"hash": origin, "step": manifest.facts["step"]}}
    else:
        earlier = _earlier_identity(folder)
    if CONTINUED in earlier and without_continuation(earlier) == dict(identity):
        return {CONTINUED: earlier[CONTINUED]}
    return {}


def _earlier_identity(folder: Path) -> Identity:
    """That of a phase's result, or of its newest whole checkpoint; {} without either."""
    try:
        return json.loads((folder / PHASE_FILE).read_bytes())["identity"]
    except (OSError, ValueError, KeyError):
        found = find_checkpoints(folder / "checkpoints")
        return found.whole[0][1].facts["identity"] if found.whole else {}


def without_continuation(identity: Identity) -> dict[str, Any]:
    """What a phase is by its options and data alone."""
    return {key: value for key, value in identity.items() if key != CONTINUED}


def describe_changes(old: Identity, new: Identity) -> str:
    """The differences of two identities in one line: 'phase.batch_size was 8, is 16; ...'."""
    before, after = (_flat(without_continuation(identity)) for identity in (old, new))
    changes = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, "not there"), after.get(key, "not there")
        if was != now:
            of_data = f"the data of {key.removeprefix('data.')} are others"
            changes.append(of_data if key.startswith("data.") else f"{key} was {was}, is {now}")
    return "; ".join(changes)


def _flat(table: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(table, Mapping):
        return {key: value for name in table for key, value in _flat(table[name], f"{prefix}{name}.").items()}
    if isinstance(table, list) and table and isinstance(table[0], Mapping):
        return _flat({str(number): item for number, item in enumerate(table)}, prefix)
    return {prefix.rstrip("."): table}

"""Write a checkpoint: every rank its own ranges, the manifest and the COMPLETE marker last."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xlt_scale.checkpoint.manifest import (
    COMPLETE,
    MANIFEST,
    Manifest,
    StoredFile,
    StoredRange,
    complete_marker,
    join_ranges,
)
from xlt_scale.checkpoint.tensor_file import TensorFileWriter, TensorLayout, flush_to_disk
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]
Ranges = Mapping[str, tuple[int, int]]


def write_checkpoint(
    world: World,
    folder: Path,
    shapes: Shapes,
    ranges: Ranges,
    values: Iterable[tuple[str, Tensor]],
    facts: Mapping[str, Any],
) -> Manifest:
    """Save to `folder`; collective over `world`. Holds one piece of one tensor at a time besides what `values` gives.

    Written to a folder of another name beside it, flushed to the disk, marked as COMPLETE and renamed, so that a folder
    of that name is whole. What lay under it is replaced when the new one is complete.

    Args:
        shapes: original shape of every tensor by key; the same on every rank.
        ranges: the elements [start, stop) of each flattened tensor that this rank writes; together they tile it.
        values: (key, fp32 elements): the ranges' content, in any order of keys; a range may come in several pieces.
        facts: what `Manifest.facts` will say; rank 0's are written.

    Raises:
        UserError: the folder cannot be written, on whichever rank; all ranks raise, and what was there stays as it was.
    """
    temporary = _agree(world, folder)
    try:
        file = f"rank-{world.rank:05d}.safetensors"
        written, problem = _attempt(lambda: _write_ranges(temporary / file, ranges, values))
        _raise_together(world, folder, problem)
        assert written is not None
        everyones: list[Any] = world.gather((file, *written))
        if world.is_main:
            files = {name: stored for name, stored, _ in everyones if stored is not None}
            manifest = Manifest(join_ranges(shapes, [stored for _, _, stored in everyones]), files, dict(facts))
            _, problem = _attempt(lambda: _finish(temporary, folder, manifest))
        _raise_together(world, folder, problem)
        return manifest if world.is_main else Manifest({}, {}, dict(facts))
    finally:
        # Only what failed is still there. Its space may be what the next save needs.
        if world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint so that no half of it is ever taken for one; nothing when it is gone already.

    Raises:
        OSError: its folder may not be changed.
    """
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(_put_aside(folder), ignore_errors=True)


def list_remains(folder: Path) -> list[Path]:
    """What interrupted saves and removals have left in a folder of checkpoints, or a save under way is writing."""
    return sorted(path for pattern in (".*.unfinished", ".*.removed") for path in folder.glob(pattern))


def remove_remains(folder: Path) -> None:
    """Delete what interrupted saves and removals have left in a folder of checkpoints."""
    for path in list_remains(folder):
        shutil.rmtree(path, ignore_errors=True)


def _put_aside(folder: Path) -> Path:
    """Rename a checkpoint to one that nothing looks for."""
    doomed = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.removed")
    os.replace(folder, doomed)
    return doomed


def _agree(world: World, folder: Path) -> Path:
    """A new folder to write into, made by rank 0. Its name is never used again: ranks of a killed job that still write
    do not write into this one.
    """
    temporary, problem = folder, ""
    if world.is_main:
        temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.unfinished")
        problem = "a file of that name is there" if folder.is_file() else ""
        if not problem:
            _, problem = _attempt(lambda: temporary.mkdir(parents=True))
    answers: list[Any] = world.gather((str(temporary), problem))
    if answers[0][1]:
        raise _error(folder, answers[0][1])
    return Path(answers[0][0])


def _write_ranges(
    path: Path, ranges: Ranges, values: Iterable[tuple[str, Tensor]]
) -> tuple[StoredFile | None, dict[str, StoredRange]]:
    """This rank's file; none where it has nothing to write."""
    held = {key: (start, stop) for key, (start, stop) in ranges.items() if stop > start}
    if not held:
        return None, {}
    writer = TensorFileWriter(path, [TensorLayout(key, (stop - start,)) for key, (start, stop) in held.items()])
    with writer:
        for key, piece in values:
            writer.write(key, piece)
    stored = {
        key: StoredRange(start, stop, path.name, writer.offsets[key], writer.checksum_of(key))
        for key, (start, stop) in held.items()
    }
    return StoredFile(writer.num_bytes, writer.checksum()), stored


def _finish(temporary: Path, folder: Path, manifest: Manifest) -> None:
    manifest.check_coverage(temporary)
    text = manifest.to_json()
    (temporary / MANIFEST).write_text(text, encoding="utf-8")
    flush_to_disk(temporary / MANIFEST)
    flush_to_disk(temporary)
    # Before the renaming: a disk without space for it leaves the older checkpoint whole, and no half of this one.
    (temporary / COMPLETE).write_text(complete_marker(text))
    flush_to_disk(temporary / COMPLETE)
    flush_to_disk(temporary)
    replaced = _put_aside(folder) if folder.exists() else None
    try:
        os.replace(temporary, folder)
    except OSError:
        if replaced is not None:
            os.replace(replaced, folder)
        raise
    flush_to_disk(folder.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def _attempt(action: Callable[[], Any]) -> tuple[Any, str]:
    """Run a write; its result and '', or None and the reason in the system's words."""
    try:
        return action(), ""
    except OSError as error:
        return None, error.strerror or str(error)
    except Exception as error:  # of whatever kind: the other ranks wait for this one's answer
        return None, f"{type(error).__name__}: {error}"


def _raise_together(world: World, folder: Path, problem: str) -> None:
    problems = [str(text) for text in world.gather(problem) if text]
    if problems:
        raise _error(folder, problems[0])


def _error(folder: Path, problem: str) -> UserError:
    return UserError(f"{folder} cannot be saved: {problem}; free space or choose another output folder")

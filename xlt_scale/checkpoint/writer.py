"""Write a checkpoint: every rank its own ranges, the manifest and the COMPLETE marker last."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from xlt_scale.checkpoint.digest import range_digest
from xlt_scale.checkpoint.manifest import COMPLETE, MANIFEST, Manifest, StoredRange, join_ranges
from xlt_scale.engines.interface import Engine
from xlt_scale.errors import UserError
from xlt_scale.modeling.parameters import ParameterSpec


def save_weights(
    engine: Engine, parameters: Mapping[str, ParameterSpec], folder: Path, facts: Mapping[str, Any]
) -> None:
    """Save the fp32 master parameters to `folder`; collective.

    Written to a temporary folder beside it, flushed to the disk and renamed, so that a folder with a COMPLETE file is
    whole. What an earlier run left under that name is replaced.

    Raises:
        UserError: the folder cannot be written, on whichever rank; all ranks raise.
    """
    temporary = folder.with_name(f".{folder.name}.unfinished")
    problem = ""
    if engine.world.is_main:
        problem = _attempt(lambda: _fresh_folder(temporary))
    _raise_together(engine, folder, problem)

    file = f"rank-{engine.world.rank:05d}.safetensors"
    tensors, stored = {}, {}
    for name in parameters:
        start, stop = engine.parameter_range(name)
        if stop > start:
            key = f"param/{name}"
            tensors[key] = engine.read_parameter(name).detach().cpu().contiguous().clone()
            stored[key] = StoredRange(start, stop, file, range_digest(tensors[key], start))
    problem = _attempt(lambda: _write_tensors(tensors, temporary / file))
    _raise_together(engine, folder, problem)

    everyones: list[Any] = engine.world.gather(stored)
    if engine.world.is_main:
        shapes = {f"param/{name}": spec.shape for name, spec in parameters.items()}
        manifest = Manifest(join_ranges(shapes, everyones), dict(facts))
        problem = _attempt(lambda: _finish(temporary, folder, manifest))
    _raise_together(engine, folder, problem)


def _fresh_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_tensors(tensors: dict[str, Any], path: Path) -> None:
    save_file(tensors, path)
    _flush(path)


def _finish(temporary: Path, folder: Path, manifest: Manifest) -> None:
    (temporary / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    _flush(temporary / MANIFEST)
    _flush(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    (folder / COMPLETE).write_text("")
    _flush(folder / COMPLETE)
    _flush(folder)
    _flush(folder.parent)


def _flush(path: Path) -> None:
    """Make the kernel write a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _attempt(action: Any) -> str:
    """Run a write; '' when it went well, else the reason in the system's words."""
    try:
        action()
    except Exception as error:  # safetensors wraps the system's errors in its own kinds
        return getattr(error, "strerror", None) or str(error)
    return ""


def _raise_together(engine: Engine, folder: Path, problem: str) -> None:
    problems = [text for text in engine.world.gather(problem) if text]
    if problems:
        raise UserError(f"{folder} cannot be saved: {problems[0]}; free space or choose another output folder")

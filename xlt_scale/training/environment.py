"""What a run was made with: written beside its results."""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from xlt_scale import __version__
from xlt_scale.engines.world import World

_PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "accelerate", "safetensors", "numpy")


def describe_environment(world: World, **facts: Any) -> dict[str, Any]:
    """Git revision, versions, hardware and world size, with further facts of the run."""
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else _processor()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        **software(),
        "host": platform.node(),
        "device": device,
        "world_size": world.size,
        "threads": torch.get_num_threads(),
        **facts,
    }


@cache
def software() -> dict[str, Any]:
    """Git revision and versions of packages."""
    return {
        "git_revision": _git_revision(),
        "versions": {"xlt-scale": __version__} | {name: _version(name) for name in _PACKAGES},
    }


def write_json(path: Path, table: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    replace_text(path, json.dumps(table, indent=1, ensure_ascii=False) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write text so that a reader sees the old file or the new one, never half of it.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # The system names no file when a write fails.
        raise OSError(error.errno, error.strerror, str(path)) from None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _git_revision() -> str:
    """The commit of the program's checkout, with '-dirty' when files were changed since; '' outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())

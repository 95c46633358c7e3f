"""The GPUs of this machine, asked of the driver: importing torch for it would take seconds."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Gpu:
    """A card as nvidia-smi lists it.

    Attributes:
        memory_mib: all of it; 0 where the driver does not say.
    """

    index: str
    uuid: str
    name: str
    memory_mib: int


def visible_gpus() -> list[str]:
    """The GPUs that jobs may use, as in CUDA_VISIBLE_DEVICES: those named there, else what nvidia-smi lists."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    return [gpu.index for gpu in _listed()]


def gpus() -> list[Gpu]:
    """What the driver says of those GPUs; [] where it cannot be asked."""
    listed = _listed()
    found = []
    for name in visible_gpus():
        # A uuid may be cut short in CUDA_VISIBLE_DEVICES.
        found += [gpu for gpu in listed if name == gpu.index or (len(name) > 4 and gpu.uuid.startswith(name))][:1]
    return found


def num_nvlinks() -> int:
    """NVLink connections between any two of this machine's GPUs, at the worst pair; 0 where a pair has none."""
    lines = _ask("topo", "-m").splitlines()
    rows = [line.split() for line in lines if line.startswith("GPU")]
    pairs = [cell for row in rows for cell in row[1 : len(rows) + 1] if cell != "X"]
    counts = [int(cell[2:]) if cell.startswith("NV") and cell[2:].isdecimal() else 0 for cell in pairs]
    return min(counts, default=0)


@cache
def _listed() -> tuple[Gpu, ...]:
    found = []
    for line in _ask("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits").splitlines():
        index, uuid, name, memory = (part.strip() for part in line.split(","))
        found.append(Gpu(index, uuid, name, int(memory) if memory.isdecimal() else 0))
    return tuple(found)


@cache
def _ask(*words: str) -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        done = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, timeout=_PATIENCE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""

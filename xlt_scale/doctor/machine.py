"""One node by itself: versions, processors, GPUs and limits. Nothing here imports PyTorch or uses the network."""

import hashlib
import os
import platform
import resource
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import xlt_scale
from xlt_scale.doctor.findings import Finding

PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "accelerate", "safetensors", "tokenizers", "numpy")
ABSENT = "not installed"

GIB = 2**30
_FEWEST_FILES, _FEWEST_PROCESSES = 4096, 4096
_SMALLEST_SHARED_MEMORY = GIB
_PACKAGE_FOLDER = Path(xlt_scale.__file__).parent
_GPU_QUESTIONS = ("name", "memory.total", "driver_version", "ecc.errors.uncorrected.volatile.total")


def versions() -> dict[str, str]:
    """Versions of what has to be equal on all nodes; of this package its files as well, because a checkout can be
    changed without its version or revision changing.
    """
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ABSENT
    revision = _git_revision()
    found["xlt_scale"] = f"{xlt_scale.__version__} (files {_digest_of_package()}{revision and f', commit {revision}'})"
    return found


def _digest_of_package() -> str:
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE_FOLDER.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE_FOLDER).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _git_revision() -> str:
    command = ["git", "-C", str(_PACKAGE_FOLDER), "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def hardware() -> dict[str, Any]:
    """Cores that this process may use, memory in GiB, and GPUs as the driver lists them.

    `gpus` is None where there is no `nvidia-smi` to ask; `gpu_problem` says why the driver did not answer.
    """
    facts: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "architecture": platform.machine(),
        "gpus": None,
        "driver": "",
        "gpu_problem": "",
        "ecc_errors": 0,
    }
    if shutil.which("nvidia-smi") is None:
        return facts
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_QUESTIONS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return facts | {"gpus": [], "gpu_problem": str(error)}
    if done.returncode:
        return facts | {"gpus": [], "gpu_problem": (done.stdout + done.stderr).strip().splitlines()[-1]}
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    # A GPU without error correction answers "[N/A]".
    errors = sum(int(row[3]) for row in rows if row[3].isdigit())
    names = [f"{row[0]}, {int(row[1]) / 1024:.0f} GiB" if row[1].isdigit() else row[0] for row in rows]
    return facts | {"gpus": names, "driver": rows[0][2] if rows else "", "ecc_errors": errors}


def check_gpus(facts: dict[str, Any], num_tasks: int, one_launcher_per_node: bool) -> list[Finding]:
    """The node's GPUs against the processes started on it.

    Args:
        facts: `hardware()`.
        num_tasks: processes of this start on the node.
        one_launcher_per_node: that a single process per node may be going to start the others.
    """
    if facts["gpus"] is None:
        return [Finding("GPUs", "pass", "no nvidia-smi: runs on the processor")]
    if facts["gpu_problem"]:
        found = f"nvidia-smi does not answer: {facts['gpu_problem']}"
        return [Finding("GPUs", "fail", found, "reload or reinstall the driver, or leave the node out")]
    visible = _num_visible(len(facts["gpus"]))
    found = (
        f"{len(facts['gpus'])} x {', '.join(sorted(set(facts['gpus'])))}, driver {facts['driver']}, {visible} visible"
    )
    findings = []
    if facts["ecc_errors"]:
        mend = "drain the node and reset its GPUs"
        findings.append(Finding("GPUs", "fail", f"{facts['ecc_errors']} uncorrected memory errors", mend))
    if not visible:
        mend = "ask for GPUs (--gpus-per-node), or unset CUDA_VISIBLE_DEVICES"
        findings.append(Finding("GPUs", "warn", f"{found}: runs on the processor", mend))
    elif num_tasks > visible:
        mend = "start one process per GPU"
        findings.append(Finding("GPUs", "fail", f"{found} to {num_tasks} processes", mend))
    elif num_tasks < visible and not (one_launcher_per_node and num_tasks == 1):
        mend = "start one process per GPU, or ask for fewer"
        findings.append(Finding("GPUs", "warn", f"{found} to {num_tasks} processes: the rest is idle", mend))
    return findings or [Finding("GPUs", "pass", found)]


def _num_visible(num_gpus: int) -> int:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return num_gpus
    return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])


def check_limits() -> list[Finding]:
    """Limits of this process that long runs meet."""
    findings = []
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= files < _FEWEST_FILES:
        mend = "ulimit -n 65536 in the batch script, or limits.conf"
        findings.append(Finding("limits", "warn", f"{files} open files", mend))
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if 0 <= processes < _FEWEST_PROCESSES:
        findings.append(Finding("limits", "warn", f"{processes} processes and threads", "ulimit -u 65536"))
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if locked >= 0 and any(Path("/sys/class/infiniband").glob("*")):
        found = f"{locked // 1024} KiB of locked memory, and InfiniBand needs more"
        findings.append(
            Finding("limits", "warn", found, "ulimit -l unlimited, and PropagateResourceLimits in slurm.conf")
        )
    return findings or [Finding("limits", "pass", f"{_in_words(files)} open files, {_in_words(processes)} processes")]


def check_shared_memory(folder: Path = Path("/dev/shm")) -> list[Finding]:
    """The space through which processes of one node hand each other data."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        mend = f"mount a tmpfs there, or give the container its host's {folder}"
        return [Finding("shared memory", "fail", f"{folder}: {error.strerror}", mend)]
    found = f"{folder} has {usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
    if usage.free < _SMALLEST_SHARED_MEMORY:
        mend = f"mount -o remount,size=50% {folder}; for a container --shm-size or --ipc=host; remove what lies there"
        return [Finding("shared memory", "warn", found, mend)]
    return [Finding("shared memory", "pass", f"{folder} has a GiB and more")]


def _in_words(limit: int) -> str:
    return str(limit) if limit >= 0 else "any number of"

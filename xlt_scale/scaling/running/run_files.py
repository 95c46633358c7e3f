"""From a job to what launch/train.py is started with: a folder, a run file, a command and an environment."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import tomli_w

import xlt_scale
from xlt_scale.config import PhaseOptions, RunOptions
from xlt_scale.errors import UserError
from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import StudyJob
from xlt_scale.scaling.records.atomic import write_atomically

RUN_FILE = "job.toml"
LOG_FILE = "log.txt"
LAUNCHER_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"),
)
"""What a launcher tells its processes: a study that is started below one must not hand it on."""


def write_job(folder: StudyFolder, grid: StudyGrid, job: StudyJob) -> Path:
    """Make the job's folder, so that launch/train.py on its run file puts the phases into the pool; the folder.

    Can be repeated after a kill at any point.
    """
    place = folder.jobs / job.name
    place.mkdir(parents=True, exist_ok=True)
    folder.pool.mkdir(parents=True, exist_ok=True)
    _link(place / "phases", folder)
    write_atomically(place / RUN_FILE, _as_toml(job_options(folder, grid, job)).encode())
    return place


def _as_toml(options: RunOptions) -> str:
    """The run file; of an engine that is planned only what the study says, as what is written is not planned."""
    if not options.engine.auto:
        return options.to_toml()
    table = options.model_dump(mode="json", exclude_none=True)
    table["engine"] = options.engine.model_dump(mode="json", exclude_unset=True)
    return tomli_w.dumps(table)


def job_options(folder: StudyFolder, grid: StudyGrid, job: StudyJob) -> RunOptions:
    """The run of a job: its size's options and its phases; parents outside the job stand there by their folder."""
    run = grid.runs[job.size]
    says_itself = "tensorboard" in grid.study.run.get("logging", {})
    logging = run.logging if says_itself else run.logging.model_copy(update={"tensorboard": False})
    phases = [_with_parent(folder, grid.phases[name].options, job.phases) for name in job.phases]
    output = str((folder.jobs / job.name).absolute())
    return run.model_copy(update={"output": output, "logging": logging, "phases": phases})


def _with_parent(folder: StudyFolder, phase: PhaseOptions, inside: Sequence[str]) -> PhaseOptions:
    if not phase.parent or phase.parent in inside:
        return phase
    return phase.model_copy(update={"parent": str(folder.phase(phase.parent).absolute())})


def _link(link: Path, folder: StudyFolder) -> None:
    """Link to the pool, relative inside the study's folder, so that this can be moved."""
    root, pool = folder.root.resolve(), folder.pool.resolve()
    target = Path(os.path.relpath(pool, link.parent.resolve())) if pool.is_relative_to(root) else pool
    if link.is_symlink() and link.readlink() == target:
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def train_script() -> Path:
    """launch/train.py of the checkout that the package is run from.

    Raises:
        UserError: the package was installed without it.
    """
    path = Path(xlt_scale.__file__).resolve().parents[1] / "launch" / "train.py"
    if not path.is_file():
        raise UserError(f"{path} is missing; install the package from its checkout (pip install -e .) to run studies")
    return path


def job_command(run_file: Path, num_processes: int) -> list[str]:
    """What carries a job out on this machine."""
    script = str(train_script())
    if num_processes == 1:
        return [sys.executable, script, "--run", str(run_file)]
    # Not torchrun: it closes what its ranks would inherit, and with it the job's claims.
    return [sys.executable, "-m", "xlt_scale.scaling.running.ranks", str(num_processes), script, str(run_file)]


def job_environment(gpus: Sequence[str], base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a job.

    Args:
        gpus: as in CUDA_VISIBLE_DEVICES; none = on the processor, one thread per process.
        base: default: this process's environment.
    """
    inherited = os.environ if base is None else base
    kept = {name: value for name, value in inherited.items() if name not in LAUNCHER_VARIABLES}
    if gpus:
        return kept | {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "PYTHONUNBUFFERED": "1"}
    return kept | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def last_words(log: Path, start: int = 0) -> str:
    """The line of a log that says how it ended: the program's own last error, else the last line.

    Args:
        start: byte from which the last attempt has written.
    """
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 50_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return "no word"
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith(("error: ", "stopped: ", "lost: ")):
            return line
    return lines[-1] if lines else "no word"

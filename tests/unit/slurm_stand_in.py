"""Programs in the place of SLURM's, which keep what they are given and answer from files."""

import os
import subprocess
from pathlib import Path

from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import StudyJob

SBATCH = """#!/bin/bash
number=$(( $(cat "$QUEUE/last" 2>/dev/null || echo 100) + 1 ))
[[ ! -s "$QUEUE/refusal" ]] || { cat "$QUEUE/refusal" >&2; exit 1; }
echo $number > "$QUEUE/last"
cp "${@: -1}" "$QUEUE/$number.sh"
printf '%s\\n' "${@:1:$#-1}" > "$QUEUE/$number.options"
for word in "$@"; do case "$word" in
    --job-name=*) name="${word#*=}" ;;
    --array=0-*) last="${word#*=0-}"; last="${last%%%*}" ;;
esac; done
for ((index = 0; index <= last; index++)); do echo "$number|$index|PENDING|None|$name" >> "$QUEUE/jobs"; done
[[ ! -e "$QUEUE/silent" ]] || { echo "sbatch: error: Batch job submission failed: Socket timed out" >&2; exit 1; }
echo "$number;cluster"
"""
SQUEUE = """#!/bin/bash
[[ ! -e "$QUEUE/down" ]] || { echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }
[[ "$*" != *--format=%e* ]] || { echo N/A; exit; }
cat "$QUEUE/jobs" 2>/dev/null || true
"""
SCANCEL = """#!/bin/bash
echo "$*" >> "$QUEUE/cancelled"
for id in "$@"; do
    [[ "$*" == *--signal* ]] || sed -i "s/^${id%_*}|${id#*_}|[A-Z]*|/${id%_*}|${id#*_}|CANCELLED|/" "$QUEUE/jobs"
done
"""
SACCT = """#!/bin/bash
echo "Slurm accounting storage is disabled" >&2
exit 1
"""
SCONTROL = """#!/bin/bash
echo "$*" >> "$QUEUE/scontrol"
[[ "$*" != "show job"* ]] || echo "JobState=RUNNING Requeue=1"
"""


class Queue:
    """The pretended cluster: which batch jobs it has, and what it was told.

    Args:
        folder: for its programs and its files.
    """

    def __init__(self, folder: Path) -> None:
        self.place, self.programs = folder / "queue", folder / "bin"
        self.place.mkdir()
        self.programs.mkdir()
        programs = {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "sacct": SACCT, "scontrol": SCONTROL}
        for name, text in programs.items():
            (self.programs / name).write_text(text)
            (self.programs / name).chmod(0o755)
        self.environment = {"QUEUE": str(self.place), "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}"}

    def scripts(self) -> list[str]:
        return [path.read_text() for path in sorted(self.place.glob("*.sh"))]

    def options(self) -> list[dict[str, str]]:
        """What sbatch was called with, by option."""
        texts = [path.read_text().splitlines() for path in sorted(self.place.glob("*.options"))]
        rows = [[word.removeprefix("--").partition("=") for word in words] for words in texts]
        return [{name: value for name, _, value in row} for row in rows]

    def set(self, batch_job: str, state: str, reason: str = "None") -> None:
        """Say from now on that a batch job ('101_0') is in this state; '' = it is forgotten."""
        number, index = batch_job.split("_")
        lines = (self.place / "jobs").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(f"{number}|{index}|")]
        name = next(line.rsplit("|", 1)[1] for line in lines if line.startswith(f"{number}|"))
        new = [f"{number}|{index}|{state}|{reason}|{name}"] if state else []
        (self.place / "jobs").write_text("".join(f"{line}\n" for line in [*kept, *new]))

    def switch(self, what: str, on: bool) -> None:
        """'down': squeue gets no answer. 'silent': sbatch hands over and gets none."""
        (self.place / what).touch() if on else (self.place / what).unlink()

    def said(self, program: str) -> str:
        """What scancel ('cancelled') or scontrol was called with."""
        path = self.place / program
        return path.read_text() if path.exists() else ""

    def carry_out(self, script: str, index: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a script here as SLURM runs a job of an array."""
        variables = {"SLURM_JOB_ID": "101", "SLURM_ARRAY_JOB_ID": "101", "SLURM_ARRAY_TASK_ID": str(index)}
        return subprocess.run(
            ["bash", "-c", script],
            env={**os.environ, **self.environment, **variables, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )


def job(
    name: str, devices: int = 1, per_device: int = 1, needs: tuple[str, ...] = (), seconds: float = 7200
) -> StudyJob:
    return StudyJob(name, "small", (f"{name}-1", f"{name}-2"), frozenset(needs), devices, per_device, seconds, 0)


def study_folder(root: Path) -> StudyFolder:
    return StudyFolder(root / "study", root / "study" / "phases")

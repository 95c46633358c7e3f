"""What a batch script asks at its begin and at its end: `python -m xlt_scale.cluster.batch_job begin|end`.

`begin` looks at the allocation and prints shell variables for the script (slurm/job.sh names them). `end` reads how the
ranks ended and requeues the job or gives the script its exit code. Between the starts of a job its folder remembers:

    slurm-jobs/<job id>/history.jsonl       a line per start that ended otherwise than well
    slurm-jobs/<job id>/start-<n>/          how each node ended: <host name>.json (cluster/ending.py), and from
                                            slurm/job.sh <node>.began, <node>.ended

Runs on the first node, beside no ranks; imports nothing heavy. Without SLURM's commands it still ends with the code.
"""

import argparse
import os
import shlex
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from xlt_scale.cluster.allocation import END_TIME, allocation_end, batch_job_id
from xlt_scale.cluster.batch_history import History, Outcome, Start, outcome_of
from xlt_scale.cluster.batch_shape import meeting_port, shape_of
from xlt_scale.cluster.ending import END_FOLDER
from xlt_scale.cluster.requeue import requeue
from xlt_scale.cluster.stop_request import STOP_FILE
from xlt_scale.errors import LOST_EXIT_CODE, STOPPED_EXIT_CODE, USER_ERROR_EXIT_CODE, UserError

JOB_FOLDER = "XLT_SCALE_JOB_FOLDER"
_PATIENCE = 5.0
_PATIENCE_AFTER_STOP = 35.0
"""A launcher that is told to stop may end before its ranks have saved."""


def begin(environment: Mapping[str, str]) -> str:
    """Start another round of the job: lines of shell to evaluate.

    Raises:
        UserError: the allocation has a shape that the scripts do not serve, or the folder cannot be made.
    """
    shape = shape_of(environment)
    folder = job_folder(environment)
    try:
        history = History.open(folder, is_first="SLURM_RESTART_COUNT" not in environment)
        start = history.new_start(socket.gethostname(), shape.nodes)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; submit from a folder that all nodes can write to") from None
    for outcome in history.take_over(before=start):
        say(f"start {outcome.start} was ended by SLURM itself: {outcome.reason}")
    end = allocation_end()
    values = {
        JOB_FOLDER: str(folder),
        END_FOLDER: str(start.folder),
        STOP_FILE: str(start.folder / "stop"),
        "XLT_SCALE_NODES": str(len(shape.nodes)),
        "XLT_SCALE_PROCESSES": str(shape.processes),
        "XLT_SCALE_GPUS": str(shape.processes if shape.uses_gpus else 0),
        "XLT_SCALE_MASTER_ADDRESS": shape.nodes[0],
        "XLT_SCALE_MASTER_PORT": str(meeting_port(int(environment["SLURM_JOB_ID"]), start.number)),
    }
    if end is not None:
        values[END_TIME] = f"{end:.0f}"
    say(
        f"start {start.number} of job {environment['SLURM_JOB_ID']}: {len(shape.nodes)} nodes "
        f"({', '.join(shape.nodes)}), {shape.processes} processes each"
    )
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def end(environment: Mapping[str, str], launcher_code: int | None, patience: float = _PATIENCE) -> int:
    """Decide how the job goes on; returns the code to end with.

    Args:
        launcher_code: of the launcher; None when the script did not wait for its end.
        patience: seconds to wait for the end file of some node, where none is there.
    """
    # Of an array, this job alone is queued again.
    job = batch_job_id(environment)
    history = History.open(Path(environment[JOB_FOLDER]), is_first=False)
    start = Start.at(Path(environment[END_FOLDER]))
    if Path(environment[STOP_FILE]).exists():
        patience = max(patience, _PATIENCE_AFTER_STOP)
    outcome = _read(start, launcher_code, patience)
    if outcome.code == 0:
        return 0
    history.add(outcome)
    if outcome.code not in (STOPPED_EXIT_CODE, LOST_EXIT_CODE):
        say(f"ends with code {outcome.code}: {outcome.reason}")
        return outcome.code
    say(f"{'stopped' if outcome.code == STOPPED_EXIT_CODE else 'lost'}: {outcome.reason}")
    why_not = history.why_no_more()
    if why_not:
        say(f"not requeued: {why_not}; mend the cause, then: scontrol requeue {job}")
        return outcome.code
    for line in requeue(job, history.nodes_to_exclude(), environment, outcome.code == LOST_EXIT_CODE):
        say(line)
    return outcome.code


def job_folder(environment: Mapping[str, str]) -> Path:
    """Where a job remembers its starts: beside where it was submitted."""
    return Path(environment["SLURM_SUBMIT_DIR"]).absolute() / "slurm-jobs" / environment["SLURM_JOB_ID"]


def say(line: str) -> None:
    print(f"batch job: {line}", file=sys.stderr, flush=True)


def _read(start: Start, launcher_code: int | None, seconds: float) -> Outcome:
    """How a start ended. Files of other nodes may take a moment to be seen here."""
    deadline = time.monotonic() + seconds
    while not (outcome := outcome_of(start, launcher_code)).is_told and time.monotonic() < deadline:
        time.sleep(0.5)
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m xlt_scale.cluster.batch_job",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("begin")
    at_end = commands.add_parser("end")
    at_end.add_argument("--launcher-code", type=int)
    at_end.add_argument("--patience", type=float, default=_PATIENCE, metavar="SECONDS")
    chosen = parser.parse_args(arguments)
    try:
        missing = [name for name in ("SLURM_JOB_ID", "SLURM_SUBMIT_DIR") if name not in os.environ]
        if missing:
            raise UserError(f"{', '.join(missing)} is not set; this is for scripts that sbatch has started")
        if chosen.command == "end":
            return end(os.environ, chosen.launcher_code, chosen.patience)
        print(begin(os.environ), end="")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())

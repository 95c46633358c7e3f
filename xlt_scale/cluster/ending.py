"""How a program ends: its exit code, its last line, and the end file that outlives launchers which lose exit codes."""

import contextlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from xlt_scale.errors import (
    FAILURE_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    LOST_EXIT_CODE,
    STOPPED_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
    TrainingError,
    UserError,
)

END_FOLDER = "XLT_SCALE_END_FOLDER"
"""Environment variable: a shared folder in which each node leaves how its ranks ended, for the batch script."""

_SECONDS_FOR_RANK_0 = 5.0


class StoppedError(RuntimeError):
    """The run was asked to stop and has saved what it has: one line that says where.

    Attributes:
        phase, step: how far it is; the end file tells, so that a job that gets on is started again.
    """

    def __init__(self, message: str, phase: str = "", step: int = 0) -> None:
        super().__init__(message)
        self.phase, self.step = phase, step


class LostError(RuntimeError):
    """Other processes are gone, or have never come: one line that says which."""


_KINDS: dict[type[Exception], tuple[str, int]] = {
    UserError: ("error", USER_ERROR_EXIT_CODE),
    TrainingError: ("stopped", FAILURE_EXIT_CODE),
    LostError: ("lost", LOST_EXIT_CODE),
}


@dataclass(frozen=True)
class Ending:
    """How a run ended that did not end well, as seen from one node.

    Attributes:
        code: the exit code.
        reason: one line.
        lost_rank, lost_node: who was lost, or stands still; None and '' when nobody was.
        phase, step: how far this node's rank was.
        time: seconds since 1970.
    """

    code: int
    reason: str
    lost_node: str = ""
    lost_rank: int | None = None
    phase: str = ""
    step: int = 0
    time: float = field(default_factory=time.time)


def note_ending(ending: Ending) -> None:
    """Leave an end file in the folder that XLT_SCALE_END_FOLDER names, unless a process of this node already has: the
    first one knows best. Without the variable nothing is written.
    """
    folder = os.environ.get(END_FOLDER)
    if not folder:
        return
    path = Path(folder) / f"{socket.gethostname()}.json"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    # What cannot be written must not hide what is to be told.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(asdict(ending), indent=1) + "\n", encoding="utf-8")
        try:
            os.link(aside, path)
        finally:
            aside.unlink()


def run_as_program(main: Callable[[], None]) -> None:
    """Run `main` and end the process with the exit code that fits what happened.

    Called on every rank. A `UserError` is mostly found alike by all ranks: the others give rank 0 the time to print it
    and to be seen ending, whereupon the launcher ends them; one that still lives then found it alone, and prints it.
    Anything else is printed by the rank it happened on. The process ends at once, without the usual clean-up: a rank
    that waited in a collective's destructor for its peers would keep the launcher from ending them.
    """
    rank = int(os.environ.get("RANK", "0"))
    reason = ""
    try:
        main()
        code = 0
    except StoppedError as stopped:
        reason, code = str(stopped), STOPPED_EXIT_CODE
        note_ending(Ending(code, reason, phase=stopped.phase, step=stopped.step))
        if not rank:
            print(f"stopped: {reason}", file=sys.stderr)
    except (UserError, TrainingError, LostError) as error:
        kind, code = next(how for type_, how in _KINDS.items() if isinstance(error, type_))
        reason = str(error)
        note_ending(Ending(code, reason))
        if rank:
            time.sleep(_SECONDS_FOR_RANK_0)
        print(f"{kind}: {reason}", file=sys.stderr)
    except KeyboardInterrupt:
        reason, code = "interrupted", INTERRUPTED_EXIT_CODE
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else FAILURE_EXIT_CODE
        reason = f"exit code {code}"
    except BaseException as error:
        print(f"rank {rank} failed:", file=sys.stderr)
        traceback.print_exc()
        reason, code = f"rank {rank} failed: {type(error).__name__}: {error}".splitlines()[0], FAILURE_EXIT_CODE
    if code:
        note_ending(Ending(code, reason))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

"""Errors that are the user's to mend, and how a program ends on them."""

import difflib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """Bad input: the message is one line that names the file or key, what is wrong, and the mend."""


class TrainingError(RuntimeError):
    """Training itself went wrong (a loss that is not finite, say): one line with what happened and what to try."""


USER_ERROR_EXIT_CODE = 2
FAILURE_EXIT_CODE = 1
INTERRUPTED_EXIT_CODE = 130
STOPPED_EXIT_CODE = 85
"""A signal or the end of the allocation stopped the run after it had saved: the same command goes on."""
LOST_EXIT_CODE = 86
"""A process, node or link was lost, or nothing moved any more: the run itself is fine, the same command goes on."""
_SECONDS_FOR_RANK_0 = 5.0


def nearest(name: str, valid: Iterable[str]) -> str:
    """A clause that helps to mend a misspelt `name`: the nearest valid name, else all of them when they are few."""
    names = sorted(set(valid))
    if not names:
        return "there is none"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(names) <= 25:
        return "valid: " + ", ".join(names)
    return f"{len(names)} names are valid"


def reason(error: BaseException) -> str:
    """What an exception of a library says, in one line; its kind when it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def run_as_program(main: Callable[[], None]) -> None:
    """Run `main` and end the process with the exit code that fits what happened.

    Called on every rank. A `UserError` is mostly found alike by all ranks: the others give rank 0 the time to print it
    and to be seen ending, whereupon the launcher ends them; one that still lives then found it alone, and prints it.
    Anything else is printed by the rank it happened on. The process ends at once, without the usual clean-up: a rank
    that waited in a collective's destructor for its peers would keep the launcher from ending them.
    """
    rank = int(os.environ.get("RANK", "0"))
    try:
        main()
        code = 0
    except (UserError, TrainingError) as error:
        if rank:
            time.sleep(_SECONDS_FOR_RANK_0)
        is_users = isinstance(error, UserError)
        print(f"{'error' if is_users else 'stopped'}: {error}", file=sys.stderr)
        code = USER_ERROR_EXIT_CODE if is_users else FAILURE_EXIT_CODE
    except KeyboardInterrupt:
        code = INTERRUPTED_EXIT_CODE
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else FAILURE_EXIT_CODE
    except BaseException:
        print(f"rank {rank} failed:", file=sys.stderr)
        traceback.print_exc()
        code = FAILURE_EXIT_CODE
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

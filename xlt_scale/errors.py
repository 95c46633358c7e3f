"""Errors that are the user's to mend, and how a program ends on them."""

import difflib
import os
import sys
import traceback
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """Bad input: the message is one line that names the file or key, what is wrong, and the mend."""


class TrainingError(RuntimeError):
    """Training itself went wrong (a loss that is not finite, say): one line with what happened and what to try."""


USER_ERROR_EXIT_CODE = 2
FAILURE_EXIT_CODE = 1


def nearest(name: str, valid: Iterable[str]) -> str:
    """A clause that helps to mend a misspelt `name`: the nearest valid name, else all of them when they are few."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(names) <= 25:
        return "valid: " + ", ".join(names)
    return f"{len(names)} names are valid"


def run_as_program(main: Callable[[], None]) -> None:
    """Run `main` and end the process with the exit code that fits what happened.

    Called on every rank. A `UserError` is found alike by all ranks, so only rank 0 prints it; anything else is printed
    by the rank it happened on. The process ends at once, without the usual clean-up: a rank that waited in a
    collective's destructor for its peers would keep the launcher from ending them.
    """
    rank = int(os.environ.get("RANK", "0"))
    try:
        main()
        code = 0
    except UserError as error:
        if rank == 0 or getattr(error, "on_this_rank_only", False):
            print(f"error: {error}", file=sys.stderr)
        code = USER_ERROR_EXIT_CODE
    except TrainingError as error:
        if rank == 0:
            print(f"stopped: {error}", file=sys.stderr)
        code = FAILURE_EXIT_CODE
    except KeyboardInterrupt:
        code = 130
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else FAILURE_EXIT_CODE
    except BaseException:
        print(f"rank {rank} failed:", file=sys.stderr)
        traceback.print_exc()
        code = FAILURE_EXIT_CODE
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

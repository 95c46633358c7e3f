"""Errors that are the user's to mend, and the exit codes of programs."""

import difflib
from collections.abc import Iterable


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

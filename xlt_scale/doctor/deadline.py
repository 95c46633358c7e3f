"""Nothing here waits for ever: a step that takes too long becomes a finding."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class TookTooLong(Exception):
    """A step did not end in its time."""


class Deadline:
    """A moment that several steps share.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    @property
    def has_passed(self) -> bool:
        return self.seconds_left <= 0


class Started(Generic[Answer]):
    """A function that runs in a thread of its own, which nobody has to wait for.

    The thread is left behind where it hangs (a dead network disk, a name server that does not answer): the process ends
    without it.
    """

    def __init__(self, function: Callable[[], Answer]) -> None:
        self._answer: list[Answer] = []
        self._error: list[BaseException] = []

        def run() -> None:
            try:
                self._answer.append(function())
            except BaseException as error:
                self._error.append(error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def result(self, seconds: float) -> Answer:
        """What the function gave or raised.

        Raises:
            TookTooLong: it has not ended `seconds` from now.
        """
        self._thread.join(seconds)
        if self._error:
            raise self._error[0]
        if not self._answer:
            raise TookTooLong(f"no answer in {seconds:.0f} s")
        return self._answer[0]


def within(seconds: float, function: Callable[[], Answer]) -> Answer:
    """`Started(function).result(seconds)`."""
    return Started(function).result(seconds)

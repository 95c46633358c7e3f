"""Signals as a wish that a long program grants when it can."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_SECONDS_OF_ECHOES = 3.0


class Wish:
    """The wish that this program ends, and who has it.

    Attributes:
        reason: 'SIGTERM', say; '' while nobody wants it.
        is_urgent: a second signal came: there is no time to wait for anything. A signal that follows the first within
            three seconds is its echo: batch systems and launchers send one to a program and to the group it is in.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.is_urgent = False
        self._since = 0.0

    def ask(self, reason: str) -> None:
        """Want it; the first one who does is remembered."""
        if not self.reason:
            self.reason, self._since = reason, time.monotonic()

    @contextlib.contextmanager
    def from_signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and SIGUSR1 ask for the end, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sign: signal.getsignal(sign) for sign in _SIGNALS}
        for sign in before:
            signal.signal(sign, self._handle)
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    def _handle(self, number: int, frame: object) -> None:
        if not self.reason:
            self.ask("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
        elif number == signal.SIGINT or time.monotonic() - self._since > _SECONDS_OF_ECHOES:
            self.is_urgent = True

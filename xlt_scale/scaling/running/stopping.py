"""Ctrl-C and SIGTERM as a wish that a long program grants when it can."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for the end, in the main thread; a second Ctrl-C does not wait for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}

    def handle(*_: object) -> None:
        stop()
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for sign in before:
        signal.signal(sign, handle)
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)

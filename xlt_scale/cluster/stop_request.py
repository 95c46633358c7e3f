"""A wish to stop: from a signal, from a file, or from the clock of the allocation."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from xlt_scale.cluster.allocation import seconds_left

STOP_FILE = "XLT_SCALE_STOP_FILE"
"""Environment variable: when this file exists, the run stops. For launchers through which no signal travels."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SECONDS_OF_ECHOES = 3.0
"""A launcher that gets a signal sends it on to ranks that have had it from the batch system already."""

_LOOK_SECONDS = 1.0


class StopRequest:
    """Whether this process wants the run to stop; asked between steps, so that all ranks can agree on one."""

    def __init__(self) -> None:
        self._end: float | None = None
        self._seconds_before_end = 0.0
        self._reason = ""
        self._signalled_at: float | None = None
        self._looked_at = float("-inf")
        self._asked_at: float | None = None
        self._pauses: deque[float] = deque(maxlen=2)
        self._process = os.getpid()

    def watch_the_clock(self, end: float | None, seconds_before_end: float) -> None:
        """Want to stop so many seconds before the allocation ends.

        Args:
            end: in seconds since 1970; None: never.
            seconds_before_end: at most a quarter of the time that is left now counts, or short jobs would do nothing.
        """
        self._end, self._seconds_before_end = end, min(seconds_before_end, seconds_left(end) / 4)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals of this process, in its main thread. A child that it forks meanwhile ignores them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def why(self) -> str:
        """Why the run has to stop, in a few words; '' while it need not. Cheap: called at every step."""
        now = time.monotonic()
        if self._asked_at is not None:
            self._pauses.append(now - self._asked_at)
        self._asked_at = now
        if not self._reason and now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            stop_file = os.environ.get(STOP_FILE)
            if stop_file and Path(stop_file).exists():
                self._reason = f"{stop_file} is there"
        # A step that takes long has to fit in before the end once more. Of two pauses one may have been no step.
        pause = min(self._pauses) if len(self._pauses) == 2 else 0.0
        left = seconds_left(self._end)
        if not self._reason and left < self._seconds_before_end + pause:
            self._reason = f"the allocation ends in {max(left, 0):.0f} s"
        return self._reason

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        now = time.monotonic()
        if self._signalled_at is None:
            self._signalled_at = now
            self._reason = f"{signal.Signals(number).name} came"
        elif now - self._signalled_at > SECONDS_OF_ECHOES:
            os.write(sys.stderr.fileno(), b"a second signal: ending at once\n")
            os._exit(128 + number)

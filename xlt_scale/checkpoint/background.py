"""Writes while training goes on: one at a time, in a thread, with a process group of its own."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from xlt_scale.cluster.watch import is_about_communication
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError


@dataclass(frozen=True)
class Outcome:
    """How a write ended; the same on every rank but for the seconds.

    Attributes:
        problem: '' or why nothing was saved.
        seconds: from its start to its end.
    """

    problem: str
    seconds: float


class BackgroundWriter:
    """Runs one write at a time. The collectives of the write go through a group that training does not use.

    Made on every rank, collective; so is every write. All methods are called from the training thread.
    """

    def __init__(self, world: World) -> None:
        self._world = world.with_group_of_its_own()
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None
        self._lost: Exception | None = None

    def start(self, write: Callable[[World], None]) -> None:
        """Begin a write; there must be none under way. It fails by a `UserError`, on all ranks."""
        assert self._thread is None

        def work() -> None:
            began, problem = time.perf_counter(), ""
            try:
                write(self._world)
            except UserError as error:
                problem = str(error)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                if is_about_communication(error):
                    self._lost = error
            self._outcome = Outcome(problem, time.perf_counter() - began)

        self._thread = threading.Thread(target=work, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def poll(self) -> Outcome | None:
        """How the write ended that has ended since the last call; does not wait. Raises what `wait` does."""
        if self._outcome is None:
            return None
        return self.wait()

    def wait(self, seconds: float | None = None) -> Outcome | None:
        """Wait for the write under way, at most so long, and tell how it ended; None when there is none, or not yet.

        Raises:
            Exception: another rank is gone. That is no failure to save: training cannot go on either, and whichever of
                the two threads notices first has to end it.
        """
        if self._thread is None:
            return None
        self._thread.join(seconds)
        if self._thread.is_alive():
            return None
        outcome, lost = self._outcome, self._lost
        self._thread = self._outcome = self._lost = None
        if lost is not None:
            raise lost
        return outcome

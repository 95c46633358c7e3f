"""Where a rank is: written by the thread that works, read by the thread that watches."""

import time


class Mark:
    """The place of a rank in its run, and when it came there.

    Attributes:
        phase, what, step: as in ('target', 'step', 140) or ('target', 'scoring', 0).
        is_stepping: between two steps of training, where a short limit holds; everything else may take long.
        moved_at: on the monotonic clock.
    """

    def __init__(self) -> None:
        self.phase, self.what, self.step = "", "starting", 0
        self.is_stepping = False
        self.moved_at = time.monotonic()

    def at(self, what: str, *, phase: str | None = None, step: int | None = None, is_stepping: bool = False) -> None:
        """Be at a new place; without a phase or step they stay what they were."""
        self.phase = self.phase if phase is None else phase
        self.step = self.step if step is None else step
        self.what, self.is_stepping = what, is_stepping
        self.moved_at = time.monotonic()

    def move(self) -> None:
        """Still at this place, and getting on."""
        self.moved_at = time.monotonic()

    def describe(self) -> str:
        of_phase = f"phase {self.phase}, " if self.phase else ""
        return f"{of_phase}{self.what}" + (f" {self.step}" if self.what == "step" else "")

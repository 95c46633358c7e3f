"""How long a study will still take, by how fast it has been going."""

import time
from collections.abc import Collection, Iterable, Mapping


class Progress:
    """Measures rough seconds of finished phases against the clock: jobs side by side and wrong guesses cancel out.

    Args:
        seconds: rough cost of each phase.
        done: phases that were done before.
    """

    def __init__(self, seconds: Mapping[str, float], done: Collection[str] = ()) -> None:
        self._seconds = dict(seconds)
        self._done = set(done)
        self._finished = 0.0
        self._began = time.monotonic()

    def note(self, names: Iterable[str]) -> None:
        """Phases have been finished."""
        for name in set(names) - self._done:
            self._done.add(name)
            self._finished += self._seconds.get(name, 0.0)

    def seconds_left(self, seconds: Mapping[str, float], left: Iterable[str]) -> float:
        """For the phases that are left; 0 while nothing has been finished."""
        self._seconds.update(seconds)
        if not self._finished:
            return 0.0
        rest = sum(seconds.get(name, 0.0) for name in left)
        return rest * (time.monotonic() - self._began) / self._finished


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""Python's garbage collector, out of the way where very many objects are made at once."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Millions of new objects make the collector look through them all again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Around the imports of a program that goes on for long.

    The collector looks neither at what is imported while this goes on, which costs a fifth of the time, nor ever after:
    some million objects, which each end of an engine would have it look through again.
    """
    with collector_paused():
        yield
    gc.freeze()

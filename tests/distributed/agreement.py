"""How far two runs are from each other."""

from collections.abc import Sequence


def relative_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest relative difference over the steps that both have."""
    steps = min(len(found), len(expected))
    assert steps > 0
    return max(abs(a - b) / abs(b) for a, b in zip(found[:steps], expected[:steps], strict=True))

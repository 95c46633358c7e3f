"""Numbers, intervals and lists as the sentences of an answer have them."""

import math
from collections.abc import Mapping, Sequence

from xlt_scale.scaling.statistics.effects import Estimate

MINUS = "\N{MINUS SIGN}"


def points(value: float) -> str:
    """A difference in points with its sign."""
    return "not known" if math.isnan(value) else signed(value)


def signed(value: float, digits: int = 2) -> str:
    """+1.20, −0.30, +0.00: with a true minus sign, as tables have it."""
    text = f"{value:+.{digits}f}"
    return f"+{text[1:]}" if float(text) == 0 else text.replace("-", MINUS)


def interval(low: float, high: float, digits: int = 2) -> str:
    if math.isnan(low) or math.isnan(high):
        return "no interval"
    return f"{signed(low, digits)} to {signed(high, digits)}"


def with_interval(estimate: Estimate, level: float = 0.95) -> str:
    """Value and interval: '+1.20 points (95 % interval +0.40 to +2.00)'."""
    low, high = estimate.interval(level)
    return f"{points(estimate.value)} points ({100 * level:g} % interval {interval(low, high)})"


def p_value(p: float) -> str:
    if math.isnan(p):
        return "p not known"
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}" if p < 0.01 else f"p = {p:.2f}"


def billions(num_parameters: float) -> str:
    """Parameters as billions or millions."""
    if num_parameters >= 1e9:
        return f"{num_parameters / 1e9:.3g} billion"
    if num_parameters >= 1e6:
        return f"{num_parameters / 1e6:.3g} million"
    return f"{num_parameters:,.0f}"


def count(number: int, singular: str, plural: str = "") -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def by_kind(kinds: Mapping[str, str]) -> str:
    """'one in a and b, another in c', of {'a': 'one', 'b': 'one', 'c': 'another'}."""
    places: dict[str, list[str]] = {}
    for place, kind in kinds.items():
        places.setdefault(kind, []).append(place)
    return ", ".join(f"{kind} in {listed(names)}" for kind, names in places.items())


def seeds(num_intermediate: int, num_pairs: int) -> str:
    return f"{count(num_intermediate, 'intermediate seed')}, {count(num_pairs, 'run pair')}"

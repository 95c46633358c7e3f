"""Numbers as a reader sees them: signs, intervals, units."""

import math
from collections.abc import Iterable

import pandas as pd

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


def signed(value: float, digits: int = 1) -> str:
    """+1.2, −0.3, 0.0; an en dash where there is no number."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return text[1:]
    return text.replace("-", MINUS)


def plain(value: float, digits: int = 1) -> str:
    """12.3, −0.3; an en dash where there is no number."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def interval(low: float, high: float, digits: int = 1) -> str:
    """[−0.2, 1.3]; '' where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{plain(low, digits)}, {plain(high, digits)}]"


def estimate(value: float, low: float, high: float, digits: int = 1) -> str:
    """+0.6 [−0.2, 1.3]."""
    return f"{signed(value, digits)} {interval(low, high, digits)}".strip()


def p_value(value: float) -> str:
    if not math.isfinite(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def significant(value: float) -> str:
    """Three digits that matter, without exponents in the range of everyday numbers."""
    if not math.isfinite(value):
        return NOTHING
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,}".replace("-", MINUS)
    if 0.001 <= abs(value) < 1e6:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}".replace("-", MINUS)
    return f"{value:.3g}".replace("-", MINUS)


def span(values: Iterable[float]) -> str:
    """'3' or '3 to 5' of whole numbers; an en dash without any."""
    known = [round(value) for value in values if math.isfinite(value)]
    if not known:
        return NOTHING
    return str(min(known)) if min(known) == max(known) else f"{min(known)} to {max(known)}"


def parameter_unit(largest: float) -> tuple[float, str]:
    """What parameters are divided by on an axis, and what it is called."""
    if largest >= 1e9:
        return 1e9, "billions"
    return (1e6, "millions") if largest >= 1e4 else (1.0, "")


def parameter_count(value: float, factor: float) -> str:
    """0.28, 3.5, 11: as many digits as tell the published sizes apart."""
    count = value / factor
    if count >= 100:
        return f"{count:.0f}"
    return f"{count:.2g}" if count < 1 else f"{count:.3g}"


MOST_SIZES_NAMED = 6
"""Of more sizes that all have the same seeds it is said once."""


def seeds_by_size(rows: pd.DataFrame, sizes: Iterable[str]) -> str:
    """'xlmr-base 5 / 10, xlmr-xxl 3 / 6': intermediate seeds and run pairs behind rows of gains."""
    found = {}
    for size in sizes:
        of_size = rows[rows["size"] == size]
        if len(of_size):
            found[size] = f"{span(of_size['num_intermediate_seeds'])} / {span(of_size['num_pairs'])}"
    if len(found) > MOST_SIZES_NAMED and len(set(found.values())) == 1:
        return f"{next(iter(found.values()))} at each of {len(found)} sizes"
    return ", ".join(f"{size} {text}" for size, text in found.items())


def ordered(values: Iterable[str], order: Iterable[str]) -> list[str]:
    """The distinct values, in that order; unknown ones behind, as they come."""
    distinct = dict.fromkeys(values)
    known = [name for name in dict.fromkeys(order) if name in distinct]
    return known + [name for name in distinct if name not in set(known)]

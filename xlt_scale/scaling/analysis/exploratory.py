"""Curves of the error over sizes with more parameters than a line: shown where sizes allow it, never claimed."""

from itertools import product

import numpy as np
import pandas as pd

from xlt_scale.scaling.analysis.contrasts import decades, family_names
from xlt_scale.scaling.analysis.gains import StudyGains
from xlt_scale.scaling.analysis.grouping import ALL, HEADLINE
from xlt_scale.scaling.analysis.sensitivity import weights_by_size
from xlt_scale.scaling.analysis.wording import count
from xlt_scale.scaling.statistics.exploratory_fits import (
    MIN_SIZES_ONE_BREAK,
    MIN_SIZES_POWER_LAW,
    one_break_law,
    power_law_of_error,
)

CURVES_TITLE = "Exploratory curves (no claim rests on them)"

LAWS = (
    ("power law with a floor", MIN_SIZES_POWER_LAW, power_law_of_error),
    ("power law with a floor and one break", MIN_SIZES_ONE_BREAK, one_break_law),
)


def num_different_sizes(gains: StudyGains) -> int:
    """Sizes of one architecture family that differ in their number of parameters: the most of any family."""
    by_family: dict[str, set[int]] = {}
    for size in gains.sizes:
        by_family.setdefault(size.family, set()).add(size.num_parameters)
    return max((len(numbers) for numbers in by_family.values()), default=0)


def curves_table(gains: StudyGains) -> pd.DataFrame:
    """Curves of the headline's error, 100 - score, of the baseline and with each arm; empty with fewer than five sizes.

    Over cells that all sizes of a row have, unweighted: the two arms' levels have no standard errors of their own. Each
    architecture family has its own.
    """
    if num_different_sizes(gains) < MIN_SIZES_POWER_LAW:
        return pd.DataFrame()
    places = decades(gains)
    families = family_names(gains)
    rows = []
    wanted = product([ALL, *gains.arms] if len(gains.arms) > 1 else gains.arms, families)
    for arm, family in wanted:
        weights = weights_by_size(gains, arm, HEADLINE)
        sizes = [size.name for size in gains.sizes if weights.get(size.name) and size.family == family]
        if not sizes:
            continue
        levels = np.array([gains.levels(size, weights[size]) for size in sizes])  # [sizes, sides]
        x = np.array([places[size] for size in sizes])
        for side, errors in zip(("baseline", "with the arm"), (100.0 - levels).T, strict=True):
            for law, fewest, fit in LAWS:
                if len(set(x.tolist())) < fewest:
                    continue
                curve = fit(x, errors)
                of = {"arm": arm, "family": family} if len(families) > 1 else {"arm": arm}
                found: dict[str, object] = {**of, "of": side, "curve": law, "sizes": len(sizes)}
                if isinstance(curve, str):
                    found |= {"parameters": "", "mean residual, points": np.nan, "note": curve}
                else:
                    values = ", ".join(f"{name} {value:.3g}" for name, value in curve.parameters.items())
                    residual = float(np.sqrt(np.mean((curve.fitted - errors) ** 2)))
                    free = f"{count(curve.degrees_of_freedom, 'degree')} of freedom"
                    found |= {"parameters": values, "mean residual, points": residual, "note": free}
                rows.append(found)
    return pd.DataFrame(rows)


def curves_note(gains: StudyGains) -> list[str]:
    """Which curves there are too few sizes for; [] where all were drawn, or nothing was measured."""
    number = num_different_sizes(gains)
    if not 0 < number < MIN_SIZES_ONE_BREAK:
        return []
    where = " of one family" if len(family_names(gains)) > 1 else ""
    if number < MIN_SIZES_POWER_LAW:
        return [
            f"No curve richer than a line is drawn: a power law takes at least five sizes{where}, a broken law seven; "
            f"this study has {number}."
        ]
    return [f"No broken law is drawn: it takes at least seven sizes{where}; this study has {number}."]

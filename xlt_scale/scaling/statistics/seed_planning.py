"""What a study or a plan of one can detect, and how many intermediate seeds would detect more.

Light to import: the preview of a study uses it before anything has run.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlt_scale.scaling.statistics.effects import Estimate

POWER = 0.8
MOST_SEEDS = 200
"""Intermediate seeds per size: what takes more is said to be out of reach."""
ASSUMED_SEED_SDS = (0.3, 0.5, 1.0)
"""Points: how far runs that differ in their seeds alone lie apart, from calm tasks to restless ones."""


def detectable(standard_error: float, degrees: float, level: float = 0.05, num_sides: int = 2) -> float:
    """Smallest true value that a test at that level shows in 80 % of repetitions: (t_level + t_power) standard errors.

    Bloom 1995, with t quantiles of those degrees of freedom. nan without spread or degrees of freedom.
    """
    if math.isnan(degrees) or not degrees > 0.0 or not standard_error > 0.0:
        return math.nan
    from scipy.special import stdtrit

    bounded = min(degrees, 1e9)
    return float(stdtrit(bounded, 1 - level / num_sides) + stdtrit(bounded, POWER)) * standard_error


def minimum_detectable(estimate: "Estimate", level: float, num_sides: int = 1) -> float:
    """What the study of an estimate can detect of it, in its unit; nan with a single run pair or without any spread."""
    return detectable(estimate.standard_error, estimate.degrees_of_freedom, level, num_sides)


def with_seeds(estimate: "Estimate", num_intermediate: int) -> "Estimate":
    """What the estimate's uncertainty would be with another number of intermediate seeds per size.

    Target seeds within each, and items, stay as they are.
    """
    factor = num_intermediate / max(1, estimate.num_clusters)
    degrees = estimate.seed_degrees_of_freedom * (num_intermediate - 1) / max(1, estimate.num_clusters - 1)
    return replace(
        estimate,
        seed_variance=estimate.seed_variance / factor,
        seed_degrees_of_freedom=degrees,
        num_clusters=num_intermediate,
        num_pairs=round(estimate.num_pairs * factor),
    )


def seeds_needed(estimate: "Estimate", wanted: float, level: float) -> int | None:
    """Fewest intermediate seeds per size with which a value of that size is detectable; None where none suffice.

    The spread over seeds is taken as measured; with one intermediate seed it is not known, and so is the answer.
    """
    if estimate.num_clusters < 2 or math.isnan(estimate.seed_variance):
        return None
    for number in range(2, MOST_SEEDS + 1):
        if minimum_detectable(with_seeds(estimate, number), level) <= abs(wanted):
            return number
    return None


def planned_detectable(sizes: Sequence[float], num_intermediate: int, num_target: int) -> list[dict[str, Any]]:
    """Smallest slopes that a plan would show, for assumed spreads over seeds, before anything has run.

    A run pair's gain has the variance 2 sd^2: one part that target seeds of an intermediate seed share, one of their
    own. So more target seeds make the second part smaller alone. All sizes count alike; items, lack of fit and what
    pairing takes away are left out. A two-sided 5 % test, 80 % power, Satterthwaite's degrees of freedom.

    Args:
        sizes: numbers of parameters.
        num_intermediate: intermediate seeds per size.
        num_target: target seeds of each.

    Returns:
        Rows of `seed_sd` (points, of a run), `standard_error` and `detectable` (points per tenfold parameters; nan with
        one intermediate seed, which leaves no degree of freedom); [] with fewer than two different sizes or no seed.
    """
    places = [math.log10(number) for number in sizes]
    if len(set(places)) < 2 or num_intermediate < 1 or num_target < 1:
        return []
    mean = sum(places) / len(places)
    spread = sum((place - mean) ** 2 for place in places)
    squares = [((place - mean) / spread) ** 2 for place in places]
    freedom = (num_intermediate - 1) * sum(squares) ** 2 / sum(square**2 for square in squares)
    rows = []
    for seed_sd in ASSUMED_SEED_SDS:
        variance = seed_sd**2 * (1 + 1 / num_target) / num_intermediate
        error = math.sqrt(variance * sum(squares))
        rows.append({"seed_sd": seed_sd, "standard_error": error, "detectable": detectable(error, freedom)})
    return rows

"""Does the gain diminish with size: the rule, and the sentence that says what the rule found.

The rule looks at two scales. A gain in points can shrink for no other reason than that less is left to gain; the log
error ratio takes the room that is left into account. A trend is called a trend where both scales agree.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from xlt_scale.scaling.analysis.wording import interval, points, signed
from xlt_scale.scaling.statistics.effects import Estimate

Trend = Literal["diminishes", "falls", "grows", "headroom only", "no change", "cannot tell"]

EQUIVALENCE_MARGIN = 1.0
"""Points per tenfold parameters: a slope whose interval lies within this counts as none."""


@dataclass(frozen=True)
class TrendEvidence:
    """Slopes of one group over sizes.

    Attributes:
        points: change of the gain per tenfold parameters; None where fewer than two sizes have it, or no family has
            two.
        log_error: the same of the log error ratio: positive = the advantage shrinks.
        num_sizes: sizes of the line.
        at_smallest: the line in points at the smallest size: what there is to diminish; of several families the mean
            of their lines, each at its smallest size.
        num_families: architecture families that share the slope, each with an intercept of its own.
    """

    points: Estimate | None
    log_error: Estimate | None
    num_sizes: int
    at_smallest: float = math.nan
    num_families: int = 1


NO_EVIDENCE = TrendEvidence(None, None, 0)


def trend(evidence: TrendEvidence, level: float) -> Trend:
    """What the slopes show at a one-sided level.

    'diminishes': the one-sided upper bound of the slope in points is below 0 and the lower bound of the slope of the
    log error ratio is above 0, and there is a gain at the smallest size; 'falls' where there is none, so that the arm
    does more harm with size; 'grows' the other way round. 'headroom only': points fall, log error ratios do not.
    'no change': the interval at 1 - 2 x level (two one-sided tests) lies within the equivalence margin. Nothing is told
    from one intermediate seed: its checkpoint is what all its run pairs have in common.
    """
    slope, log_slope = evidence.points, evidence.log_error
    if slope is None or log_slope is None or _why_untestable(slope) or _why_untestable(log_slope):
        return "cannot tell"
    falls, rises = slope.p_value("less") < level, slope.p_value("greater") < level
    advantage_shrinks, advantage_grows = log_slope.p_value("greater") < level, log_slope.p_value("less") < level
    if falls and advantage_shrinks:
        return "diminishes" if evidence.at_smallest > 0 else "falls"
    if rises and advantage_grows:
        return "grows"
    if falls:
        return "headroom only"
    low, high = slope.interval(1 - 2 * level)
    if low >= -EQUIVALENCE_MARGIN and high <= EQUIVALENCE_MARGIN:
        return "no change"
    return "cannot tell"


def trend_sentences(name: str, evidence: TrendEvidence, level: float, needed: Callable[[], str]) -> tuple[str, ...]:
    """The verdict of one group in plain sentences.

    Args:
        name: of the group, as it stands in a sentence ('overall', 'question answering').
        needed: what would make the answer sayable; asked only where it cannot be told.
    """
    found = trend(evidence, level)
    slope, log_slope = evidence.points, evidence.log_error
    if slope is None or log_slope is None:
        if evidence.num_families > 1:
            return (
                f"{name}: whether the gain changes with size cannot be told, because no architecture family has two "
                "sizes, and differences between families are not differences of size; it takes a second size of a "
                "family with the same arms and targets.",
            )
        return (
            f"{name}: whether the gain changes with size cannot be told, because fewer than two sizes have it; "
            "it takes a second size with the same arms and targets.",
        )
    low, high = slope.interval(1 - 2 * level)
    log_low, log_high = log_slope.interval(1 - 2 * level)
    numbers = (
        f"the gain changes by {points(slope.value)} points per tenfold parameters "
        f"({100 * (1 - 2 * level):g} % interval {interval(low, high)}), the log error ratio by "
        f"{signed(log_slope.value, 3)} ({interval(log_low, log_high, 3)})"
    )
    basis = (
        f"One-sided level {level:g}, {evidence.num_sizes} sizes{_in_families(evidence)}, at least "
        f"{slope.num_clusters} intermediate {'seed' if slope.num_clusters == 1 else 'seeds'} each."
    )
    why = _why_untestable(slope) or _why_untestable(log_slope)
    if why:
        return (f"{name}: it cannot be told whether the gain changes with size: {why}; {numbers}.", needed(), basis)
    if found == "diminishes":
        return (f"{name}: the gain diminishes with size, on both scales: {numbers}.", basis)
    if found == "falls":
        return (
            f"{name}: the gain falls with size, on both scales, from none at the smallest size: the larger the model, "
            f"the more harm: {numbers}.",
            basis,
        )
    if found == "grows":
        return (f"{name}: the gain grows with size, on both scales: {numbers}.", basis)
    if found == "headroom only":
        return (
            f"{name}: in points the gain falls, but the share of errors that it takes away is not shown to fall, so "
            f"the fall may be no more than less room to gain: {numbers}.",
            basis,
        )
    if found == "no change":
        margin = f"{EQUIVALENCE_MARGIN:g} point per tenfold parameters"
        return (f"{name}: the gain changes with size by less than {margin} either way: {numbers}.", basis)
    if slope.p_value("greater") < level:
        return (
            f"{name}: in points the gain grows, but the share of errors that it takes away is not shown to grow; the "
            f"scales disagree, so no trend is claimed: {numbers}.",
            basis,
        )
    return (f"{name}: it cannot be told whether the gain changes with size: {numbers}.", needed(), basis)


def _in_families(evidence: TrendEvidence) -> str:
    return f" in {evidence.num_families} families" if evidence.num_families > 1 else ""


def _why_untestable(slope: Estimate) -> str:
    """Why seeds do not allow a verdict; '' where they do. A trend over single checkpoints may be those checkpoints'."""
    if math.isnan(slope.p_value()):
        return "at least one size has a single run pair, so the spread over seeds is not known"
    if slope.num_clusters < 2:
        return (
            "at least one size has one intermediate seed, so the spread between intermediate checkpoints is not known"
        )
    return ""

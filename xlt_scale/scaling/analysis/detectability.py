"""What a study can detect, and how many seeds would detect more, in sentences and as a table."""

import math

import pandas as pd

from xlt_scale.scaling.analysis.grouping import ALL, HEADLINE
from xlt_scale.scaling.analysis.sensitivity import Slopes
from xlt_scale.scaling.analysis.verdicts import EQUIVALENCE_MARGIN, TrendEvidence
from xlt_scale.scaling.analysis.wording import count, signed
from xlt_scale.scaling.statistics.effects import Estimate
from xlt_scale.scaling.statistics.family_fits import Parallelism
from xlt_scale.scaling.statistics.seed_planning import (
    MOST_SEEDS,
    POWER,
    detectable,
    minimum_detectable,
    seeds_needed,
    with_seeds,
)

POWER_COLUMNS = ["quantity", "group", "value", "unit", "note"]
SLOPE_UNIT = "points per tenfold parameters"

NO_SPREAD = "runs and items do not vary, so nothing can be computed"
ONE_PAIR = "a single run pair, so nothing can be computed"


def what_it_takes(evidence: TrendEvidence, level: float) -> str:
    """One sentence: what would make the trend tellable."""
    slope = evidence.points
    if slope is None:
        return "It takes a second size with the same arms and targets."
    if slope.num_clusters < 2 or math.isnan(slope.seed_variance):
        return (
            "It takes at least 2 intermediate seeds at every size, better 5: with one, the spread between intermediate "
            "checkpoints is not known and no number of seeds can be computed."
        )
    found = minimum_detectable(slope, level)
    if math.isnan(found):
        return "What it takes cannot be computed: neither runs nor test items vary."
    margin = _needed(slope, EQUIVALENCE_MARGIN, level)
    observed = _needed(slope, slope.value, level)
    return (
        f"The smallest slope that this plan shows in {100 * POWER:.0f} % of repetitions is {found:.2f} {SLOPE_UNIT} "
        f"(with {count(slope.num_clusters, 'intermediate seed')} per size); a slope of {EQUIVALENCE_MARGIN:g} would "
        f"take {margin}, one as large as the measured one ({signed(slope.value)}) {observed}. Sizes further apart help "
        "more than seeds."
    )


def power_table(drawn: Slopes, groups: pd.DataFrame, level: float) -> pd.DataFrame:
    """What this plan can detect, and what more would (`Analysis.power`).

    Args:
        groups: its rows of the headline say what gain each size can detect.
    """
    rows: list[tuple[str, str, float, str, str]] = []
    for (arm, key), evidence in drawn.trends.items():
        if arm == ALL and key.kind in ("headline", "target group"):
            name = "overall" if key == HEADLINE else key.group
            if evidence.points is not None:
                rows += _slope_rows(name, evidence.points, level)
            for family, own in drawn.of_families.get((arm, key), {}).items():
                if key == HEADLINE and own.points is not None:
                    rows += _slope_rows(f"{name}, {family} alone", own.points, level)[:1]
            if key == HEADLINE and "points" in drawn.parallel.get((arm, key), {}):
                rows += _difference_rows(name, drawn.parallel[arm, key]["points"], level)
    for row in groups[groups["group_kind"] == "headline"].itertuples():
        degrees, error = float(row.degrees_of_freedom), float(row.standard_error)
        found = detectable(error, degrees, level)
        if not math.isnan(found):
            note = f"{_seeds(int(row.num_intermediate_seeds))}, two-sided level {level:g}, {100 * POWER:.0f} % power"
            rows.append((f"minimum detectable gain at {row.size}", str(row.arm), found, "points", note))
    return pd.DataFrame(rows, columns=POWER_COLUMNS)


def _slope_rows(name: str, slope: Estimate, level: float) -> list[tuple[str, str, float, str, str]]:
    quantity = "minimum detectable slope"
    sided = f"one-sided level {level:g}, {100 * POWER:.0f} % power"
    found = minimum_detectable(slope, level)
    if math.isnan(found):
        why = ONE_PAIR if math.isnan(slope.degrees_of_freedom) else NO_SPREAD
        return [(quantity, name, found, SLOPE_UNIT, why)]
    rows = [(quantity, name, found, SLOPE_UNIT, f"{_seeds(slope.num_clusters)} per size, {sided}")]
    if slope.num_clusters < 2:
        return rows
    twice = 2 * slope.num_clusters
    more = minimum_detectable(with_seeds(slope, twice), level)
    rows.append((quantity, name, more, SLOPE_UNIT, f"with {twice} intermediate seeds, {sided}"))
    needed = seeds_needed(slope, EQUIVALENCE_MARGIN, level)
    wanted = f"to detect a slope of {EQUIVALENCE_MARGIN:g}"
    if needed is None:
        wanted = f"{wanted} it takes more than {MOST_SEEDS}: items or sizes are the limit"
    rows.append(("intermediate seeds per size", name, math.nan if needed is None else needed, "seeds", wanted))
    return rows


def _difference_rows(name: str, test: Parallelism, level: float) -> list[tuple[str, str, float, str, str]]:
    note = f"two-sided level {level:g} of one pair of families, {100 * POWER:.0f} % power"
    return [
        (
            "minimum detectable difference of slopes",
            f"{name}, {first} and {second}",
            minimum_detectable(difference, level, 2),
            SLOPE_UNIT,
            note,
        )
        for (first, second), difference in test.differences.items()
    ]


def _seeds(number: int) -> str:
    """How many intermediate seeds, and what one is worth."""
    return "1 intermediate seed, for its checkpoints alone" if number == 1 else count(number, "intermediate seed")


def _needed(slope: Estimate, wanted: float, level: float) -> str:
    found = seeds_needed(slope, wanted, level)
    if found is None:
        return f"more than {MOST_SEEDS} seeds per size (test items or sizes are the limit)"
    return f"{found} intermediate seeds per size"

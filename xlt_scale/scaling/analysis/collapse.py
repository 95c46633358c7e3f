"""Runs that did not train, and how many of them each cell has.

A dead run can set a slope by itself. Runs are flagged here and never left out silently: numbers are given with all
pairs and without the pairs of which either side is flagged.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

CHANCE_MARGIN = 2.0
"""Points: a run this near to guessing, in the language that it was trained in, has learned nothing."""
LOSS_SHARE = 0.95
"""A training loss that ends above this share of where it began never left its start."""
SPREAD_LIMIT = 10.0
"""Points below the median of its cell: a run that is no further below may be an ordinary seed of a small model."""
SPREADS_BELOW = 3.0
"""And below it by more than so many spreads (1.4826 times the median absolute deviation) of the cell's other runs."""
MIN_CELL_RUNS = 4
"""With fewer runs in a cell nothing is said about how far its seeds lie apart."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal law over its median absolute deviation."""

AT_CHANCE = f"within {CHANCE_MARGIN:.0f} points of chance"
LOSS_STAYED = "training loss never left its start"
FAR_BELOW = f"more than {SPREAD_LIMIT:.0f} points and {SPREADS_BELOW:.0f} spreads below the median of its cell"

CELL = ["size", "arm", "target"]
RunKey = tuple[str, str, str, int, int]
"""Size, arm, target, intermediate seed, target seed."""

COLLAPSE_COLUMNS = [*CELL, "num_runs", "num_collapsed", "rate", "reasons", "records"]


def run_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per record: its keys, losses, mean score and mean distance from chance, both in points.

    Means are over the rows of languages that the run was trained in, or over all rows where none of them is scored.
    """
    frame = runs.assign(distance=runs["score"] - runs["chance"])
    trained = frame["is_trained_language"].astype(bool)
    kept = frame[trained | ~trained.groupby(frame["record"]).transform("any")]
    keys = [*CELL, "intermediate_seed", "target_seed", "record"]
    return kept.groupby(keys, sort=False, as_index=False).agg(
        score=("score", "mean"),
        distance=("distance", "mean"),
        first_loss=("first_loss", "first"),
        last_loss=("last_loss", "first"),
    )


def find_collapsed(runs: pd.DataFrame, untrained: Collection[str] = ()) -> pd.DataFrame:
    """One row per record, as `run_scores`, with the column `reasons`: a list, empty for a sound run.

    A run is flagged where it is within `CHANCE_MARGIN` points of chance, where its training loss ends at `LOSS_SHARE`
    of its start or more, or where it is far below the other runs of its cell (`is_far_below`).

    Args:
        untrained: targets that nothing is trained for (retrieval): near chance they have a floor, not a dead run.
    """
    found = run_scores(runs)
    far_below = found.groupby(CELL)["score"].transform(lambda scores: is_far_below(scores.to_numpy(float)))
    signs = {
        AT_CHANCE: (found["distance"] <= CHANCE_MARGIN) & ~found["target"].isin(list(untrained)),
        LOSS_STAYED: found["last_loss"] >= LOSS_SHARE * found["first_loss"],
        FAR_BELOW: far_below,
    }
    flags = np.column_stack([sign.to_numpy(dtype=bool) for sign in signs.values()])
    names = list(signs)
    found["reasons"] = [[name for name, is_so in zip(names, row, strict=True) if is_so] for row in flags]
    return found


def is_far_below(scores: np.ndarray) -> np.ndarray:
    """Which of a cell's runs do not repeat the others' experiment, bool [runs].

    Those more than `SPREAD_LIMIT` points below the cell's median, and below it by more than `SPREADS_BELOW` times the
    spread of the cell's other runs; none with fewer than `MIN_CELL_RUNS` runs, or where a score is not known.
    """
    flags = np.zeros(len(scores), bool)
    if len(scores) < MIN_CELL_RUNS:
        return flags
    below = np.median(scores) - scores
    for run in np.flatnonzero(below > SPREAD_LIMIT):
        others = np.delete(scores, run)
        spread = NORMAL_MAD * float(np.median(np.abs(others - np.median(others))))
        flags[run] = below[run] > SPREADS_BELOW * spread
    return flags


def collapse_table(found: pd.DataFrame) -> pd.DataFrame:
    """Counts, rates (0 to 1) and reasons by size, arm and target, from what `find_collapsed` returns."""
    rows = []
    for (size, arm, target), cell in found.groupby(CELL, sort=False):
        collapsed = cell[cell["reasons"].map(len) > 0]
        reasons = list(dict.fromkeys(reason for row in collapsed["reasons"] for reason in row))
        rows.append(
            {
                "size": size,
                "arm": arm,
                "target": target,
                "num_runs": len(cell),
                "num_collapsed": len(collapsed),
                "rate": len(collapsed) / len(cell),
                "reasons": "; ".join(reasons),
                "records": list(collapsed["record"]),
            }
        )
    return pd.DataFrame(rows, columns=COLLAPSE_COLUMNS)


def collapsed_runs(found: pd.DataFrame) -> frozenset[RunKey]:
    """Keys of the flagged runs; seeds of -1 stand for every pair."""
    flagged = found[found["reasons"].map(len) > 0]
    columns = [*CELL, "intermediate_seed", "target_seed"]
    return frozenset(
        (str(size), str(arm), str(target), int(intermediate), int(target_seed))
        for size, arm, target, intermediate, target_seed in flagged[columns].itertuples(index=False)
    )


def is_collapsed(collapsed: Collection[RunKey], size: str, arm: str, target: str, pair: tuple[int, int]) -> bool:
    """Whether that arm's run of a pair is flagged."""
    intermediate, seed = pair
    candidates = ((intermediate, seed), (intermediate, -1), (-1, seed), (-1, -1))
    return any((size, arm, target, *candidate) in collapsed for candidate in candidates)


def sound_pairs(
    pairs: Collection[tuple[int, int]],
    collapsed: Collection[RunKey],
    size: str,
    arms: Collection[str],
    target: str,
) -> list[tuple[int, int]]:
    """Pairs of which no arm's run is flagged: a pair goes with both its sides or stays with both."""
    return [pair for pair in pairs if not any(is_collapsed(collapsed, size, arm, target, pair) for arm in arms)]

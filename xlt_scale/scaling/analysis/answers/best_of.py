"""Best-of-k with nested selection: the arm is chosen on some seeds and its gain is reported on the others."""

from typing import Any

import numpy as np
import pandas as pd

from xlt_scale.scaling.analysis.answers.context import Context
from xlt_scale.scaling.analysis.contrasts import usable_cells
from xlt_scale.scaling.analysis.grouping import GroupKey

MEAN = "mean over tasks"


def best_of_table(context: Context) -> pd.DataFrame:
    """By size and task: the best arm's gain on the seeds that chose it (all of them), and on seeds that did not.

    Each intermediate seed (target seed, where there is one intermediate seed) is held out in turn; the arm is chosen on
    the others. The difference is the winner's curse.
    """
    rows = []
    for size in context.gains.sizes:
        found: list[dict[str, Any]] = []
        for key in context.gains.group_keys([size.name]):
            if key.kind != "task":
                continue
            gains, arms = _gains_by_seed(context, size.name, key)
            if len(arms) < 2:
                continue
            same, other = nested_selection(gains)
            best = context.labels[arms[int(gains.mean(axis=1).argmax())]]
            found.append(
                {"size": size.name, "task": key.task, "arms": len(arms), "best": best}
                | {"same_seeds": same, "other_seeds": other, "winners_curse": same - other, "seeds": gains.shape[1]}
            )
        if found:
            values = {
                name: float(np.mean([row[name] for row in found]))
                for name in ("same_seeds", "other_seeds", "winners_curse")
            }
            counts = {name: max(int(row[name]) for row in found) for name in ("arms", "seeds")}
            found.append({"size": size.name, "task": MEAN, "best": "", **values, **counts})
        rows += found
    return pd.DataFrame(rows)


def nested_selection(gains: np.ndarray) -> tuple[float, float]:
    """Gain of the best arm [arms, seeds] on the seeds that chose it, and on held-out seeds; nan with one seed."""
    num_seeds = gains.shape[1]
    same = float(gains.mean(axis=1).max())
    if num_seeds < 2:
        return same, float("nan")
    held_out = []
    for seed in range(num_seeds):
        chosen = int(np.delete(gains, seed, axis=1).mean(axis=1).argmax())
        held_out.append(gains[chosen, seed])
    return same, float(np.mean(held_out))


def _gains_by_seed(context: Context, size: str, key: GroupKey) -> tuple[np.ndarray, list[str]]:
    """Mean gains on a task by arm and seed, float64 [arms, seeds], over the seeds that all these arms have."""
    by_arm: dict[str, dict[tuple[int, int], float]] = {}
    for arm in context.gains.arms:
        cells = usable_cells(context.gains, size, arm, key)
        if not cells:
            continue
        sums: dict[tuple[int, int], list[float]] = {}
        for name, unit in context.gains.units(size, arm).items():
            columns = [unit.languages.index(code) for *target, code in cells if tuple(target) == name]
            if columns:
                for pair, value in zip(unit.pairs, unit.gains()[:, columns].mean(axis=1), strict=True):
                    sums.setdefault(pair, []).append(float(value))
        by_arm[arm] = {pair: float(np.mean(values)) for pair, values in sums.items()}
    pairs = sorted(set.intersection(*(set(found) for found in by_arm.values()))) if by_arm else []
    if not pairs:
        return np.empty((0, 0)), []
    values = np.array([[found[pair] for pair in pairs] for found in by_arm.values()])
    seeds = sorted({intermediate for intermediate, _ in pairs})
    if len(seeds) > 1:
        values = np.stack(
            [values[:, [place for place, pair in enumerate(pairs) if pair[0] == seed]].mean(axis=1) for seed in seeds],
            axis=1,
        )
    return values, list(by_arm)

"""Summaries over tasks that no single task can move much, with intervals (Agarwal et al. 2021).

"Deep Reinforcement Learning at the Edge of the Statistical Precipice", section 4: interquartile mean, median,
probability of improvement; runs are resampled within each task (stratified).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 2_000


@dataclass(frozen=True)
class Aggregate:
    """A summary over tasks with its 95 % percentile interval."""

    value: float
    low: float
    high: float


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs and tasks, float64 [...] of [..., runs, tasks]: a quarter cut at each end."""
    flat = np.sort(values.reshape(*values.shape[:-2], -1), axis=-1)
    cut = int(0.25 * flat.shape[-1])
    return flat[..., cut : flat.shape[-1] - cut].mean(axis=-1)


def median_of_tasks(values: np.ndarray) -> np.ndarray:
    """Median over tasks of the means over runs, float64 [...] of [..., runs, tasks]."""
    return np.median(values.mean(axis=-2), axis=-1)


def aggregate(
    by_task: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray] = interquartile_mean,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Aggregate:
    """A statistic of gains and its interval, runs resampled within tasks.

    Args:
        by_task: of each task the gains of its independent runs (means over intermediate seeds), float64 [runs]; tasks
            with fewer runs than others count with all of theirs, repeated evenly.
    """
    num_runs = max(len(values) for values in by_task)
    rng = np.random.default_rng(seed)
    table = np.stack([np.resize(values, num_runs) for values in by_task], axis=1)
    drawn = [values[rng.integers(0, len(values), (num_draws, num_runs))] for values in by_task]
    draws = statistic(np.stack(drawn, axis=-1))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Aggregate(float(statistic(table)), float(low), float(high))


def probability_of_improvement(
    base: Sequence[np.ndarray], with_arm: Sequence[np.ndarray], num_draws: int = NUM_DRAWS, seed: int = 0
) -> Aggregate:
    """Chance that a run of the arm beats a run of the baseline, ties half, averaged over tasks (equation 2 there).

    Args:
        base: of each task the scores of its runs, float64 [runs].
        with_arm: the same of the arm; runs need not be paired.
    """
    rng = np.random.default_rng(seed)
    values, draws = [], np.zeros(num_draws)
    for own, other in zip(base, with_arm, strict=True):
        wins = (other[:, None] > own) + 0.5 * (other[:, None] == own)  # [runs with the arm, runs of the baseline]
        values.append(float(wins.mean()))
        rows = rng.integers(0, len(other), (num_draws, len(other)))
        columns = rng.integers(0, len(own), (num_draws, len(own)))
        draws += wins[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2)) / len(base)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Aggregate(float(np.mean(values)), float(low), float(high))


def paired_probability_of_improvement(gains: Sequence[np.ndarray]) -> float:
    """Share of run pairs in which the arm is better, ties half, averaged over tasks."""
    return float(np.mean([(one > 0.0).mean() + 0.5 * (one == 0.0).mean() for one in gains]))

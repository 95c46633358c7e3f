"""A summary over tasks that no single task can move much (Agarwal et al. 2021).

"Deep Reinforcement Learning at the Edge of the Statistical Precipice", section 4.3.
"""

import numpy as np


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs and tasks, float64 [...] of [..., runs, tasks]: a quarter cut at each end."""
    flat = np.sort(values.reshape(*values.shape[:-2], -1), axis=-1)
    cut = int(0.25 * flat.shape[-1])
    return flat[..., cut : flat.shape[-1] - cut].mean(axis=-1)

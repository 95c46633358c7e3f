"""Adjusting p values for the number of tests."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from statsmodels.stats.multitest import multipletests


def adjust(p_values: Sequence[float] | npt.NDArray[np.float64], method: Literal["holm", "fdr_bh"]) -> np.ndarray:
    """Adjusted p values in the same order; nan stays nan and does not count as a test.

    Holm (1979) controls the chance of any false finding, Benjamini and Hochberg (1995) the expected share of false
    findings among those named.
    """
    values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(values.shape, np.nan)
    is_test = np.isfinite(values)
    if is_test.any():
        adjusted[is_test] = multipletests(values[is_test], method=method)[1]
    return adjusted


def num_tests(p_values: Sequence[float] | npt.NDArray[np.float64]) -> int:
    """How many of the values are tests."""
    return int(np.isfinite(np.asarray(p_values, dtype=np.float64)).sum())

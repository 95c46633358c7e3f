"""Curves with more parameters than a line, for studies with enough sizes to tell them: exploratory, never a claim.

A function here gives the curve, or a sentence that says why there is none.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit, minimize_scalar

MIN_SIZES_POWER_LAW = 5
MIN_SIZES_ONE_BREAK = 7


@dataclass(frozen=True)
class Curve:
    """A fitted curve.

    Attributes:
        parameters: by name.
        fitted: at the sizes of the fit, in the unit of what was fitted.
        chi_square: weighted sum of squared residuals.
        degrees_of_freedom: sizes - parameters.
    """

    parameters: dict[str, float]
    fitted: np.ndarray
    chi_square: float
    degrees_of_freedom: int


def power_law_of_error(
    log10_n: np.ndarray, error_points: np.ndarray, standard_errors: np.ndarray | None = None
) -> Curve | str:
    """error = floor + scale x 10^(-exponent x log10_n), for five sizes or more, or why it could not be fitted."""
    if len(log10_n) < MIN_SIZES_POWER_LAW:
        return f"a power law with a floor has 3 parameters: {len(log10_n)} sizes, at least {MIN_SIZES_POWER_LAW} needed"
    sigma = _usable(standard_errors, len(log10_n))

    def linear_part(exponent: float) -> tuple[np.ndarray, float]:
        design = np.stack([np.ones(len(log10_n)), 10.0 ** (-exponent * np.asarray(log10_n))], axis=1)
        best, *_ = np.linalg.lstsq(design / sigma[:, None], error_points / sigma, rcond=None)
        if best[0] < 0.0:  # an error has no negative floor
            weights = design[:, 1] / sigma
            best = np.array([0.0, float(weights @ (error_points / sigma)) / float(weights @ weights)])
        return best, float(np.sum(((design @ best - error_points) / sigma) ** 2))

    # Given the exponent the rest is linear: one number is searched for, from a grid, so no start value matters.
    grid = np.geomspace(0.02, 5.0, 60)
    losses = [linear_part(one)[1] for one in grid]
    at = int(np.argmin(losses))
    bounds = (grid[max(0, at - 1)], grid[min(len(grid) - 1, at + 1)])
    found = minimize_scalar(lambda one: linear_part(one)[1], bounds=bounds, method="bounded")
    exponent = float(found.x)
    (floor, scale), chi_square = linear_part(exponent)
    if at in (0, len(grid) - 1):
        return "the exponent of the power law runs out of bounds: the sizes do not determine it"
    fitted = floor + scale * 10.0 ** (-exponent * np.asarray(log10_n))
    parameters = {"floor": float(floor), "scale": float(scale), "exponent": exponent}
    return Curve(parameters, fitted, chi_square, len(log10_n) - 3)


def one_break_law(
    log10_n: np.ndarray, error_points: np.ndarray, standard_errors: np.ndarray | None = None
) -> Curve | str:
    """Smoothly broken power law with one break (Caballero et al. 2022, equation 1), for seven sizes or more.

    error = a + b n^-c0 (1 + (n / d)^(1/f))^(-c1 f) with n = 10^log10_n.
    """
    if len(log10_n) < MIN_SIZES_ONE_BREAK:
        return f"a law with one break has 6 parameters: {len(log10_n)} sizes, at least {MIN_SIZES_ONE_BREAK} needed"
    x, y = np.asarray(log10_n, float), np.asarray(error_points, float)
    sigma = _usable(standard_errors, len(x))

    def law(at: np.ndarray, a: float, log_b: float, c0: float, c1: float, log10_d: float, f: float) -> np.ndarray:
        rise = np.logaddexp(0.0, np.log(10.0) * (at - log10_d) / f)
        return a + np.exp(log_b - c0 * np.log(10.0) * at - c1 * f * rise)

    best: tuple[float, np.ndarray] | None = None
    for middle in np.quantile(x, [0.3, 0.5, 0.7]):
        start = [0.5 * y.min(), np.log(max(1e-3, y[0] - 0.5 * y.min())), 0.1, 0.1, middle, 0.3]
        bounds = ([0.0, -20.0, -3.0, -5.0, x.min(), 0.02], [max(1e-6, y.min()), 20.0, 3.0, 5.0, x.max(), 3.0])
        found = _least_squares(law, x, y, sigma, start, bounds)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    if best is None:
        return "the law with one break did not converge"
    chi_square, values = best
    names = ("floor", "log_scale", "exponent", "exponent_change", "log10_break", "sharpness")
    parameters = {name: float(value) for name, value in zip(names, values, strict=True)}
    return Curve(parameters, law(x, *values), chi_square, len(x) - 6)


def _usable(standard_errors: np.ndarray | None, count: int) -> np.ndarray:
    """Standard errors; all 1 where some are 0 or not known."""
    if standard_errors is None or not (np.isfinite(standard_errors).all() and (standard_errors > 0.0).all()):
        return np.ones(count)
    return np.asarray(standard_errors, float)


def _least_squares(
    law: Callable[..., np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    sigma: np.ndarray,
    start: list[float],
    bounds: tuple[list[float], list[float]],
) -> tuple[float, np.ndarray] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # no covariance: none is used
        try:
            inside = np.clip(start, np.array(bounds[0]) + 1e-9, np.array(bounds[1]) - 1e-9)
            values, _ = curve_fit(law, x, y, p0=inside, sigma=sigma, bounds=bounds, max_nfev=4000)
        except (RuntimeError, ValueError):
            return None
    return float(np.sum(((law(x, *values) - y) / sigma) ** 2)), values

"""The analysis's tables in a form that every figure can rely on: all columns, numbers as numbers, rows counted from 0.

A table without rows often has no types, and one that was made without rows not even columns.
"""

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from xlt_scale.scaling.results import (
    CELL_COLUMNS,
    ESTIMATE_COLUMNS,
    GROUP_COLUMNS,
    PREDICTION_COLUMNS,
    RUN_COLUMNS,
    SLOPE_COLUMNS,
    Analysis,
)

CURVE_COLUMNS = ("record", "size", "arm", "target", "phase", "step", "share", "loss", "dev")
COST_COLUMNS = ("size", "arm", "gpu_hours", "gain", "low", "high", "points_per_gpu_hour", "unit")
COLLAPSE_COLUMNS = ("size", "arm", "target", "num_runs", "num_collapsed", "rate", "reasons", "records")
NUMBERS = {
    *ESTIMATE_COLUMNS, "base", "with_arm", "p_bh", "p_holm", "log_error_ratio", "log_error_low", "log_error_high",
    "num_collapsed", "num_cells", "num_excluded", "intercept", "p_falling", "lack_of_fit_p", "num_sizes",
    "num_parameters", "prediction_low", "prediction_high", "score", "first_loss", "last_loss", "gpu_hours",
    "arm_gpu_hours", "tokens", "step", "share", "loss", "dev", "points_per_gpu_hour", "num_runs", "rate",
}  # fmt: skip


def tidied(analysis: Analysis) -> Analysis:
    """The same analysis, its tables with all columns of the contract and plain types."""
    results = replace(
        analysis.results,
        runs=_tidy(analysis.results.runs, RUN_COLUMNS),
        curves=_tidy(analysis.results.curves, CURVE_COLUMNS),
    )
    return replace(
        analysis,
        results=results,
        cells=_tidy(analysis.cells, CELL_COLUMNS),
        groups=_tidy(analysis.groups, GROUP_COLUMNS),
        slopes=_tidy(analysis.slopes, SLOPE_COLUMNS),
        predictions=_tidy(analysis.predictions, PREDICTION_COLUMNS),
        collapse=_tidy(analysis.collapse, COLLAPSE_COLUMNS),
        costs=_tidy(analysis.costs, COST_COLUMNS),
    )


def _tidy(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    names = list(columns)
    if table.empty:
        table = table.reindex(columns=list(dict.fromkeys([*names, *table.columns])))
    numbers = [name for name in table.columns if name in NUMBERS]
    types = {name: pd.to_numeric(table[name], errors="coerce") for name in numbers}
    texts = {name: table[name].astype(object) for name in table.columns if name not in NUMBERS}
    return pd.DataFrame({name: types.get(name, texts.get(name)) for name in table.columns}).reset_index(drop=True)

"""The tables of cells and of groups of cells."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from xlt_scale.scaling.analysis.gains import StudyGains, one_arm
from xlt_scale.scaling.analysis.grouping import Cell, CellId, GroupKey, Members, group_keys
from xlt_scale.scaling.analysis.multiplicity import adjust
from xlt_scale.scaling.results import CELL_COLUMNS, GROUP_COLUMNS
from xlt_scale.scaling.statistics.differences import TaskDifferences, cell_estimates
from xlt_scale.scaling.statistics.effects import Estimate, Scale, SizeSummary, combine_sizes, p_values, quantile
from xlt_scale.scaling.statistics.resampling import sign_flip_p

CellPlace = tuple[str, str, str, str, str]
"""Size, arm, target, task, language."""

TESTED = ("headline", "target group", "task")
"""Kinds of groups with a permutation test: sign flips over thousands of small groups would take longer than the "
"rest."""

SCALES: tuple[Scale, Scale] = ("points", "log error")

PRE_REGISTERED = "task"
"""Kind of the groups that are tested as planned; all others are exploratory."""


def estimate_columns(estimates: Sequence[Estimate]) -> dict[str, np.ndarray]:
    """The columns of estimates (`ESTIMATE_COLUMNS`), without the permutation's p; all at once, for speed."""
    values = np.array([one.value for one in estimates], float)
    errors = np.array([one.standard_error for one in estimates], float)
    degrees = np.array([one.degrees_of_freedom for one in estimates], float)
    reach = quantile(0.975, degrees) * errors
    return {
        "gain": values,
        "standard_error": errors,
        "degrees_of_freedom": degrees,
        "low": values - reach,
        "high": values + reach,
        "p": p_values(values, errors, degrees),
        "seed_share": np.array([one.seed_share for one in estimates], float),
        "num_intermediate_seeds": np.array([one.num_clusters for one in estimates], int),
        "num_pairs": np.array([one.num_pairs for one in estimates], int),
    }


def with_estimates(
    rows: Sequence[Mapping[str, object]], estimates: Sequence[Estimate], columns: Iterable[str]
) -> pd.DataFrame:
    """Rows with the columns of their estimates beside them."""
    table = pd.DataFrame(list(rows)).assign(**estimate_columns(estimates))
    return table.reindex(columns=list(columns))


def cells_table(gains: StudyGains) -> pd.DataFrame:
    """A row per size, arm, target, task and language (`CELL_COLUMNS`)."""
    rows = []
    for size in gains.sizes:
        for arm in gains.arms:
            facts = {cell.identity: cell for cell in gains.cells(size.name, arm)}
            for unit in gains.units(size.name, arm).values():
                rows += _cell_rows(gains, unit, facts)
    table = pd.DataFrame(rows, columns=[name for name in CELL_COLUMNS if name != "p_bh"])
    table.insert(table.columns.get_loc("log_error_ratio"), "p_bh", adjust(table["p"].to_numpy(float), "fdr_bh"))
    return table[list(CELL_COLUMNS)]


def _cell_rows(gains: StudyGains, unit: TaskDifferences, cells: Mapping[CellId, Cell]) -> list[dict[str, object]]:
    columns = cell_estimates(unit).columns()
    num_collapsed = gains.num_collapsed(unit)
    rows = []
    for position, language in enumerate(unit.languages):
        cell = cells[unit.target, unit.task, language]
        rows.append(
            {
                "size": unit.size,
                "arm": unit.arm,
                "target": unit.target,
                "task": unit.task,
                "language": language,
                "language_family": cell.family,
                "is_seen": cell.is_seen,
                "is_trained_language": cell.is_trained,
                "same_data": cell.same_data,
                "base": unit.base_means[position],
                "with_arm": unit.arm_means[position],
                **{name: values[position] for name, values in columns.items()},
                "p_permutation": float("nan"),
                "log_error_ratio": unit.log_error_ratios[position],
                "num_collapsed": num_collapsed,
                "records": unit.records,
            }
        )
    return rows


def cell_positions(cells: pd.DataFrame) -> dict[CellPlace, int]:
    """Where each cell stands in the table of cells."""
    columns = ["size", "arm", "target", "task", "language"]
    return {place: row for row, place in enumerate(cells[columns].itertuples(index=False, name=None))}


def groups_table(
    gains: StudyGains,
    positions: Mapping[CellPlace, int],
    num_draws: int,
    seed: int = 0,
    *,
    is_sound: bool = False,
    kinds: Collection[str] = (),
) -> pd.DataFrame:
    """A row per size, arm and group of cells (`GROUP_COLUMNS`).

    Args:
        num_draws: of signs in permutation tests; 0 = none.
        is_sound: without run pairs of which either run collapsed.
        kinds: of groups; () = all.
    """
    rows: list[dict[str, object]] = []
    points: list[SizeSummary] = []
    errors: list[SizeSummary] = []
    for size in gains.sizes:
        for arm in gains.arms:
            for key in group_keys(gains.cells(size.name, arm)):
                found = gains.members(size.name, arm, key) if not kinds or key.kind in kinds else None
                if found is None:
                    continue
                weights = one_arm(arm, found)
                summaries = [gains.summary(size.name, weights, scale, is_sound=is_sound) for scale in SCALES]
                if summaries[0] is not None and summaries[1] is not None:
                    rows.append(_group_row(gains, size.name, arm, key, found, positions))
                    points.append(summaries[0])
                    errors.append(summaries[1])
    table = with_estimates(rows, [combine_sizes([(1.0, one)]) for one in points], GROUP_COLUMNS)
    log_errors = estimate_columns([combine_sizes([(1.0, one)]) for one in errors])
    for name, column in (("log_error_ratio", "gain"), ("log_error_low", "low"), ("log_error_high", "high")):
        table[name] = log_errors[column]
    tested = {row: points[row] for row in range(len(rows)) if num_draws and rows[row]["group_kind"] in TESTED}
    table["p_permutation"] = np.nan
    if tested:
        found_p = sign_flip_p(list(tested.values()), num_draws, seed)
        table.loc[list(tested), "p_permutation"] = found_p
    is_planned = table["group_kind"] == PRE_REGISTERED
    table["p_holm"] = np.nan
    table.loc[is_planned, "p_holm"] = adjust(table.loc[is_planned, "p"].to_numpy(float), "holm")
    return table


def _group_row(
    gains: StudyGains, size: str, arm: str, key: GroupKey, found: Members, positions: Mapping[CellPlace, int]
) -> dict[str, object]:
    """What a row says beside its estimates."""
    base, with_arm = gains.levels(size, one_arm(arm, found))
    return {
        "size": size,
        "arm": arm,
        "group_kind": key.kind,
        "group": key.group,
        "task": "" if key.kind in TESTED else key.task,
        "base": base,
        "with_arm": with_arm,
        "num_cells": len(found.weights),
        "num_excluded": found.num_excluded,
        "cells": _positions(found.weights, size, arm, positions),
    }


def _positions(weights: Mapping[CellId, float], size: str, arm: str, known: Mapping[CellPlace, int]) -> Sequence[int]:
    return sorted(known[(size, arm, *identity)] for identity in weights)

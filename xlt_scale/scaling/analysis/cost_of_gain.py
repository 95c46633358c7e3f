"""Points of gain beside the hours they cost."""

import math

import pandas as pd

from xlt_scale.scaling.results import StudyResults

GPU_NAMES = r"nvidia|tesla|geforce|quadro|instinct|cuda|gpu"
"""In names of devices; processors of some makers are named after the graphics inside them (Radeon)."""

COST_COLUMNS = ["size", "arm", "gpu_hours", "gain", "low", "high", "points_per_gpu_hour", "unit"]


def costs_table(results: StudyResults, groups: pd.DataFrame) -> pd.DataFrame:
    """Headline gain by size and arm over the hours of one seed: intermediate phases once, each target phase once.

    Hours are means over seeds; the baseline's own are not in them. No composite is made of gain and cost: it would
    depend on which models are in the table.
    """
    unit = hours_unit(results)
    records = results.runs.drop_duplicates("record")
    records = records[records["arm"] != results.facts.baseline]
    heads = groups[groups["group_kind"] == "headline"].set_index(["size", "arm"])
    rows = []
    for (size, arm), own in records.groupby(["size", "arm"], sort=False):
        hours = hours_of_one_seed(own)
        gain = low = high = math.nan
        if (size, arm) in heads.index:
            head = heads.loc[(size, arm)]
            gain, low, high = float(head["gain"]), float(head["low"]), float(head["high"])
        rows.append((size, arm, hours, gain, low, high, gain / hours if hours > 0 else math.nan, unit))
    return pd.DataFrame(rows, columns=COST_COLUMNS)


def hours_of_one_seed(records: pd.DataFrame) -> float:
    """Hours of the intermediate phases, once, and of every target phase, once: means over seeds.

    Args:
        records: of one size and arm, one row per record.
    """
    of_arm = records.groupby("intermediate_seed")["arm_gpu_hours"].max().mean()
    of_targets = records.groupby("target")["gpu_hours"].mean().sum()
    return float((0.0 if math.isnan(of_arm) else of_arm) + of_targets)


def hours_unit(results: StudyResults) -> str:
    """'GPU hours' where the records' software names a GPU as device, else 'processor hours'."""
    software = results.software
    if not len(software):
        return "processor hours"
    is_device = software["name"].astype(str).str.contains("device|accelerator", case=False)
    values = software.loc[is_device, "value"].astype(str).str
    return "GPU hours" if values.contains(GPU_NAMES, case=False).any() else "processor hours"

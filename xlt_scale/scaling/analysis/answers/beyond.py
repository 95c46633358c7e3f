"""What was measured beyond ten billion parameters, by both counts, and what lines say there."""

import pandas as pd

from xlt_scale.scaling.analysis.answers.context import Context, is_shown
from xlt_scale.scaling.analysis.answers.families import DIFFERS, verdict
from xlt_scale.scaling.analysis.grouping import ALL, HEADLINE
from xlt_scale.scaling.analysis.sensitivity import weights_by_size
from xlt_scale.scaling.analysis.wording import billions, interval, listed, points
from xlt_scale.scaling.results import SizeFacts
from xlt_scale.scaling.statistics.effects import Estimate, combine_sizes

MANY_PARAMETERS = 10_000_000_000

MOST_SIZES_BY_ARM = 2
"""Of more sizes sentences give the mean over arms; each arm is in the tables."""

SIZES_TITLE = "Sizes, and which have more than 10 billion parameters"


def above_ten_billion(context: Context) -> list[str]:
    """What is known of sizes beyond ten billion parameters, by both counts, and what the line says there."""
    sizes = context.gains.sizes
    by_both = [size for size in sizes if _above(size) == "both counts"]
    by_one = [size for size in sizes if _above(size) == "all parameters alone"]
    sentences = _which(context, by_both, by_one) if by_both or by_one else []
    if not by_both:
        largest = sizes[-1]
        sentences.append(
            f"No size of this study has more than 10 billion parameters by both counts: {largest.name}, the "
            "largest, has "
            f"{billions(largest.num_parameters)} in all and {billions(largest.num_non_embedding_parameters)} without "
            "embeddings; what is above cannot be said from a measurement."
        )
    if len(by_both) + len(by_one) > MOST_SIZES_BY_ARM:
        sentences += _means(context, [*by_both, *by_one])
    else:
        sentences += [_measured(context, size) for size in (*by_both, *by_one)]
    return [*sentences, *_lines_at_ten_billion(context)]


def sizes_table(context: Context) -> pd.DataFrame:
    """A row per size: family, both counts, whether they are above ten billion, the headline's mean gain over arms."""
    means = _mean_gains(context)
    rows = []
    for family in context.families:
        for size in context.gains.sizes:
            if size.family != family:
                continue
            estimate = means.get(size.name)
            low, high = (None, None) if estimate is None else estimate.interval()
            rows.append(
                {
                    "family": family,
                    "size": size.name,
                    "parameters": size.num_parameters,
                    "without embeddings": size.num_non_embedding_parameters,
                    "more than 10 billion": _above(size),
                    "read": "in both directions" if size.is_bidirectional_decoder else "as pre-trained",
                    "mean gain over arms": None if estimate is None else estimate.value,
                    "low, 95 %": low,
                    "high, 95 %": high,
                }
            )
    return pd.DataFrame(rows)


def _mean_gains(context: Context) -> dict[str, Estimate]:
    """The headline's mean over arms by size, over the cells that all sizes have."""
    weights = weights_by_size(context.gains, ALL, HEADLINE)
    summaries = {name: context.gains.summary(name, own) for name, own in weights.items()}
    return {name: combine_sizes([(1.0, one)]) for name, one in summaries.items() if one is not None}


def _means(context: Context, sizes: list[SizeFacts]) -> list[str]:
    found = _mean_gains(context)
    having = [size.name for size in sizes if size.name in found]
    if not having:
        return []
    parts = [f"{name} {points(found[name].value)} ({interval(*found[name].interval())})" for name in having]
    shown = [name for name in having if is_shown(found[name], context.level)]
    tail = "all" if shown == having else listed(shown)
    return [
        f"There the mean gains over arms are, in points with 95 % intervals, {listed(parts)}; shown to differ from 0 "
        f"at the two-sided level {context.level:g}: {tail}."
    ]


def _above(size: SizeFacts) -> str:
    """By which counts a size is above ten billion parameters."""
    if size.num_non_embedding_parameters > MANY_PARAMETERS:
        return "both counts"
    return "all parameters alone" if size.num_parameters > MANY_PARAMETERS else "no"


def _which(context: Context, by_both: list[SizeFacts], by_one: list[SizeFacts]) -> list[str]:
    parts = []
    if by_both:
        parts.append(f"by both counts: {_by_family(context, by_both)}")
    if by_one:
        parts.append(f"by all parameters and not without embeddings: {_by_family(context, by_one)}")
    families = {size.family for size in (*by_both, *by_one)}
    others = [name for name in context.families if name not in families]
    none = f"; of {listed(others)} by neither count" if others else ""
    return [f"Sizes with more than 10 billion parameters, {'; '.join(parts)}{none}."]


def _by_family(context: Context, sizes: list[SizeFacts]) -> str:
    if len(context.families) < 2:
        return listed([size.name for size in sizes])
    parts = []
    for family in context.families:
        names = [size.name for size in sizes if size.family == family]
        if names:
            parts.append(f"{listed(names)} ({family})")
    return ", ".join(parts)


def _measured(context: Context, size: SizeFacts) -> str:
    rows = context.groups[(context.groups["size"] == size.name) & (context.groups["group_kind"] == "headline")]
    parts = [
        f"{context.labels.get(row.arm, row.arm)} {points(row.gain)} (95 % interval {interval(row.low, row.high)})"
        for row in rows.itertuples()
    ]
    vanished = "none of them is shown to differ from 0" if not (rows["p"] < context.level).any() else ""
    named = [context.labels.get(row.arm, row.arm) for row in rows.itertuples() if row.p < context.level]
    tail = vanished or f"shown to differ from 0 at the two-sided level {context.level:g}: {listed(named)}"
    counts = (
        f"{billions(size.num_parameters)} parameters, {billions(size.num_non_embedding_parameters)} without embeddings"
    )
    return f"At {size.name} ({counts}) gains are, in points: {listed(parts)}; {tail}."


def _lines_at_ten_billion(context: Context) -> list[str]:
    if verdict(context) == DIFFERS:
        return ["What lines say at 10 billion parameters is left out: the slope that the families share need fit none."]
    table = context.predictions
    rows = table[(table["arm"] == ALL) & (table["group_kind"] == "headline")]
    if not len(rows):
        return []
    there = rows[rows["num_parameters"] == MANY_PARAMETERS]
    is_one = len(context.families) < 2
    if is_one and not len(there):
        return [
            "Ten billion parameters are more than half a decade past the largest size: the line is not drawn that far."
        ]
    if is_one:
        return [_line_at_ten_billion(there.iloc[0])]
    by_family = {row["family"]: row for row in there.to_dict("records")}
    sentences = []
    parts = [
        f"{name} {points(row['gain'])} (a new size {interval(row['prediction_low'], row['prediction_high'])}, "
        f"{_where(row['is_extrapolated'])})"
        for name in context.families
        if (row := by_family.get(name)) is not None
    ]
    if parts:
        sentences.append(
            "At 10 billion parameters the families' lines, with the slope that they share, are in points at "
            f"{listed(parts)}; ranges are 95 % prediction intervals."
        )
    absent = [name for name in context.families if name not in by_family]
    if absent:
        sentences.append(
            f"Ten billion parameters are more than half a decade past the largest size of {listed(absent)}: no line is "
            "drawn that far there."
        )
    return sentences


def _line_at_ten_billion(row: pd.Series) -> str:
    return (
        f"The line gives {points(row['gain'])} points at 10 billion parameters, {_where(row['is_extrapolated'])}; a "
        f"new size there is predicted within {interval(row['prediction_low'], row['prediction_high'])} (95 % "
        "prediction interval)."
    )


def _where(is_extrapolated: bool) -> str:
    return "outside the sizes that were run (extrapolated)" if is_extrapolated else "between sizes that were run"

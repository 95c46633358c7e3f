"""Does the gain diminish with size, and does it vanish above ten billion parameters."""

import math
from collections.abc import Sequence

import pandas as pd

from xlt_scale.scaling.analysis.answers.context import Answered, Context, caveats, nothing_yet, seeds_sentence
from xlt_scale.scaling.analysis.grouping import ALL, HEADLINE, GroupKey
from xlt_scale.scaling.analysis.verdicts import TrendEvidence, trend, trend_sentences
from xlt_scale.scaling.analysis.wording import billions, count, interval, listed, points
from xlt_scale.scaling.results import Answer, SizeFacts

MANY_PARAMETERS = 10_000_000_000

NO_EVIDENCE = TrendEvidence(None, None, 0)


def answer(context: Context) -> Answered:
    """Verdict of the headline over all arms, then of each target group, then of each arm."""
    if not len(context.groups):
        return nothing_yet(context)
    verdict = trend(context.trends.get((ALL, HEADLINE), NO_EVIDENCE), context.level)
    sentences = [
        *_trend_of(context, ALL, HEADLINE, "Over all target groups and arms"),
        *_sign(context),
        *above_ten_billion(context),
    ]
    for key in _target_groups(context):
        sentences += _trend_of(context, ALL, key, f"Target group {key.group}")[:1]
    sentences += _by_arm(context)
    sentences.append(seeds_sentence(context))
    return Answer(verdict, tuple(sentences), caveats(context)), {
        "Does the gain change with size": verdict_table(context)
    }


def verdict_table(context: Context) -> pd.DataFrame:
    """A row per arm and group: verdict and both slopes."""
    rows = []
    for (arm, key), evidence in context.trends.items():
        if evidence.points is None or evidence.log_error is None or key.kind == "family":
            continue
        low, high = evidence.points.interval(1 - 2 * context.level)
        log_low, log_high = evidence.log_error.interval(1 - 2 * context.level)
        rows.append(
            {
                "arm": context.labels.get(arm, arm),
                "group kind": key.kind,
                "group": key.group,
                "verdict": trend(evidence, context.level),
                "slope, points per tenfold N": evidence.points.value,
                "low": low,
                "high": high,
                "slope of the log error ratio": evidence.log_error.value,
                "its low": log_low,
                "its high": log_high,
                "sizes": evidence.num_sizes,
            }
        )
    return pd.DataFrame(rows)


def above_ten_billion(context: Context) -> list[str]:
    """What is known of sizes beyond ten billion parameters, by both counts, and what the line says there."""
    sizes = context.gains.sizes
    beyond = [size for size in sizes if size.num_non_embedding_parameters > MANY_PARAMETERS]
    sentences = [_measured(context, size) for size in beyond]
    if not beyond:
        largest = sizes[-1]
        sentences.append(
            f"No size of this study has more than 10 billion parameters by both counts: {largest.name}, the "
            "largest, has "
            f"{billions(largest.num_parameters)} in all and {billions(largest.num_non_embedding_parameters)} without "
            "embeddings; what is above cannot be said from a measurement."
        )
    return sentences + _line_at_ten_billion(context)


def _measured(context: Context, size: SizeFacts) -> str:
    rows = context.groups[(context.groups["size"] == size.name) & (context.groups["group_kind"] == "headline")]
    parts = [
        f"{context.labels.get(row.arm, row.arm)} {points(row.gain)} (95 % interval {interval(row.low, row.high)})"
        for row in rows.itertuples()
    ]
    vanished = "none of them is shown to differ from 0" if not (rows["p"] < context.level).any() else ""
    named = [context.labels.get(row.arm, row.arm) for row in rows.itertuples() if row.p < context.level]
    tail = vanished or f"shown to differ from 0 at the two-sided level {context.level:g}: {listed(named)}"
    return f"At {size.name} ({billions(size.num_parameters)} parameters) gains are, in points: {listed(parts)}; {tail}."


def _line_at_ten_billion(context: Context) -> list[str]:
    table = context.predictions
    if not len(table):
        return []
    rows = table[
        (table["arm"] == ALL) & (table["group_kind"] == "headline") & (table["num_parameters"] == MANY_PARAMETERS)
    ]
    if not len(rows):
        return [
            "Ten billion parameters are more than half a decade past the largest size: the line is not drawn that far."
        ]
    row = rows.iloc[0]
    where = (
        "outside the sizes that were run (extrapolated)" if row["is_extrapolated"] else "between sizes that were run"
    )
    return [
        f"The line gives {points(row['gain'])} points at 10 billion parameters, {where}; a new size there is predicted "
        f"within {interval(row['prediction_low'], row['prediction_high'])} (95 % prediction interval)."
    ]


def _trend_of(context: Context, arm: str, key: GroupKey, name: str) -> Sequence[str]:
    evidence = context.trends.get((arm, key), NO_EVIDENCE)
    return trend_sentences(name, evidence, context.level, lambda: context.needed(arm, key))


def _sign(context: Context) -> list[str]:
    """Gains at the smallest and the largest size: a falling gain means something else where arms do harm."""
    heads = context.groups[context.groups["group_kind"] == "headline"]
    names = [size.name for size in context.gains.sizes]
    if len(names) < 2:
        return []
    means = heads.groupby("size")["gain"].mean()
    first, last = float(means.get(names[0], math.nan)), float(means.get(names[-1], math.nan))
    text = f"The mean gain over arms is {points(first)} points at {names[0]} and {points(last)} at {names[-1]}"
    if first < 0 or last < 0:
        return [f"{text}; where it is below 0 the arms do harm, and a falling gain there means more harm."]
    return [f"{text}."]


def _by_arm(context: Context) -> list[str]:
    if len(context.gains.arms) < 2:
        return []
    by_verdict: dict[str, list[str]] = {}
    for arm in context.gains.arms:
        found = trend(context.trends.get((arm, HEADLINE), NO_EVIDENCE), context.level)
        by_verdict.setdefault(found, []).append(context.labels[arm])
    parts = [f"{found}: {listed(arms)}" for found, arms in by_verdict.items()]
    return [f"By arm ({count(len(context.gains.arms), 'arm')}, not adjusted for their number), {'; '.join(parts)}."]


def _target_groups(context: Context) -> list[GroupKey]:
    return [key for key in dict.fromkeys(key for _, key in context.trends) if key.kind == "target group"]

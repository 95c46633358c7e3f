"""Does the gain diminish with size, and does it vanish above ten billion parameters."""

import math
from collections.abc import Sequence

import pandas as pd

from xlt_scale.scaling.analysis.answers.beyond import SIZES_TITLE, above_ten_billion, sizes_table
from xlt_scale.scaling.analysis.answers.context import Answered, Context, caveats, nothing_yet, seeds_sentence
from xlt_scale.scaling.analysis.answers.families import (
    DIFFERS,
    FAMILIES_TITLE,
    PARALLEL_TITLE,
    families_table,
    family_sentences,
    parallel_table,
    shared_name,
    sign_sentences,
    verdict,
    verdicts_by_family,
)
from xlt_scale.scaling.analysis.grouping import ALL, HEADLINE, GroupKey
from xlt_scale.scaling.analysis.verdicts import NO_EVIDENCE, trend_sentences
from xlt_scale.scaling.analysis.wording import count, listed, points
from xlt_scale.scaling.results import Answer


def answer(context: Context) -> Answered:
    """Verdict of the headline over all arms, then of each architecture family, target group and arm."""
    if not len(context.groups):
        return nothing_yet(context)
    shared = _trend_of(context, ALL, HEADLINE, shared_name(context))
    of_families = family_sentences(context)
    # A mean over families that differ must not be what is read first.
    parts = (of_families, shared) if verdict(context) == DIFFERS else (shared, of_families)
    sentences = [
        *parts[0],
        *parts[1],
        *(_sign(context) if len(context.families) < 2 else sign_sentences(context)),
        *above_ten_billion(context),
    ]
    for key in _target_groups(context):
        sentences += _of_target_group(context, key)
    sentences += _by_arm(context)
    sentences.append(seeds_sentence(context))
    tables = {
        FAMILIES_TITLE: families_table(context),
        PARALLEL_TITLE: parallel_table(context),
        "Does the gain change with size": verdict_table(context),
        SIZES_TITLE: sizes_table(context),
    }
    answered = Answer(verdict(context), tuple(sentences), caveats(context))
    return answered, {title: table for title, table in tables.items() if len(table.columns)}


def verdict_table(context: Context) -> pd.DataFrame:
    """A row per arm and group: verdict and both slopes; with several families those that they share."""
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
                "verdict": verdict(context, (arm, key)),
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


def _of_target_group(context: Context, key: GroupKey) -> Sequence[str]:
    name = f"Target group {key.group}"
    if verdict(context, (ALL, key)) == DIFFERS:
        return [f"{name}: the families' slopes differ, {verdicts_by_family(context, (ALL, key))}."]
    return _trend_of(context, ALL, key, name)[:1]


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
        found = verdict(context, (arm, HEADLINE))
        by_verdict.setdefault(found, []).append(context.labels[arm])
    parts = [f"{found}: {listed(arms)}" for found, arms in by_verdict.items()]
    return [f"By arm ({count(len(context.gains.arms), 'arm')}, not adjusted for their number), {'; '.join(parts)}."]


def _target_groups(context: Context) -> list[GroupKey]:
    return [key for key in dict.fromkeys(key for _, key in context.trends) if key.kind == "target group"]

"""Answers for several architecture families: one slope for all, each family alone, and whether slopes differ."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from xlt_scale.scaling.analysis.answers.context import Context
from xlt_scale.scaling.analysis.grouping import ALL, HEADLINE
from xlt_scale.scaling.analysis.multiplicity import adjust
from xlt_scale.scaling.analysis.sensitivity import Row
from xlt_scale.scaling.analysis.tables import SCALES
from xlt_scale.scaling.analysis.verdicts import NO_EVIDENCE, TrendEvidence, trend, trend_sentences
from xlt_scale.scaling.analysis.wording import billions, count, listed, p_value, points
from xlt_scale.scaling.statistics.effects import Estimate, Scale
from xlt_scale.scaling.statistics.family_fits import FamilyFit, Parallelism
from xlt_scale.scaling.statistics.seed_planning import POWER, minimum_detectable

FAMILIES_TITLE = "By architecture family"
PARALLEL_TITLE = "Do the families' slopes differ"

DIFFERS = "differs by family"

OVERALL: Row = (ALL, HEADLINE)


def shared_name(context: Context) -> str:
    """What the slope of all families together is called in sentences."""
    if len(context.families) < 2:
        return "Over all target groups and arms"
    return (
        "Over all target groups and arms, within architecture families (one slope, an intercept for each of "
        f"{listed(context.families)})"
    )


def verdict(context: Context, row: Row = OVERALL) -> str:
    """Of an arm and group: the shared slope's, unless families' slopes are shown to differ and so do their verdicts."""
    own = {trend(one, context.level) for one in context.of_families.get(row, {}).values()}
    if len(own) > 1 and _are_shown_to_differ(context.parallel.get(row, {}), context.level):
        return DIFFERS
    return trend(context.trends.get(row, NO_EVIDENCE), context.level)


def verdicts_by_family(context: Context, row: Row = OVERALL) -> str:
    """'diminishes: XLM-R and Qwen3; grows: Gemma 3'."""
    by_verdict: dict[str, list[str]] = {}
    for family, evidence in context.of_families.get(row, {}).items():
        by_verdict.setdefault(trend(evidence, context.level), []).append(family)
    return "; ".join(f"{found}: {listed(names)}" for found, names in by_verdict.items())


def family_sentences(context: Context) -> list[str]:
    """Whether slopes differ, then each family's own verdict; [] for one family."""
    if len(context.families) < 2:
        return []
    own = context.of_families.get(OVERALL, {})
    sentences = [*_parallel_sentences(context)]
    for family, evidence in own.items():
        name = f"{family} alone ({_range(context, family)})"
        sentences += trend_sentences(name, evidence, context.level, lambda: "")[:1]
    if len(own) > 1:
        said = verdicts_by_family(context)
        sentences.append(f"By family ({len(own)}, not adjusted for their number), {said}.")
    return sentences


def _parallel_sentences(context: Context) -> list[str]:
    tests = context.parallel.get(OVERALL, {})
    own = list(context.of_families.get(OVERALL, {}))
    if len(tests) < len(SCALES):
        having = f"{own[0]} alone has" if own else "no family has"
        return [f"Whether slopes differ between families cannot be asked: {having} two sizes that were run."]
    in_points, in_logs = (tests[scale] for scale in SCALES)
    numbers = f"{p_value(in_points.p)} in points, {p_value(in_logs.p)} on the log error ratio"
    if math.isnan(in_points.p) or math.isnan(in_logs.p):
        return ["Whether the families' slopes differ cannot be tested, because a size has a single run pair."]
    if _are_shown_to_differ(tests, context.level):
        apart = [
            f"{first} and {second} ({points(difference.value)})"
            for (first, second), difference, p in _pairs(in_points)
            if p < context.level
        ]
        pairs = (
            f"after Holm, the slopes in points differ of {listed(apart)}"
            if apart
            else "no two of them are told apart in points after Holm"
        )
        return [
            f"The families' slopes differ ({numbers}; {pairs}): the shared slope is a mean that need fit none of them, "
            "so read each family's own."
        ]
    return [
        f"That the families' slopes differ is not shown ({numbers}), which does not make them the same: "
        f"{_least_difference(in_points, context.level)}."
    ]


def _least_difference(test: Parallelism, level: float) -> str:
    """What the test could have shown."""
    found = {pair: minimum_detectable(one, level, 2) for pair, one in test.differences.items()}
    known = {pair: value for pair, value in found.items() if not math.isnan(value)}
    if not known:
        return "what difference it takes to be shown cannot be computed"
    (first, least), (last, most) = min(known.items(), key=_value), max(known.items(), key=_value)
    said = f"{least:.2f} ({listed(first)})"
    if len(known) > 1:
        said = f"{said} to {most:.2f} ({listed(last)})"
    return (
        f"the smallest difference between two families' slopes that this plan shows in {100 * POWER:.0f} % of "
        f"repetitions is {said} points per tenfold parameters"
    )


def _value(item: tuple[tuple[str, str], float]) -> float:
    return item[1]


def _are_shown_to_differ(tests: Mapping[Scale, Parallelism], level: float) -> bool:
    """On either scale: it is the claim that slopes are the same that has to stand on both."""
    return any(test.p < level for test in tests.values())


def _pairs(test: Parallelism) -> list[tuple[tuple[str, str], Estimate, float]]:
    """Pairs of families, the difference of their slopes, its p after Holm."""
    adjusted = adjust([one.p_value() for one in test.differences.values()], "holm")
    return [(pair, one, float(p)) for (pair, one), p in zip(test.differences.items(), adjusted, strict=True)]


def families_table(context: Context) -> pd.DataFrame:
    """The shared slope, then each family: sizes, verdict, slopes on both scales, its line at the reference size."""
    if len(context.families) < 2:
        return pd.DataFrame()
    line = context.lines.get(OVERALL)
    shared = context.trends.get(OVERALL, NO_EVIDENCE)
    rows = [_family_row(context, "all, one slope", shared, None)]
    if shared.points is not None:
        rows[0]["verdict"] = verdict(context)
    for family in context.families:
        evidence = context.of_families.get(OVERALL, {}).get(family, NO_EVIDENCE)
        is_in_line = isinstance(line, FamilyFit) and family in line.families
        rows.append(_family_row(context, family, evidence, line if is_in_line else None))
    return pd.DataFrame(rows)


def _family_row(context: Context, family: str, evidence: TrendEvidence, line: object) -> dict[str, object]:
    nothing, share = (math.nan, math.nan), f"{100 * (1 - 2 * context.level):g} %"
    slopes = (evidence.points, evidence.log_error)
    ends = [nothing if one is None else one.interval(1 - 2 * context.level) for one in slopes]
    values = [math.nan if one is None else one.value for one in slopes]
    intercept = line.intercept(family) if isinstance(line, FamilyFit) else None
    own = [size for size in context.gains.sizes if size.family == family] or context.gains.sizes
    return {
        "family": family,
        "sizes": len(own),
        "billions": " to ".join(dict.fromkeys(f"{size.num_parameters / 1e9:.3g}" for size in (own[0], own[-1]))),
        "verdict": "no slope" if evidence.points is None else trend(evidence, context.level),
        "slope, points per tenfold N": values[0],
        f"low, {share}": ends[0][0],
        f"high, {share}": ends[0][1],
        "slope of the log error ratio": values[1],
        f"its low, {share}": ends[1][0],
        f"its high, {share}": ends[1][1],
        "gain at N_ref by the shared slope": math.nan if intercept is None else intercept.value,
        "from, 95 %": math.nan if intercept is None else intercept.interval()[0],
        "to, 95 %": math.nan if intercept is None else intercept.interval()[1],
    }


def parallel_table(context: Context) -> pd.DataFrame:
    """A row per test that all slopes are the same, then one per pair of families: headline and target groups."""
    rows: list[dict[str, object]] = []
    for (arm, key), tests in context.parallel.items():
        for scale, test in tests.items():
            head = {
                "arm": context.labels.get(arm, arm),
                "group": "headline mean" if key == HEADLINE else key.group,
                "scale": scale,
            }
            of_all = {"families": "all", "F": test.statistic, "p": test.p, "degrees of freedom": _degrees(test)}
            if len(test.differences) > 1:
                rows.append({**head, **of_all})
            for (first, second), difference, p in _pairs(test):
                low, high = difference.interval()
                rows.append(
                    {
                        **head,
                        "families": f"{first} minus {second}",
                        "difference of slopes": difference.value,
                        "low, 95 %": low,
                        "high, 95 %": high,
                        "p": difference.p_value(),
                        "p (Holm)": p,
                        "detectable": minimum_detectable(difference, context.level, 2),
                    }
                )
    columns = ["arm", "group", "scale", "families", "difference of slopes", "low, 95 %", "high, 95 %", "p", "p (Holm)"]
    columns += ["detectable", "F", "degrees of freedom"]
    return pd.DataFrame(rows).reindex(columns=columns) if rows else pd.DataFrame()


def _degrees(test: Parallelism) -> str:
    above, below = test.degrees
    return "" if np.isnan(below) else f"{above:.0f} and {below:.1f}"


def sign_sentences(context: Context) -> list[str]:
    """The mean gain over arms at each family's smallest and largest size."""
    heads = context.groups[context.groups["group_kind"] == "headline"]
    means = heads.groupby("size")["gain"].mean()
    parts, is_harmful = [], False
    for family in context.families:
        names = [size.name for size in context.gains.sizes if size.family == family and size.name in means.index]
        if not names:
            continue
        is_harmful |= bool((means[names] < 0).any())
        ends = f"{points(float(means[names[0]]))} at {names[0]}"
        parts.append(ends if len(names) == 1 else f"{ends} and {points(float(means[names[-1]]))} at {names[-1]}")
    text = f"The mean gain over arms is, in points, {'; '.join(parts)}"
    harm = "; where it is below 0 the arms do harm, and a falling gain there means more harm" if is_harmful else ""
    return [f"{text}{harm}."]


def _range(context: Context, family: str) -> str:
    own = [size for size in context.gains.sizes if size.family == family]
    ends = f"{billions(own[0].num_parameters)} to {billions(own[-1].num_parameters)} parameters"
    return f"{count(len(own), 'size')}, {ends}"

"""From a study's results to everything that its report shows."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from xlt_scale.scaling.analysis.answers import ANSWERS, Context
from xlt_scale.scaling.analysis.collapse import collapse_table, collapsed_runs, find_collapsed
from xlt_scale.scaling.analysis.cost_of_gain import costs_table
from xlt_scale.scaling.analysis.detectability import power_table, what_it_takes
from xlt_scale.scaling.analysis.exploratory import CURVES_TITLE, curves_note, curves_table
from xlt_scale.scaling.analysis.gains import StudyGains
from xlt_scale.scaling.analysis.grouping import ALL, GroupKey
from xlt_scale.scaling.analysis.methods_text import methods
from xlt_scale.scaling.analysis.resampled import LANGUAGES_TITLE, RESAMPLED_TITLE, languages_table, resampled_table
from xlt_scale.scaling.analysis.sensitivity import draw_slopes, predictions_table, weights_by_size
from xlt_scale.scaling.analysis.tables import cell_positions, cells_table, groups_table
from xlt_scale.scaling.analysis.verdicts import TrendEvidence
from xlt_scale.scaling.analysis.wording import count, listed
from xlt_scale.scaling.results import Analysis, StudyResults

PREFERRED_RULE = "best"
"""The checkpoint rule of headline numbers, where records follow several: the best on the source language's dev set."""
LARGE_RATIO = 5.0
"""A target group whose gains are this many times those of the others is of another order."""

COLLAPSE_TITLE = "Headline with and without collapsed runs"


def analyse(results: StudyResults, *, num_draws: int = 2000, level: float = 0.05, seed: int = 0) -> Analysis:
    """All tables, the answer to the study's question, and how they were made.

    Args:
        num_draws: of permutation tests and of resampled intervals.
        level: of tests; one-sided in verdicts about trends. Intervals in tables are at 95 %.
        seed: of draws.
    """
    chosen, rule, notes = one_rule(results)
    found = find_collapsed(chosen.runs, [target.name for target in results.facts.targets if not target.trained])
    collapse = collapse_table(found)
    has_collapsed = bool(collapse["num_collapsed"].sum())
    gains = StudyGains(chosen, collapsed_runs(found))
    cells = cells_table(gains)
    positions = cell_positions(cells)
    groups = groups_table(gains, positions, num_draws, seed)
    sound = groups_table(gains, positions, 0, is_sound=True, kinds=("headline",)) if has_collapsed else groups
    drawn = draw_slopes(gains, has_collapsed)
    slopes, trends = drawn.table, drawn.trends
    predictions = predictions_table(gains, drawn.lines)
    in_general = languages_table(gains, cells, num_draws, seed)
    context = Context(
        gains=gains,
        level=level,
        num_draws=num_draws,
        seed=seed,
        cells=cells,
        groups=groups,
        slopes=slopes,
        predictions=predictions,
        collapse=collapse,
        trends=trends,
        lines=drawn.lines,
        of_families=drawn.of_families,
        parallel=drawn.parallel,
        needed=lambda arm, key: what_it_takes(trends.get((arm, key), TrendEvidence(None, None, 0)), level),
        in_general=in_general,
    )
    answer, extra = ANSWERS[results.facts.kind](context)
    if has_collapsed:
        extra = {**extra, COLLAPSE_TITLE: with_and_without(groups, sound)}
    checks = {
        RESAMPLED_TITLE: resampled_table(gains, drawn.lines, num_draws, seed),
        LANGUAGES_TITLE: in_general,
        CURVES_TITLE: curves_table(gains),
    }
    extra = {**extra, **{title: table for title, table in checks.items() if len(table)}}
    return Analysis(
        results=results,
        answer=answer,
        cells=cells,
        groups=groups,
        slopes=slopes,
        predictions=predictions,
        collapse=collapse,
        costs=costs_table(chosen, groups),
        power=power_table(drawn, groups, level),
        extra=extra,
        methods=methods(gains, cells, groups, slopes, num_draws, level),
        notes=(*notes, *_notes(gains, groups, trends)),
        options={"num_draws": num_draws, "level": level, "seed": seed, "rule": rule},
    )


def one_rule(results: StudyResults) -> tuple[StudyResults, str, tuple[str, ...]]:
    """The records of one checkpoint rule, its name, and what must be noted."""
    rules = sorted(set(results.runs["rule"]))
    if len(rules) < 2:
        return results, rules[0] if rules else "", ()
    rule = PREFERRED_RULE if PREFERRED_RULE in rules else rules[0]
    note = f"Records follow {count(len(rules), 'checkpoint rule')} ({listed(rules)}); all numbers are by {rule!r}."
    return replace(results, runs=results.runs[results.runs["rule"] == rule]), rule, (note,)


def with_and_without(groups: pd.DataFrame, sound: pd.DataFrame) -> pd.DataFrame:
    """Headline gains with all run pairs and without those of which either run collapsed, by size and arm."""
    columns = ["size", "arm", "gain", "low", "high", "num_pairs"]
    parts = [table.loc[table["group_kind"] == "headline", columns] for table in (groups, sound)]
    return parts[0].merge(parts[1], on=["size", "arm"], how="left", suffixes=("", " without"))


def _notes(
    gains: StudyGains, groups: pd.DataFrame, trends: Mapping[tuple[str, GroupKey], TrendEvidence]
) -> tuple[str, ...]:
    return (
        *_large_groups(groups),
        *_shrunken_lines(gains, trends),
        *_without_items(gains),
        *_left_out_pairs(gains),
        *_missing_runs(gains.results),
        *curves_note(gains),
    )


def _large_groups(groups: pd.DataFrame) -> list[str]:
    """Target groups whose gains are of another order than the others' (retrieval, most often)."""
    rows = groups[groups["group_kind"] == "target group"]
    typical = rows.assign(gain=rows["gain"].abs()).groupby("group", sort=False)["gain"].median()
    notes = []
    for name, value in typical.items():
        others = float(np.median(typical.drop(name))) if len(typical) > 1 else np.nan
        if value > LARGE_RATIO * others and value > 5.0:
            notes.append(
                f"Gains of target group {name} ({value:.1f} points) are of another order than those of the others "
                f"({others:.1f}); the headline, a mean over groups, is mostly theirs: read the groups apart."
            )
    return notes


def _shrunken_lines(gains: StudyGains, trends: Mapping[tuple[str, GroupKey], TrendEvidence]) -> list[str]:
    """Lines that use fewer cells than some size has, because another size lacks them."""
    notes = []
    for arm, key in trends:
        if arm == ALL or key.kind != "headline":
            continue
        weights = weights_by_size(gains, arm, key)
        own = {size.name: gains.members(size.name, arm, key) for size in gains.sizes}
        most = max((len(found.weights) for found in own.values() if found), default=0)
        used = len(next(iter(weights.values()))) if weights else 0
        if 0 < used < most:
            notes.append(f"The headline's line of {arm} uses {used} of {most} cells: other sizes lack the rest.")
        elif most and not used:
            notes.append(f"{arm} has no headline's line: no cell is there at all its sizes.")
        absent = [name for name, found in own.items() if found is None]
        if most and absent:
            notes.append(f"{arm} has no gain at {listed(absent)}; it is not in the lines of the mean over arms.")
    return notes


def _without_items(gains: StudyGains) -> list[str]:
    names = {
        unit.task
        for size in gains.sizes
        for arm in gains.arms
        for unit in gains.units(size.name, arm).values()
        if not unit.base_items
    }
    if not names:
        return []
    return [f"No outcomes item by item of {listed(sorted(names))} everywhere: intervals there cover seeds alone."]


def _left_out_pairs(gains: StudyGains) -> list[str]:
    number = sum(
        len(unit.left_out)
        for size in gains.sizes
        for arm in gains.arms
        for unit in gains.units(size.name, arm).values()
    )
    return [f"{count(number, 'run pair')} of a task left out, because some language is not scored."] if number else []


def _missing_runs(results: StudyResults) -> list[str]:
    if not len(results.missing):
        return []
    reasons = results.missing["why"].value_counts()
    return [f"{count(int(number), 'planned run')} without a record: {why}." for why, number in reasons.items()]

"""The whole grid of arms and targets: which arms help or hurt which tasks."""

import numpy as np
import pandas as pd

from xlt_scale.scaling.analysis.answers.context import (
    Answered,
    Context,
    caveats,
    change_with_size,
    nothing_yet,
    scope,
    seeds_sentence,
)
from xlt_scale.scaling.analysis.contrasts import mean_of_arms, sized_contrast
from xlt_scale.scaling.analysis.grouping import HEADLINE
from xlt_scale.scaling.analysis.multiplicity import num_tests
from xlt_scale.scaling.analysis.wording import count, interval, listed, points
from xlt_scale.scaling.results import Answer

SHARED_DATA = "shared data"


def answer(context: Context) -> Answered:
    """Counts after Holm over all tasks of the study, the benchmark mean of each arm, and the table."""
    if not len(context.groups):
        return nothing_yet(context)
    tasks = context.groups[context.groups["group_kind"] == "task"]
    tests = num_tests(tasks["p"].to_numpy(float))
    helps = tasks[(tasks["p_holm"] < context.level) & (tasks["gain"] > 0)]
    hurts = tasks[(tasks["p_holm"] < context.level) & (tasks["gain"] < 0)]
    adjusted = f"two-sided level {context.level:g}, Holm over {count(tests, 'test')}{scope(context)}"
    sentences = [
        f"Of {count(len(tasks), 'combination')} of size, arm and task, {len(helps)} gain, {len(hurts)} lose and "
        f"{len(tasks) - len(helps) - len(hurts)} are not shown to differ from 0 ({adjusted})."
        if tests
        else f"{count(len(tasks), 'combination')} of size, arm and task, of which none can be tested: it takes two run "
        "pairs each.",
        *_named(context, helps, "helps"),
        *_named(context, hurts, "hurts"),
        *_benchmark_means(context),
        *_change(context),
        seeds_sentence(context),
    ]
    exploratory = int((context.cells["p_bh"] < context.level).sum())
    single = (
        f"Of {count(num_tests(context.cells['p'].to_numpy(float)), 'single language cell')}, {exploratory} are told "
        "from 0 "
        f"at a false discovery rate of {context.level:g} (Benjamini-Hochberg); these are exploratory."
    )
    verdict = "cannot tell" if not tests else f"{len(helps)} help, {len(hurts)} hurt, of {len(tasks)}"
    extra = {f"Gains by arm and task, {size.name}": grid_table(context, size.name) for size in context.gains.sizes}
    extra["Arms and tasks that are shown to differ from 0"] = _counts(context, tasks)
    shown = (*sentences, single) if num_tests(context.cells["p"].to_numpy(float)) else tuple(sentences)
    return Answer(verdict, shown, caveats(context)), extra


def grid_table(context: Context, size: str) -> pd.DataFrame:
    """Arms in rows, tasks in columns: gain with * where it is shown to differ from 0 after Holm; then the "
    "benchmark mean."""
    here = context.groups[context.groups["size"] == size]
    cells = context.cells[context.cells["size"] == size]
    rows = []
    for arm in context.gains.arms:
        own = here[here["arm"] == arm]
        row = {"arm": context.labels[arm]}
        for task in dict.fromkeys(cells["task"]):
            found = own[(own["group_kind"] == "task") & (own["group"] == task)]
            if len(found):
                one = found.iloc[0]
                row[task] = f"{points(one['gain'])}{'*' if one['p_holm'] < context.level else ''}"
            else:
                is_shared = ((cells["arm"] == arm) & (cells["task"] == task) & (cells["same_data"] != "")).any()
                row[task] = SHARED_DATA if is_shared else "missing"
        head = own[own["group_kind"] == "headline"]
        row["mean over target groups"] = points(float(head["gain"].iloc[0])) if len(head) else "missing"
        rows.append(row)
    return pd.DataFrame(rows)


def _named(context: Context, rows: pd.DataFrame, verb: str) -> list[str]:
    """Which arm helps or hurts which tasks, over sizes; the fullest lists first."""
    if not len(rows):
        return []
    by_arm = {
        context.labels.get(str(arm), str(arm)): list(dict.fromkeys(own["group"]))
        for arm, own in rows.groupby("arm", sort=False)
    }
    parts = [f"{arm} {verb} {listed(tasks)}" for arm, tasks in sorted(by_arm.items(), key=lambda one: -len(one[1]))]
    return [f"At one size or more, {'; '.join(parts)}."]


def _benchmark_means(context: Context) -> list[str]:
    sentences = []
    for size in context.gains.sizes:
        rows = context.groups[(context.groups["size"] == size.name) & (context.groups["group_kind"] == "headline")]
        if not len(rows):
            continue
        best, worst = rows.loc[rows["gain"].idxmax()], rows.loc[rows["gain"].idxmin()]
        text = (
            f"At {size.name} the mean gain over target groups is highest with {context.labels[best['arm']]} "
            f"({points(best['gain'])} points, 95 % interval {interval(best['low'], best['high'])})"
        )
        if len(rows) > 1:
            text += (
                f" and lowest with {context.labels[worst['arm']]} ({points(worst['gain'])}, "
                f"{interval(worst['low'], worst['high'])}); extremes of {len(rows)} arms are partly chance"
            )
        sentences.append(f"{text}.")
    return sentences


def _change(context: Context) -> list[str]:
    weights = {
        size.name: mean_of_arms(context.gains, size.name, context.gains.arms, HEADLINE) for size in context.gains.sizes
    }
    return [change_with_size("the mean gain over arms", sized_contrast(context.gains, weights), context.level)]


def _counts(context: Context, tasks: pd.DataFrame) -> pd.DataFrame:
    """By size and arm: how many tasks gain, lose or are not shown to differ from 0."""
    rows = []
    for (size, arm), own in tasks.groupby(["size", "arm"], sort=False):
        is_told = (own["p_holm"] < context.level).to_numpy()
        signs = np.sign(own["gain"].to_numpy(float))
        rows.append(
            {
                "size": size,
                "arm": context.labels.get(str(arm), str(arm)),
                "tasks": len(own),
                "gain": int((is_told & (signs > 0)).sum()),
                "lose": int((is_told & (signs < 0)).sum()),
                "not shown to differ from 0": int((~is_told).sum()),
                "tests": num_tests(own["p"].to_numpy(float)),
            }
        )
    return pd.DataFrame(rows)

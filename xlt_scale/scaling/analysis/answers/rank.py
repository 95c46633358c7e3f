"""Which arms and groups of arms gain most: means, robust summaries, chances of being better, and best-of-k."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from xlt_scale.scaling.analysis.answers.best_of import best_of_table
from xlt_scale.scaling.analysis.answers.context import (
    Answered,
    Context,
    caveats,
    change_with_size,
    contrast_sentence,
    nothing_yet,
    scope,
    seeds_sentence,
)
from xlt_scale.scaling.analysis.contrasts import SizedContrast, mean_of_arms, sized_contrast, usable_cells
from xlt_scale.scaling.analysis.gains import StudyGains, blend
from xlt_scale.scaling.analysis.grouping import HEADLINE, CellId
from xlt_scale.scaling.analysis.multiplicity import adjust
from xlt_scale.scaling.analysis.wording import count, listed, points
from xlt_scale.scaling.results import Answer
from xlt_scale.scaling.statistics.aggregates import interquartile_mean
from xlt_scale.scaling.statistics.resampling import bootstrap


def answer(context: Context) -> Answered:
    """Groups of arms by mean gain; the first is called best where it is shown to differ from every other after Holm."""
    if not len(context.groups):
        return nothing_yet(context)
    groups = context.arm_groups
    contrasts = {name: _mean_gain(context, arms) for name, arms in groups.items()}
    ranked = sorted(
        (name for name, one in contrasts.items() if one.mean is not None),
        key=lambda name: -_value(contrasts[name]),
    )
    best_of = best_of_table(context)
    extra = {
        "Groups of arms by mean gain": _rank_table(context, groups),
        "Arms by mean gain": _rank_table(context, {context.labels[arm]: [arm] for arm in context.gains.arms}),
        "Robust summaries over tasks": robust_table(context),
        "Chance that one arm beats another": improvement_table(context),
        "Best of several arms, chosen and reported on different seeds": best_of,
    }
    extra = {title: table for title, table in extra.items() if len(table)}
    sentences = [contrast_sentence(f"Mean gain of {name}", contrasts[name], context.level) for name in ranked]
    verdict, opening = "cannot tell", "There is one group of arms only; a ranking takes two."
    if len(ranked) > 1:
        verdict, opening = _first_place(context, ranked)
        lead = _lead(context, ranked[0], ranked[1])
        sentences.append(change_with_size(f"the lead of {ranked[0]} over {ranked[1]}", lead, context.level))
    sentences += [*_common_cells(context), *_best_of_sentences(best_of), seeds_sentence(context)]
    chosen = "The first of several is first partly by chance (winner's curse): its gain will be lower when run again."
    return Answer(verdict, (opening, *sentences), (chosen, *caveats(context))), extra


def common_cells(gains: StudyGains, size: str) -> list[CellId]:
    """Cells that every arm has at a size without shared data; all cells where there are none."""
    by_arm = [usable_cells(gains, size, arm, HEADLINE) for arm in gains.arms if gains.units(size, arm)]
    if not by_arm:
        return []
    shared = [name for name in by_arm[0] if all(name in cells for cells in by_arm)]
    return shared or list(dict.fromkeys(name for cells in by_arm for name in cells))


def robust_table(context: Context) -> pd.DataFrame:
    """Median and interquartile mean over tasks of each arm's gains, with 95 % intervals from joint resampling.

    Interquartile mean: Agarwal et al. 2021, section 4.3.
    """
    rows = []
    for size in context.gains.sizes:
        cells = common_cells(context.gains, size.name)
        for arm in context.gains.arms:
            summaries = []
            for key in context.gains.group_keys([size.name], [arm]):
                if key.kind == "task":
                    weights = mean_of_arms(context.gains, size.name, [arm], key, cells)
                    summary = context.gains.summary(size.name, weights) if weights else None
                    summaries += [summary] if summary is not None else []
            if not summaries:
                continue
            draws = bootstrap([[(1.0, summary)] for summary in summaries], context.num_draws, context.seed)
            row: dict[str, object] = {"size": size.name, "arm": context.labels[arm], "tasks": len(summaries)}
            for name, summarise in (("median", np.median), ("interquartile mean", _interquartile_mean)):
                low, high = np.quantile(summarise(draws.draws, axis=1), [0.025, 0.975])
                row |= {name: float(summarise(draws.values, axis=0)), f"{name} low": low, f"{name} high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def improvement_table(context: Context) -> pd.DataFrame:
    """P(first > second) of a run pair on a task, mean over tasks, with 95 % intervals from resampled seeds.

    After Agarwal et al. 2021, section 4.3; runs of both arms are paired by their seeds. 0.5 = no difference.
    """
    rows = []
    rng = context.rng()
    for size in context.gains.sizes:
        arms = [arm for arm in context.gains.arms if context.gains.units(size.name, arm)]
        for place, first in enumerate(arms):
            for second in arms[place + 1 :]:
                shares = _win_shares(context, size.name, first, second)
                if shares is None:
                    continue
                num_seeds = shares.shape[1]
                drawn = rng.integers(0, num_seeds, (context.num_draws, num_seeds))
                low, high = np.quantile(shares.mean(axis=0)[drawn].mean(axis=1), [0.025, 0.975])
                is_single = num_seeds < 2
                rows.append(
                    {
                        "size": size.name,
                        "first": context.labels[first],
                        "second": context.labels[second],
                        "P(first > second)": float(shares.mean()),
                        "low": np.nan if is_single else low,
                        "high": np.nan if is_single else high,
                        "tasks": shares.shape[0],
                        "intermediate seeds": num_seeds,
                    }
                )
    return pd.DataFrame(rows)


def _win_shares(context: Context, size: str, first: str, second: str) -> np.ndarray | None:
    """Share of target seeds in which the first arm is better, float64 [tasks, intermediate seeds]; None without any.

    Seeds that some task lacks are left out.
    """
    units = context.gains.units(size, first), context.gains.units(size, second)
    cells = set(common_cells(context.gains, size))
    by_task: list[dict[int, list[float]]] = []
    for name in units[0]:
        if name not in units[1]:
            continue
        one, other = units[0][name], units[1][name]
        languages = [code for code in one.languages if (*name, code) in cells and code in other.languages]
        if not languages:
            continue
        pairs = [pair for pair in one.pairs if pair in other.pairs]
        scores = [
            unit.with_arm[np.ix_([unit.pairs.index(p) for p in pairs], [unit.languages.index(c) for c in languages])]
            for unit in (one, other)
        ]
        difference = (scores[0] - scores[1]).mean(axis=1)
        wins: dict[int, list[float]] = {}
        for pair, value in zip(pairs, difference, strict=True):
            wins.setdefault(pair[0], []).append(float(value > 0) + 0.5 * float(value == 0))
        by_task.append(wins)
    seeds = sorted(set.intersection(*(set(wins) for wins in by_task))) if by_task else []
    if not seeds:
        return None
    return np.array([[np.mean(wins[seed]) for seed in seeds] for wins in by_task])


def _mean_gain(context: Context, arms: Sequence[str]) -> SizedContrast:
    weights = {
        size.name: mean_of_arms(context.gains, size.name, arms, HEADLINE, common_cells(context.gains, size.name))
        for size in context.gains.sizes
    }
    return sized_contrast(context.gains, weights)


def _lead(context: Context, first: str, second: str) -> SizedContrast:
    groups, gains = context.arm_groups, context.gains
    weights = {}
    for size in gains.sizes:
        cells = common_cells(gains, size.name)
        parts = [mean_of_arms(gains, size.name, groups[name], HEADLINE, cells) for name in (first, second)]
        weights[size.name] = blend([(1.0, parts[0]), (-1.0, parts[1])]) if all(parts) else {}
    return sized_contrast(gains, weights)


def _first_place(context: Context, ranked: Sequence[str]) -> tuple[str, str]:
    """Verdict and first sentence: is the first told from all others."""
    leads = [_lead(context, ranked[0], other).mean for other in ranked[1:]]
    adjusted = adjust([lead.p_value() if lead is not None else np.nan for lead in leads], "holm")
    tests = f"two-sided level {context.level:g}, Holm over {count(len(leads), 'comparison')}{scope(context)}"
    if all(p < context.level for p in adjusted):
        return f"{ranked[0]} best", f"{ranked[0]} gains most, and is shown to differ from every other group ({tests})."
    level_with = [name for name, p in zip(ranked[1:], adjusted, strict=True) if not p < context.level]
    return (
        "cannot tell",
        f"Which group gains most cannot be told: {ranked[0]} has the highest mean, but is not shown to differ from "
        f"{listed(level_with)} ({tests}).",
    )


def _rank_table(context: Context, groups: Mapping[str, list[str]]) -> pd.DataFrame:
    rows = []
    for name, arms in groups.items():
        contrast = _mean_gain(context, arms)
        estimates = dict(contrast.by_size)
        if contrast.mean is not None and len(estimates) > 1:
            estimates["mean over sizes"] = contrast.mean
        for size, estimate in estimates.items():
            low, high = estimate.interval()
            rows.append(
                {"size": size, "name": name, "arms": len(arms), "gain": estimate.value, "low": low, "high": high}
                | {"p": estimate.p_value(), "intermediate seeds": estimate.num_clusters}
            )
    table = pd.DataFrame(rows)
    if len(table):
        table.insert(0, "rank", table.groupby("size")["gain"].rank(ascending=False, method="min").astype(int))
        order = {size: place for place, size in enumerate(dict.fromkeys(table["size"]))}
        table = table.sort_values(["size", "rank"], key=lambda c: c.map(order) if c.name == "size" else c)
    return table.reset_index(drop=True)


def _common_cells(context: Context) -> list[str]:
    gains = context.gains
    for size in gains.sizes:
        cells = common_cells(gains, size.name)
        arms = [arm for arm in gains.arms if gains.units(size.name, arm)]
        if any(not set(cells) <= set(usable_cells(gains, size.name, arm, HEADLINE)) for arm in arms):
            return [
                f"At {size.name} no cell is usable for every arm, so each arm is averaged over its own cells and the "
                "ranks compare unlike things."
            ]
    return []


def _best_of_sentences(table: pd.DataFrame) -> list[str]:
    sentences = []
    for row in table[table["task"] == "mean over tasks"].itertuples() if len(table) else ():
        gain, honest = float(row.same_seeds), float(row.other_seeds)
        if np.isnan(honest):
            sentences.append(
                f"At {row.size} the best arm per task gains {points(gain)} points on the seeds that chose it; what "
                "it gains "
                "on others cannot be said with one seed; it takes a second intermediate seed."
            )
        else:
            sentences.append(
                f"At {row.size} the best of {row.arms} arms per task gains {points(gain)} points on the seeds that "
                "chose it "
                f"and {points(honest)} on seeds that did not; the difference is winner's curse."
            )
    return sentences


def _interquartile_mean(values: np.ndarray, axis: int) -> np.ndarray:
    return interquartile_mean(np.expand_dims(values, axis))


def _value(contrast: SizedContrast) -> float:
    return contrast.mean.value if contrast.mean is not None else -np.inf

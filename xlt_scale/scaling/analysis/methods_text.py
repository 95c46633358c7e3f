"""How the numbers were made, in paragraphs with this study's own counts."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from xlt_scale.scaling.analysis.collapse import (
    CHANCE_MARGIN,
    LOSS_SHARE,
    MIN_CELL_RUNS,
    NORMAL_MAD,
    SPREAD_LIMIT,
    SPREADS_BELOW,
)
from xlt_scale.scaling.analysis.contrasts import family_names
from xlt_scale.scaling.analysis.exploratory import num_different_sizes
from xlt_scale.scaling.analysis.gains import StudyGains
from xlt_scale.scaling.analysis.multiplicity import num_tests
from xlt_scale.scaling.analysis.verdicts import EQUIVALENCE_MARGIN
from xlt_scale.scaling.analysis.wording import billions, count, listed
from xlt_scale.scaling.results import StudyFacts
from xlt_scale.scaling.statistics.coverage import coverage_line, nearest_design
from xlt_scale.scaling.statistics.exploratory_fits import MIN_SIZES_POWER_LAW


def methods(
    gains: StudyGains, cells: pd.DataFrame, groups: pd.DataFrame, slopes: pd.DataFrame, num_draws: int, level: float
) -> tuple[str, ...]:
    """Paragraphs: material, estimates, intervals, their coverage, lines over sizes, tests, runs left out."""
    return (
        _material(gains, cells),
        _estimates(groups),
        _intervals(groups, num_draws),
        _coverage(gains.results.facts),
        _lines(gains, slopes, level),
        _tests(cells, groups, num_draws, level),
        _collapse(),
    )


def _material(gains: StudyGains, cells: pd.DataFrame) -> str:
    facts, runs = gains.results.facts, gains.results.runs
    sizes = _sizes(gains)
    planned = sum(len(pairs) for pairs in facts.seeds.values())
    items = items_per_cell(gains)
    said = "no outcomes item by item"
    if items:
        numbers = f"{items[0]}" if items[0] == items[1] else f"{items[0]} to {items[1]}"
        said = f"{numbers} test items per task and language"
    return (
        f"{count(len(gains.sizes), 'size')}{sizes}. {count(len(gains.arms), 'arm')} beside the baseline "
        f"{facts.baseline!r}, {count(len(set(cells['target'])), 'target')} with "
        f"{count(len(set(cells['task'])), 'scored task')}, "
        f"{count(len(set(cells['language'])), 'language')}, {said}. {count(runs['record'].nunique(), 'record')}; "
        "planned were "
        f"{count(planned, 'pair')} of intermediate and target seed over all sizes; "
        f"{count(len(gains.results.missing), 'planned run')} without a record. Parameters are counted without "
        "pooler and heads."
    )


def _sizes(gains: StudyGains) -> str:
    """Names with parameters, by family where there are several."""
    families = family_names(gains)
    parts = []
    for family in families:
        own = [size for size in gains.sizes if size.family == family]
        names = listed([f"{size.name} ({billions(size.num_parameters)} parameters)" for size in own])
        parts.append(f"{family}: {names}" if len(families) > 1 else names)
    if len(families) < 2:
        return f": {'; '.join(parts)}"
    return f" in {len(families)} architecture families. {'; '.join(parts)}"


def items_per_cell(gains: StudyGains) -> tuple[int, int] | None:
    """Fewest and most test items of a task and language; None where no outcomes item by item are there."""
    numbers = {
        values.shape[1]
        for size in gains.sizes
        for arm in gains.arms
        for unit in gains.units(size.name, arm).values()
        for values in unit.base_items
    }
    return (min(numbers), max(numbers)) if numbers else None


def _estimates(groups: pd.DataFrame) -> str:
    excluded = int(groups.loc[groups["group_kind"] == "headline", "num_excluded"].sum())
    return (
        "A gain is the score with the arm minus the score of the baseline with the same size, target and seeds, in "
        "points. "
        "Group means are over languages within a task, then over tasks within a target group, then over target groups; "
        "languages that the target was trained in are left out wherever others remain. Every intermediate seed counts "
        f"alike. Cells whose arm and target share data are left out of means ({count(excluded, 'cell')} over all "
        "sizes and "
        "arms). The log error ratio is log(100 - score with the arm) - log(100 - score of the baseline), errors of "
        "at least "
        "half an item; a gain that only follows the room that is left leaves it unchanged."
    )


def _intervals(groups: pd.DataFrame, num_draws: int) -> str:
    numbers = sorted(set(groups["num_intermediate_seeds"].astype(int)))
    seeds = "no" if not numbers else str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return (
        f"Standard errors add the spread over intermediate seeds ({seeds} per size and arm, each with its target "
        "seeds inside) and that over test items, which are taken jointly over arms and sizes, and over languages where "
        "test sets are parallel, as the multi-bootstrap does (Sellam et al. 2021, arXiv 2106.16163). Intervals are "
        "Student's t with Satterthwaite's (1946) degrees of freedom, widened where seeds are few, at 95 % unless said "
        "otherwise. Medians, interquartile means and chances of improvement (Agarwal et al. 2021) have intervals from "
        f"{num_draws} draws. Beside the t intervals of headline and target groups, and of the headline's slopes, stand "
        f"percentile and studentised intervals from {num_draws} joint draws of seeds and items (Davison and Hinkley "
        "1997); percentile intervals are too narrow with few intermediate seeds, studentised ones have no end where "
        "too many draws hold a single one. For languages in general the variance that language families, drawn with "
        "replacement, bring into the headline is added; the branches of Indo-European are one family."
    )


def most_common_plan(facts: StudyFacts) -> tuple[int, int] | None:
    """Intermediate seeds, and target seeds within each, that most sizes plan (of several the smallest); None without
    a plan. Where intermediate seeds have unequal numbers of target seeds, the fewest count."""
    plans = []
    for pairs in facts.seeds.values():
        within = Counter(intermediate for intermediate, _ in set(pairs))
        if within:
            plans.append((len(within), min(within.values())))
    counts = Counter(plans)
    return min(counts, key=lambda plan: (-counts[plan], plan)) if counts else None


def _coverage(facts: StudyFacts) -> str:
    plan = most_common_plan(facts)
    if plan is None:
        return "No seeds are planned, so nothing is known of how often intervals hold the truth."
    worth = ""
    if plan[0] == 1:
        worth = (
            " With one intermediate seed intervals under-cover, of gains and slopes alike: they do not know how "
            "intermediate checkpoints differ."
        )
    elif plan[0] == 2 and nearest_design(*plan) is None:
        worth = " With two intermediate seeds intervals of gains must be taken to under-cover."
    elif plan[0] == 2:
        worth = " With two intermediate seeds intervals of gains under-cover, while those of slopes are wide enough."
    sizes = "all sizes" if len({len(pairs) for pairs in facts.seeds.values()}) == 1 else "most sizes"
    return (
        f"The plan of {sizes} has {count(plan[0], 'intermediate seed')} with {count(plan[1], 'target seed')} each. "
        f"{coverage_line(*plan)}{worth} Those simulations have four sizes, one arm and a parallel task of 600 items in "
        "five languages; runs that are missing leave a study with fewer seeds than its plan."
    )


def _lines(gains: StudyGains, slopes: pd.DataFrame, level: float) -> str:
    if not len(slopes):
        return "No line over sizes is drawn: it takes two sizes that share an arm and a target."
    checks = [name for name in dict.fromkeys(slopes["variant"]) if name != "primary"]
    sizes = count(len(gains.sizes), "size")
    richer = f"{sizes} allow no richer curve"
    if num_different_sizes(gains) >= MIN_SIZES_POWER_LAW:
        richer = f"with {sizes}, richer curves of the error are shown as exploratory, and no claim rests on them"
    families = family_names(gains)
    if len(families) > 1:
        left = [f"without {size.name}" for size in gains.sizes]
        checks = [*(name for name in checks if name not in left), "without each size in turn"]
    return (
        f"{_model(families)}, weighted least squares with 1 / variance, N all parameters of "
        f"the encoder; {richer}. Checks: {listed(checks)}. A line uses only cells that all its sizes have. "
        "'Diminishes' means that the one-sided upper bound of b in points is below 0 and the lower bound of the "
        f"slope of the log error ratio above 0, both at the one-sided level {level:g}; 'no change' that the "
        f"{100 * (1 - 2 * level):g} % interval of b lies within {EQUIVALENCE_MARGIN:g} point per tenfold parameters. "
        "Intervals of b hold measurement error of these sizes; that other sizes may lie off the line is in the "
        f"prediction intervals.{_parallel(families, level)}"
    )


def _model(families: Sequence[str]) -> str:
    if len(families) < 2:
        return "Lines: gain = a + b log10(N / N_reference)"
    return (
        "Lines: gain = a_family + b log10(N / N_reference), an intercept for each architecture family and one slope, "
        "which rests on differences within families alone (analysis of covariance)"
    )


def _parallel(families: Sequence[str], level: float) -> str:
    if len(families) < 2:
        return ""
    return (
        " 'FAMILY alone' is the line that a study of that family would have. Whether slopes differ between families "
        f"is tested two-sided at {level:g}: of two by the t test of their difference, of more by the Welch-James test "
        "(Johansen 1980), which takes seeds' variances as they are at each size; pairs are adjusted by Holm. Where "
        "slopes are shown to differ and families' verdicts differ, the verdict is that it differs by family. 'Families "
        "pooled' has one intercept for all and takes differences between families for an effect of size: no claim "
        "rests on it."
    )


def _tests(cells: pd.DataFrame, groups: pd.DataFrame, num_draws: int, level: float) -> str:
    planned = num_tests(groups.loc[groups["group_kind"] == "task", "p"].to_numpy(float))
    explored = num_tests(cells["p"].to_numpy(float))
    return (
        f"Holm's adjustment (1979) is over the {count(planned, 'planned test')} (every size, arm and task); "
        "Benjamini and "
        f"Hochberg's (1995) over the {count(explored, 'exploratory test')} (every size, arm, task and language). "
        "Both at "
        f"{level:g}. Permutation p values flip signs over seeds and over items ({num_draws} draws); they are given for "
        "headline, target groups and tasks. Slopes are not adjusted for the number of arms and groups."
    )


def _collapse() -> str:
    return (
        f"A run counts as collapsed when its score is within {CHANCE_MARGIN:g} points of chance in the languages it "
        "was trained in (not where nothing was trained, as in retrieval: there it is a floor), when its training loss "
        f"ends at {100 * LOSS_SHARE:g} % of its start or more, or, in a cell of {MIN_CELL_RUNS} runs or more, when it "
        f"is more than {SPREAD_LIMIT:g} points below the cell's median and below it by more than {SPREADS_BELOW:g} "
        f"times the spread of the cell's other runs ({NORMAL_MAD:g} times their median absolute deviation). Collapsed "
        "runs stay in all numbers; beside them stand the numbers without the run pairs of which either run collapsed."
    )

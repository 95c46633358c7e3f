"""What every kind of question is answered from, and what every answer must say beside its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xlt_scale.scaling.analysis.contrasts import Line, SizedContrast, family_names
from xlt_scale.scaling.analysis.gains import StudyGains
from xlt_scale.scaling.analysis.grouping import ALL, GroupKey
from xlt_scale.scaling.analysis.kept_numbers import number_caveats
from xlt_scale.scaling.analysis.sensitivity import Row
from xlt_scale.scaling.analysis.trained_parts import adapter_caveats
from xlt_scale.scaling.analysis.verdicts import TrendEvidence
from xlt_scale.scaling.analysis.wording import count, interval, listed, p_value, points, with_interval
from xlt_scale.scaling.results import Answer, StudyFacts
from xlt_scale.scaling.statistics.effects import Estimate, Scale
from xlt_scale.scaling.statistics.family_fits import Parallelism


@dataclass(frozen=True)
class Context:
    """A study's tables as far as they are done.

    Attributes:
        level: of tests; one-sided in verdicts about trends.
        cells, groups, slopes, predictions, collapse: as in `Analysis`.
        trends: slopes of an arm ('all' = their mean) and group.
        lines, of_families, parallel: as in `Slopes`.
        needed: what would make a trend tellable, in a sentence.
        in_general: the headline for these languages and for languages in general (`languages_table`).
        num_draws: of resampling.
    """

    gains: StudyGains
    level: float
    num_draws: int
    seed: int
    cells: pd.DataFrame
    groups: pd.DataFrame
    slopes: pd.DataFrame
    predictions: pd.DataFrame
    collapse: pd.DataFrame
    trends: Mapping[Row, TrendEvidence]
    lines: Mapping[Row, Line]
    of_families: Mapping[Row, Mapping[str, TrendEvidence]]
    parallel: Mapping[Row, Mapping[Scale, Parallelism]]
    needed: Callable[[str, GroupKey], str]
    in_general: pd.DataFrame

    @property
    def facts(self) -> StudyFacts:
        return self.gains.results.facts

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of arms."""
        return {arm.name: arm.label or arm.name for arm in self.facts.arms}

    @property
    def families(self) -> list[str]:
        """Architecture families of the sizes with gains."""
        return family_names(self.gains)

    @property
    def arm_groups(self) -> Mapping[str, list[str]]:
        """Arms that have gains, by their group; an arm without a group is one of its own."""
        found: dict[str, list[str]] = {}
        for arm in self.facts.arms:
            if arm.name in self.gains.arms:
                found.setdefault(arm.group or arm.name, []).append(arm.name)
        return found

    def rng(self) -> np.random.Generator:
        """A generator of its own for each use, so that no answer depends on which other came first."""
        return np.random.default_rng(self.seed)


MOST_SIZES_SAID = 4
"""Of more sizes a sentence names the smallest and the largest."""

Answered = tuple[Answer, dict[str, pd.DataFrame]]


def nothing_yet(context: Context) -> Answered:
    """The answer while no arm has a gain."""
    baseline = context.labels.get(context.facts.baseline, context.facts.baseline)
    return (
        Answer(
            "cannot tell",
            (
                "Nothing can be said yet: no arm has a run with the same size, target and seeds as one of "
                f"{baseline!r}.",
                "It takes at least one run pair, and at least two intermediate seeds for an interval that covers "
                "seeds.",
            ),
            (),
        ),
        {},
    )


def change_with_size(name: str, contrast: SizedContrast, level: float) -> str:
    """One sentence: how a contrast changes with size."""
    slope = contrast.slope
    if slope is None and contrast.num_families > 1:
        return f"Whether {name} changes with size cannot be said: no architecture family has two sizes."
    if slope is None:
        return f"Whether {name} changes with size cannot be said from one size; a second size would show it."
    p = slope.p_value()
    low, high = slope.interval(1 - level)
    within = f" of {contrast.num_families} families, one slope within them" if contrast.num_families > 1 else ""
    numbers = (
        f"{points(slope.value)} points per tenfold parameters ({100 * (1 - level):g} % interval {interval(low, high)}, "
        f"{len(contrast.by_size)} sizes{within}, {p_value(p)})"
    )
    if np.isnan(p):
        return f"How {name} changes with size cannot be tested, because a size has a single run pair: {numbers}."
    if p < level:
        return f"With size, {name} {'grows' if slope.value > 0 else 'falls'}: {numbers}."
    return f"That {name} changes with size is not shown: {numbers}."


def is_shown(estimate: Estimate, level: float) -> bool:
    """Whether a two-sided test at that level tells the estimate from 0; never where it cannot be tested."""
    return bool(estimate.p_value() < level)


def contrast_sentence(name: str, contrast: SizedContrast, level: float) -> str:
    """Value, interval, p, seeds of a contrast's mean over sizes."""
    mean = contrast.mean
    if mean is None:
        return f"{name}: cannot be said, no size has the runs for it."
    sizes = count(len(contrast.by_size), "size")
    seeds_of = f"at least {count(mean.num_clusters, 'intermediate seed')} per size, {count(mean.num_pairs, 'run pair')}"
    text = f"{name}: {with_interval(mean, 1 - level)}, {p_value(mean.p_value())}, mean over {sizes}, {seeds_of}"
    return f"{text}; a single run pair gives no test." if np.isnan(mean.p_value()) else f"{text}."


def scope(context: Context) -> str:
    """What a test speaks for, to stand behind its level: '' or the intermediate checkpoints at hand alone."""
    numbers = context.groups["num_intermediate_seeds"]
    is_single = len(numbers) > 0 and int(numbers.min()) < 2
    return "; with one intermediate seed, for these intermediate checkpoints alone" if is_single else ""


def seeds_sentence(context: Context) -> str:
    """How many intermediate seeds the numbers rest on, and what intervals from so few are worth."""
    numbers = sorted({int(number) for number in context.groups["num_intermediate_seeds"]})
    if not numbers:
        return "No run pair is complete."
    said = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    fewest = numbers[0]
    text = f"Numbers rest on {said} intermediate {'seed' if numbers == [1] else 'seeds'} per size and arm"
    if fewest == 1:
        pairs = int(context.groups["num_pairs"].min())
        missing = (
            "covers neither intermediate seeds nor target seeds, only the test items"
            if pairs == 1
            else "does not cover intermediate seeds, only target seeds and test items"
        )
        return f"{text}; an interval from a single intermediate seed {missing}, and is too narrow."
    if fewest == 2:
        return f"{text}; two intermediate seeds leave 1 degree of freedom, so intervals are wide and rest on little."
    return f"{text}."


def caveats(context: Context) -> tuple[str, ...]:
    """What a sceptical reader would ask whatever the question is."""
    found = [
        _languages(context),
        *_architecture(context),
        *adapter_caveats(context.facts, [size.name for size in context.gains.sizes]),
        *number_caveats(context.facts, [size.name for size in context.gains.sizes]),
        *_families(context),
        *_decoders(context),
        "Each size is one pre-trained checkpoint: what differs between checkpoints other than size counts as size "
        "here.",
        "The records do not say whether learning rates were tuned alike for the baseline and the arms; a rate that "
        "suits one side can make or hide a gain.",
        *_few_seeds(context),
        *_collapsed(context),
        *_missing(context),
        *_same_data(context),
        *_micro(context),
    ]
    return tuple(found)


def _languages(context: Context) -> str:
    """That the list is fixed, and what the headline's intervals become when it is not."""
    fixed = "The list of languages is fixed: intervals hold for these languages, not for languages at large"
    table = context.in_general
    arm = ALL if (table["arm"] == ALL).any() else next(iter(table["arm"]), "")
    rows = table[table["arm"] == arm]
    parts = [
        f"{interval(low, high)} at {size} (these languages: {interval(own_low, own_high)})"
        for size, low, high, own_low, own_high in rows[
            ["size", "low in general", "high in general", "low", "high"]
        ].itertuples(index=False)
        if not np.isnan(low)
    ]
    if not len(rows):
        return f"{fixed}."
    if not parts:
        return f"{fixed}; all are of one family, so nothing can be said of others."
    kept = parts if len(parts) <= MOST_SIZES_SAID else [parts[0], parts[-1]]
    of = "the mean gain over arms" if arm == ALL else "the mean gain"
    return f"{fixed}; resampling language families ({int(rows['families'].max())}): {of} within {listed(kept)}."


def _architecture(context: Context) -> list[str]:
    """Where layers are normalised at another place in some sizes of a family: no intercept takes that away."""
    found = []
    for family in context.families:
        own = [size for size in context.gains.sizes if size.family == family]
        post = [size.name for size in own if not size.is_pre_norm]
        pre = [size.name for size in own if size.is_pre_norm]
        if post and pre:
            within = f" within {family}" if len(context.families) > 1 else ""
            found.append(
                f"Size is mixed up with architecture{within}: {listed(post)} normalise after each block, {listed(pre)} "
                "before it; see the slopes within one architecture."
            )
    return found


def _families(context: Context) -> list[str]:
    families = context.families
    if len(families) < 2:
        return []
    single = [name for name in families if sum(size.family == name for size in context.gains.sizes) == 1]
    found = [
        f"The families ({listed(families)}) differ in pre-training data, tokenizer and objective: intercepts take up "
        "what that does to the level of the gain, not what it does to the slope. The shared slope is of these "
        "families, weighted by how exactly each is known, not of families at large."
    ]
    if single:
        verb, it = ("has", "it") if len(single) == 1 else ("have", "they")
        found.append(f"{listed(single)} {verb} a single size: {it} {verb} a gain, and no part in any slope.")
    return found


def _decoders(context: Context) -> list[str]:
    sizes = [size for size in context.gains.sizes if size.is_bidirectional_decoder]
    if not sizes:
        return []
    having = {size.family for size in sizes}
    families = [name for name in context.families if name in having]
    verb = "is a decoder" if len(sizes) == 1 else "are decoders"
    return [
        f"{count(len(sizes), 'size')} of {listed(families)} {verb} read in both directions, which pre-training did not "
        "practise: how well a size takes to that is part of its gain."
    ]


def _few_seeds(context: Context) -> list[str]:
    numbers = context.groups["num_intermediate_seeds"]
    if len(numbers) == 0 or numbers.min() >= 3:
        return []
    return [seeds_sentence(context)]


def _collapsed(context: Context) -> list[str]:
    table = context.collapse
    total, runs = int(table["num_collapsed"].sum()), int(table["num_runs"].sum())
    if not total:
        return []
    return [
        f"{total} of {count(runs, 'run')} collapsed (see the table); numbers in the text are with all runs, the table "
        "'Headline with and without collapsed runs' has both."
    ]


def _missing(context: Context) -> list[str]:
    missing = context.gains.results.missing
    if not len(missing):
        return []
    places = len(missing.drop_duplicates(["size", "arm", "target"]))
    return [
        f"{count(len(missing), 'planned run')} in {count(places, 'cell')} of the grid "
        f"{'is' if len(missing) == 1 else 'are'} missing; means are over what is there, and slopes over the cells "
        "that every size has."
    ]


def _same_data(context: Context) -> list[str]:
    flagged = context.cells[context.cells["same_data"] != ""]
    pairs = len(flagged.drop_duplicates(["arm", "target", "task"]))
    if not pairs:
        return []
    return [f"{count(pairs, 'pair')} of arm and task share data and are left out of means (see the table of cells)."]


def _micro(context: Context) -> list[str]:
    families = set(context.cells["language_family"])
    if any(str(family).startswith("micro") for family in families):
        return ["The languages are artificial: nothing here says anything about natural ones."]
    return []


def ordered(values: Sequence[str]) -> list[str]:
    """Without repetition, first come first."""
    return list(dict.fromkeys(values))

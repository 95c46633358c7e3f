"""How groups of arms differ: overall, by target group, by family of the language, and in their weakest languages."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from xlt_scale.scaling.analysis.answers.context import (
    Answered,
    Context,
    caveats,
    change_with_size,
    contrast_sentence,
    nothing_yet,
    ordered,
    scope,
    seeds_sentence,
)
from xlt_scale.scaling.analysis.contrasts import (
    SizedContrast,
    difference_of_arms,
    mean_of_arms,
    sized_contrast,
    usable_cells,
)
from xlt_scale.scaling.analysis.grouping import ALL, HEADLINE, GroupKey
from xlt_scale.scaling.analysis.multiplicity import adjust
from xlt_scale.scaling.analysis.wording import count, listed, points
from xlt_scale.scaling.results import Answer
from xlt_scale.tasks.languages import describe

OVER_SIZES = "mean over sizes"


def answer(context: Context) -> Answered:
    """Every two groups against each other; the verdict is of the overall differences after Holm."""
    if not len(context.groups):
        return nothing_yet(context)
    groups = context.arm_groups
    extra = {"Weakest language and spread over languages": robustness_table(context)}
    own_family = family_table(context)
    if len(own_family):
        extra["Gain on the intermediate language's family against other languages"] = own_family
    robust = _robustness_sentences(extra["Weakest language and spread over languages"])
    if len(groups) < 2:
        only = f"Groups cannot be compared: there is one group with gains ({listed(list(groups))}); it takes a second."
        return Answer("cannot tell", (only, *robust, seeds_sentence(context)), caveats(context)), extra
    pairs = list(combinations(groups, 2))
    overall = {pair: _difference(context, *pair, HEADLINE) for pair in pairs}
    adjusted = adjust([one.mean.p_value() if one.mean else np.nan for one in overall.values()], "holm")
    shown = {pair: p < context.level for pair, p in zip(pairs, adjusted, strict=True)}
    sentences = [_opening(context, overall, shown)]
    for (first, second), contrast in overall.items():
        name = f"{first} minus {second}, overall"
        sentences.append(contrast_sentence(name, contrast, context.level))
        if contrast.mean is not None:
            sentences.append(change_with_size(f"the difference of {first} and {second}", contrast, context.level))
    differences = difference_table(context, pairs)
    sentences += _where_it_differs(context, pairs, differences)
    extra = {"Differences between groups": differences, **extra}
    verdict = _verdict(overall, shown)
    return Answer(verdict, (*sentences, *robust, seeds_sentence(context)), caveats(context)), extra


def difference_table(context: Context, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Differences by scope and size, in points, with Holm over the rows of a scope's kind."""
    rows = []
    for first, second in pairs:
        for key in _scopes(context):
            contrast = _difference(context, first, second, key)
            estimates = dict(contrast.by_size)
            if contrast.mean is not None and len(contrast.by_size) > 1:
                estimates[OVER_SIZES] = contrast.mean
            for size, estimate in estimates.items():
                low, high = estimate.interval()
                rows.append(
                    {
                        "first": first,
                        "second": second,
                        "scope": key.kind,
                        "of": key.group,
                        "intermediate language of this family": _trained_in(context, (first, second), key),
                        "size": size,
                        "difference": estimate.value,
                        "low": low,
                        "high": high,
                        "p": estimate.p_value(),
                        "intermediate seeds": estimate.num_clusters,
                    }
                )
    table = pd.DataFrame(rows)
    if len(table):
        table.insert(table.columns.get_loc("p") + 1, "p_holm", np.nan)
        for _, part in table.groupby("scope"):
            table.loc[part.index, "p_holm"] = adjust(part["p"].to_numpy(float), "holm")
    return table


def family_table(context: Context) -> pd.DataFrame:
    """Mean gain on languages of the family that a group's arms were trained in, minus that on other languages."""
    rows = []
    for group, arms in context.arm_groups.items():
        weights = {size.name: _own_family_weights(context, size.name, arms) for size in context.gains.sizes}
        contrast = sized_contrast(context.gains, weights)
        for size, estimate in contrast.by_size.items():
            low, high = estimate.interval()
            rows.append(
                {"group": group, "size": size, "own family minus others": estimate.value, "low": low, "high": high}
                | {"p": estimate.p_value()}
            )
    return pd.DataFrame(rows)


def robustness_table(context: Context) -> pd.DataFrame:
    """By group and size: gain in the weakest language, and standard deviation of gains over languages."""
    rows = []
    for group, arms in context.arm_groups.items():
        by_language = _by_language(context, arms)
        for size in context.gains.sizes:
            here = {name: one.by_size[size.name] for name, one in by_language.items() if size.name in one.by_size}
            if not here:
                continue
            weakest = min(here, key=lambda name: here[name].value)
            low, high = here[weakest].interval()
            values = [estimate.value for estimate in here.values()]
            rows.append(
                {
                    "group": group,
                    "size": size.name,
                    "languages": len(here),
                    "mean": float(np.mean(values)),
                    "weakest language": weakest,
                    "its gain": here[weakest].value,
                    "low": low,
                    "high": high,
                    "spread over languages (SD)": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
                }
            )
    return pd.DataFrame(rows)


def _difference(context: Context, first: str, second: str, key: GroupKey) -> SizedContrast:
    groups = context.arm_groups
    weights = {
        size.name: difference_of_arms(context.gains, size.name, groups[first], groups[second], key)
        for size in context.gains.sizes
    }
    return sized_contrast(context.gains, weights)


def _scopes(context: Context) -> list[GroupKey]:
    return [
        key
        for key in context.gains.group_keys()
        if key.kind in ("headline", "target group") or (key.kind == "family" and key.task == ALL)
    ]


def _opening(
    context: Context, overall: Mapping[tuple[str, str], SizedContrast], shown: Mapping[tuple[str, str], bool]
) -> str:
    tests = f"two-sided level {context.level:g}, Holm over {count(len(overall), 'comparison')}{scope(context)}"
    better = []
    for (first, second), is_so in shown.items():
        mean = overall[first, second].mean
        if is_so and mean is not None:
            winner, other = (first, second) if mean.value > 0 else (second, first)
            better.append(f"{winner} gains more than {other} ({points(abs(mean.value))} points)")
    if better:
        return f"Overall, {listed(better)} ({tests})."
    return (
        f"Overall, no difference between groups of arms is shown ({tests}); that is not evidence that they are equal."
    )


def _verdict(overall: Mapping[tuple[str, str], SizedContrast], shown: Mapping[tuple[str, str], bool]) -> str:
    winners = []
    for pair, is_so in shown.items():
        mean = overall[pair].mean
        if is_so and mean is not None:
            winners.append(pair[0] if mean.value > 0 else pair[1])
    if not winners:
        return "cannot tell"
    return f"{listed(ordered(winners))} better" if len(set(winners)) == 1 else "groups differ"


def _where_it_differs(context: Context, pairs: Sequence[tuple[str, str]], table: pd.DataFrame) -> list[str]:
    """One sentence per pair and kind of scope: where the difference is shown after Holm within that kind."""
    sentences: list[str] = []
    if not len(table):
        return sentences
    several = (table["size"] == OVER_SIZES).any()
    for first, second in pairs:
        for kind, name in (("target group", "target group"), ("family", "language family")):
            rows = table[(table["first"] == first) & (table["second"] == second) & (table["scope"] == kind)]
            rows = rows[rows["size"] == OVER_SIZES] if several else rows
            if not len(rows):
                continue
            told = [f"{row.of} {points(row.difference)}" for row in rows.itertuples() if row.p_holm < context.level]
            text = (
                f"shown to differ from 0 after Holm: {listed(told)} points"
                if told
                else "none is shown to differ from 0 after Holm"
            )
            sentences.append(f"{first} minus {second} by {name} ({count(len(rows), 'value')}): {text}.")
    return sentences


def _robustness_sentences(table: pd.DataFrame) -> list[str]:
    sentences = []
    for size, rows in table.groupby("size", sort=False) if len(table) else ():
        parts = [
            f"{row.group}: {row._5} {points(row._6)}" + ("" if np.isnan(row._9) else f", spread {row._9:.2f}")
            for row in rows.itertuples()
        ]
        sentences.append(
            f"At {size} the weakest language and the spread over languages (SD, points) are, by group, "
            f"{'; '.join(parts)}; "
            "the weakest of several is low partly by chance."
        )
    return sentences


def _trained_in(context: Context, groups: Sequence[str], key: GroupKey) -> str:
    """Which of the groups have an arm trained in that family."""
    if key.kind != "family":
        return ""
    languages = {arm.name: arm.languages for arm in context.facts.arms}
    having = [
        group
        for group in groups
        if any(describe(code).family == key.group for arm in context.arm_groups[group] for code in languages[arm])
    ]
    return listed(having) if having else "no"


def _own_family_weights(
    context: Context, size: str, arms: Sequence[str]
) -> dict[tuple[str, tuple[str, str, str]], float]:
    """Mean over arms of (languages of the arm's family - other languages), zero-shot, over tasks that have both."""
    languages = {arm.name: arm.languages for arm in context.facts.arms}
    parts: list[dict[tuple[str, tuple[str, str, str]], float]] = []
    for arm in arms:
        families = {describe(code).family for code in languages[arm]}
        cells = usable_cells(context.gains, size, arm, HEADLINE)
        own = {name for name, cell in cells.items() if cell.family in families}
        both = {name[:2] for name in own} & {name[:2] for name in cells if name not in own}
        inside = {name for name in own if name[:2] in both}
        outside = {name for name in cells if name not in own and name[:2] in both}
        if inside and outside:
            weights = mean_of_arms(context.gains, size, [arm], HEADLINE, inside)
            for place, weight in mean_of_arms(context.gains, size, [arm], HEADLINE, outside).items():
                weights[place] = -weight
            parts.append(weights)
    return {place: weight / len(parts) for part in parts for place, weight in part.items()}


def _by_language(context: Context, arms: Sequence[str]) -> dict[str, SizedContrast]:
    gains = context.gains
    languages = ordered([cell.language for size in gains.sizes for arm in arms for cell in gains.cells(size.name, arm)])
    found = {}
    for language in languages:
        weights = {}
        for size in gains.sizes:
            cells = [name for arm in arms for name in usable_cells(gains, size.name, arm, HEADLINE)]
            weights[size.name] = mean_of_arms(
                gains, size.name, arms, HEADLINE, [name for name in cells if name[2] == language]
            )
        contrast = sized_contrast(gains, weights)
        if contrast.mean is not None:
            found[language] = contrast
    return found

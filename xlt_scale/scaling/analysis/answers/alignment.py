"""Whether gains are larger where the intermediate task and the target are of one group."""

import pandas as pd

from xlt_scale.scaling.analysis.answers.context import (
    Answered,
    Context,
    caveats,
    change_with_size,
    contrast_sentence,
    is_shown,
    nothing_yet,
    scope,
    seeds_sentence,
)
from xlt_scale.scaling.analysis.contrasts import SizedContrast, mean_of_arms, sized_contrast
from xlt_scale.scaling.analysis.gains import Place, StudyGains, blend
from xlt_scale.scaling.analysis.grouping import GroupKey
from xlt_scale.scaling.analysis.wording import count, listed, with_interval
from xlt_scale.scaling.results import Answer

PLAIN = "aligned minus not aligned"
WITHIN_TARGETS = "the same within target groups"


def answer(context: Context) -> Answered:
    """The plain difference of means is the verdict; the one within target groups is its check."""
    if not len(context.groups):
        return nothing_yet(context)
    names = ("aligned", "not aligned", PLAIN, WITHIN_TARGETS)
    by_size = {size.name: alignment_weights(context, size.name) for size in context.gains.sizes}
    contrasts = {
        name: sized_contrast(context.gains, {size: weights.get(name, {}) for size, weights in by_size.items()})
        for name in names
    }
    plain, within = contrasts[PLAIN], contrasts[WITHIN_TARGETS]
    extra = {"Gain where arm and target are of one group": _table(contrasts)}
    if plain.mean is None:
        return Answer("cannot tell", (_why_not(context), seeds_sentence(context)), caveats(context)), extra
    verdict = "cannot tell"
    opening = "Whether gains are larger where arm and target are of one group is not shown"
    if is_shown(plain.mean, context.level):
        verdict = "aligned better" if plain.mean.value > 0 else "aligned worse"
        more = "larger" if plain.mean.value > 0 else "smaller"
        opening = f"Gains are {more} where arm and target are of one group than elsewhere"
    sentences = [
        f"{opening} (two-sided level {context.level:g}{scope(context)}).",
        contrast_sentence("Aligned minus not aligned", plain, context.level),
        contrast_sentence(
            "Within target groups, which takes out that some targets gain more than others", within, context.level
        ),
    ]
    sentences += [
        f"At {size} the difference is {with_interval(estimate, 1 - context.level)}."
        for size, estimate in plain.by_size.items()
        if len(plain.by_size) > 1
    ]
    sentences.append(change_with_size("the advantage of aligned arms", plain, context.level))
    further = "An arm's group is not drawn by chance: aligned arms may differ from others in size of data or language."
    return Answer(verdict, (*sentences, seeds_sentence(context)), (further, *caveats(context))), extra


def alignment_weights(context: Context, size: str) -> dict[str, dict[Place, float]]:
    """Weights of the mean over aligned pairs of arm and target group, over others, and their differences.

    Every pair of arm and target group counts alike; within a pair means are nested as everywhere.
    """
    gains, of_arm = context.gains, {arm.name: arm.group for arm in context.facts.arms}
    aligned: dict[str, list[dict[Place, float]]] = {}
    others: dict[str, list[dict[Place, float]]] = {}
    for key in _target_groups(gains, size):
        for arm in gains.arms:
            weights = mean_of_arms(gains, size, [arm], key)
            if weights:
                (aligned if of_arm[arm] == key.group else others).setdefault(key.group, []).append(weights)
    if not aligned or not others:
        return {}
    plain_aligned = _mean([weights for found in aligned.values() for weights in found])
    plain_others = _mean([weights for found in others.values() for weights in found])
    both = [group for group in aligned if group in others]
    within = [blend([(1.0, _mean(aligned[group])), (-1.0, _mean(others[group]))]) for group in both]
    return {
        "aligned": plain_aligned,
        "not aligned": plain_others,
        PLAIN: blend([(1.0, plain_aligned), (-1.0, plain_others)]),
        WITHIN_TARGETS: _mean(within) if within else {},
    }


def _mean(parts: list[dict[Place, float]]) -> dict[Place, float]:
    return blend([(1 / len(parts), part) for part in parts])


def _target_groups(gains: StudyGains, size: str) -> list[GroupKey]:
    return [key for key in gains.group_keys([size]) if key.kind == "target group"]


def _why_not(context: Context) -> str:
    arms = sorted({arm.group for arm in context.facts.arms if arm.group})
    targets = sorted({target.group for target in context.facts.targets})
    return (
        f"Alignment cannot be judged: arms are of {count(len(arms), 'group')} ({listed(arms)}), targets of "
        f"{count(len(targets), 'group')} ({listed(targets)}), and at no size is there a usable pair of both kinds; "
        "it takes "
        "one arm whose group is a target's group and one whose group is not."
    )


def _table(contrasts: dict[str, SizedContrast]) -> pd.DataFrame:
    rows = []
    for name, contrast in contrasts.items():
        estimates = dict(contrast.by_size)
        if contrast.mean is not None and len(estimates) > 1:
            estimates["mean over sizes"] = contrast.mean
        for size, estimate in estimates.items():
            low, high = estimate.interval()
            rows.append(
                {"quantity": name, "size": size, "points": estimate.value, "low": low, "high": high}
                | {"p": estimate.p_value(), "intermediate seeds": estimate.num_clusters}
            )
    return pd.DataFrame(rows)

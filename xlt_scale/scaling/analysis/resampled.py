"""Intervals by resampling beside those by Student's t, and intervals for languages in general."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from xlt_scale.scaling.analysis.contrasts import Line
from xlt_scale.scaling.analysis.gains import Place, StudyGains, blend, one_arm
from xlt_scale.scaling.analysis.grouping import ALL, HEADLINE, GroupKey, group_keys
from xlt_scale.scaling.statistics.effects import Estimate, combine_sizes, quantile
from xlt_scale.scaling.statistics.resampling import Contrast, Draws, bootstrap, resample_families
from xlt_scale.tasks.languages import describe

RESAMPLED_TITLE = "Intervals by resampling, beside the t intervals"
LANGUAGES_TITLE = "Headline for these languages and for languages in general"

LANGUAGE_COLUMNS = ["size", "arm", "gain", "low", "high", "low in general", "high in general", "languages", "families"]

_ENDS = ("low", "high")
FURTHEST_ERRORS = 100.0
"""Standard errors: the end of an interval that is further away is no end."""

UNRELATED = ("isolate", "Creole")
"""Names of families whose languages are not of one descent."""


def resampled_table(
    gains: StudyGains, lines: Mapping[tuple[str, GroupKey], Line], num_draws: int, seed: int = 0
) -> pd.DataFrame:
    """Headline and target-group gains by size and arm, then the headline's slopes, with 95 % intervals of three kinds.

    All come from the same draws of seeds and items. Percentile intervals are too narrow with few intermediate seeds;
    studentised ones have no end where too many draws hold a single one.

    Args:
        lines: primary lines by arm and group, in points.
    """
    rows: list[dict[str, object]] = []
    contrasts: list[Contrast] = []
    for size in gains.sizes:
        for arm, key, weights in _rows_of(gains, size.name):
            summary = gains.summary(size.name, weights)
            if summary is not None:
                group = "overall" if key == HEADLINE else key.group
                rows.append({"quantity": "gain, points", "size": size.name, "arm": arm, "group": group})
                contrasts.append([(1.0, summary)])
    for arm in _arms_and_mean(gains):
        line = lines.get((arm, HEADLINE))
        if line is not None:
            slope = "slope, points per tenfold N"
            rows.append({"quantity": slope, "size": "", "arm": arm, "group": "overall"})
            contrasts.append(list(zip(line.slope_weights.tolist(), line.summaries, strict=True)))
    if not contrasts:
        return pd.DataFrame()
    draws = bootstrap(contrasts, num_draws, seed)
    by_t = np.array([combine_sizes(contrast).interval() for contrast in contrasts])
    kinds = {"t": by_t, "percentile": draws.percentile(), "studentised": _with_open_ends(draws)}
    ends = {f"{kind} {end}": ranges[:, place] for kind, ranges in kinds.items() for place, end in enumerate(_ENDS)}
    return pd.DataFrame(rows).assign(value=draws.values, **ends)


def _with_open_ends(draws: Draws) -> np.ndarray:
    """Studentised intervals, float64 [contrasts, 2]; ends too far off to say anything are infinite.

    Where too many draws hold a single intermediate seed, their own standard error is 0 but for rounding.
    """
    ends = draws.studentised()
    reach = np.abs(ends - draws.values[:, None])
    return np.where(reach > FURTHEST_ERRORS * draws.standard_errors[:, None], [-np.inf, np.inf], ends)


def languages_table(gains: StudyGains, cells: pd.DataFrame, num_draws: int, seed: int = 0) -> pd.DataFrame:
    """Headline by size and arm for the fixed list of languages, and for languages that might have been on it.

    The spread that families, drawn with replacement, bring into the mean is added to the variance of seeds and items
    (`interval_in_general`). nan where all languages are of one family.
    """
    columns = ["size", "arm", "target", "task", "language"]
    keys = cells[columns].itertuples(index=False, name=None)
    known = dict(zip(keys, cells["gain"].to_numpy(float), strict=True))
    rows = []
    for size in gains.sizes:
        for arm, key, weights in _rows_of(gains, size.name):
            summary = gains.summary(size.name, weights) if key == HEADLINE else None
            if summary is None:
                continue
            estimate = combine_sizes([(1.0, summary)])
            shares: dict[str, float] = {}
            sums: dict[str, float] = {}
            for (own, identity), weight in weights.items():
                language = identity[2]
                shares[language] = shares.get(language, 0.0) + weight
                sums[language] = sums.get(language, 0.0) + weight * known[(size.name, own, *identity)]
            families = [language_family(language) for language in shares]
            values = np.array([sums[language] / share for language, share in shares.items()])
            # Draws of 0: what remains is what the choice of families does to the mean.
            nothing = np.zeros((num_draws, len(values)))
            drawn = resample_families(nothing, values, families, np.array(list(shares.values())), seed)
            number = len(set(families))
            ends = (*estimate.interval(), *interval_in_general(estimate, float(drawn.var()), number))
            rows.append((size.name, arm, estimate.value, *ends, len(values), number))
    return pd.DataFrame(rows, columns=LANGUAGE_COLUMNS)


def interval_in_general(estimate: Estimate, family_variance: float, num_families: int) -> tuple[float, float]:
    """95 % interval with the variance between families added, Satterthwaite's degrees of freedom of both parts.

    Never narrower than the interval for the fixed list. nan with one family: nothing is known of others.
    """
    if num_families < 2:
        return math.nan, math.nan
    fixed, degrees = estimate.standard_error**2, estimate.degrees_of_freedom
    total = fixed + family_variance
    of_fixed = fixed**2 / degrees if math.isfinite(degrees) and degrees > 0 else 0.0
    doubt = of_fixed + family_variance**2 / (num_families - 1)
    joint = total**2 / doubt if doubt > 0 else math.inf
    reach = float(quantile(0.975, np.asarray(joint))) * math.sqrt(total)
    low, high = estimate.interval()
    return min(low, estimate.value - reach), max(high, estimate.value + reach)


def language_family(code: str) -> str:
    """What languages are resampled by: the branches of Indo-European are one family, unrelated languages one each."""
    family = describe(code).family
    if family.startswith(UNRELATED):
        return code
    return "IE" if family.startswith("IE ") else family


def _arms_and_mean(gains: StudyGains) -> list[str]:
    return [ALL, *gains.arms] if len(gains.arms) > 1 else list(gains.arms)


def _rows_of(gains: StudyGains, size: str) -> Iterator[tuple[str, GroupKey, dict[Place, float]]]:
    """Arm ('all' = the mean over arms that have a headline), group and weights of a size's rows."""
    found = [(arm, gains.members(size, arm, HEADLINE)) for arm in gains.arms]
    heads = [one_arm(arm, own) for arm, own in found if own is not None]
    if len(heads) > 1:
        yield ALL, HEADLINE, blend([(1 / len(heads), weights) for weights in heads])
    for arm in gains.arms:
        for key in group_keys(gains.cells(size, arm)):
            own = gains.members(size, arm, key) if key.kind in ("headline", "target group") else None
            if own is not None:
                yield arm, key, one_arm(arm, own)

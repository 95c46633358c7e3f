"""Checks beside the main numbers: resampled intervals, languages in general, richer curves, measured coverage."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from small_studies import ARMS, PAIRS, SIZES, log_decades, make_results

from xlt_scale.scaling.analysis.analysis import analyse
from xlt_scale.scaling.analysis.exploratory import CURVES_TITLE
from xlt_scale.scaling.analysis.methods_text import most_common_plan
from xlt_scale.scaling.analysis.resampled import (
    LANGUAGES_TITLE,
    RESAMPLED_TITLE,
    interval_in_general,
    language_family,
)
from xlt_scale.scaling.results import Analysis, SizeFacts
from xlt_scale.scaling.statistics.effects import Estimate

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def many_sizes(number: int) -> list[SizeFacts]:
    return [
        SizeFacts(f"s{place}", "xlm-r", False, 10 ** (7 + place // 2) * (1 + 2 * (place % 2)), 10 ** (6 + place))
        for place in range(number)
    ]


@pytest.fixture(scope="module")
def falling() -> Analysis:
    return analyse(make_results(lambda size, *_: 3.0 - log_decades(size)), num_draws=800)


class NoItems:
    """A study without outcomes item by item."""

    def values(self, records: Sequence[str], task: str, language: str) -> np.ndarray:
        raise KeyError(task)


def caveat_on_languages(analysis: Analysis) -> str:
    return next(one for one in analysis.answer.caveats if "list of languages is fixed" in one)


def test_resampled_intervals_stand_beside_those_by_t(falling: Analysis) -> None:
    table = falling.extra[RESAMPLED_TITLE]
    gains, slopes = table[table["size"] != ""], table[table["size"] == ""]
    assert len(gains) == 3 * (1 + 2 * 3)  # by size: the mean over arms, then headline and two groups of two arms
    assert list(slopes["arm"]) == ["all", "inference", "questions"]
    heads = falling.groups[falling.groups["group_kind"] == "headline"].set_index(["size", "arm"])
    own = gains[(gains["group"] == "overall") & (gains["arm"] != "all")].set_index(["size", "arm"])
    assert own["value"].to_numpy() == pytest.approx(heads.loc[own.index, "gain"].to_numpy())
    assert own["t low"].to_numpy() == pytest.approx(heads.loc[own.index, "low"].to_numpy())


def test_with_five_seeds_the_three_kinds_of_interval_are_alike(falling: Analysis) -> None:
    table = falling.extra[RESAMPLED_TITLE]
    widths = {kind: (table[f"{kind} high"] - table[f"{kind} low"]) for kind in ("t", "percentile", "studentised")}
    for kind in ("percentile", "studentised"):
        assert float((widths[kind] / widths["t"]).median()) == pytest.approx(1.0, abs=0.35)
    slope = table[(table["size"] == "") & (table["arm"] == "all")].iloc[0]
    assert slope["percentile low"] < -1.0 < slope["percentile high"]


def test_two_seeds_leave_studentised_intervals_an_end_or_none_but_no_absurd_one() -> None:
    found = analyse(make_results(2.0, pairs=PAIRS[:4]), num_draws=300)
    table = found.extra[RESAMPLED_TITLE]
    ends = table[["studentised low", "studentised high"]].to_numpy()
    assert not np.isnan(ends).any()
    assert np.isinf(ends).any() and np.abs(ends[np.isfinite(ends)]).max() < 1000


def test_without_any_spread_all_intervals_are_the_value() -> None:
    flat = make_results(2.0, seed_noise=0.0, sizes=SIZES[:2])
    flat = replace(flat, runs=flat.runs.assign(score=50.0))
    found = analyse(replace(flat, items=NoItems()), num_draws=30).extra
    values = found[RESAMPLED_TITLE].drop(columns=["quantity", "size", "arm", "group"]).to_numpy(float)
    assert np.abs(values).max() == 0.0
    assert np.abs(found[LANGUAGES_TITLE][["low", "high in general"]].to_numpy(float)).max() == 0.0


def test_where_families_differ_languages_in_general_have_wider_intervals() -> None:
    def gain(size: SizeFacts, arm: object, target: object, language: str) -> float:
        return 5.0 if language == "sw" else 1.0

    found = analyse(make_results(gain, languages=("en", "de", "hi", "sw", "tr")), num_draws=400)
    table = found.extra[LANGUAGES_TITLE]
    assert (table["languages"] == 4).all() and (table["families"] == 3).all()  # de and hi are Indo-European
    assert (table["high in general"] - table["low in general"] > 2 * (table["high"] - table["low"])).all()
    assert "resampling language families (3): the mean gain over arms within" in caveat_on_languages(found)


def test_where_languages_are_alike_the_interval_is_never_narrower(falling: Analysis) -> None:
    table = falling.extra[LANGUAGES_TITLE]
    assert (table["low in general"] <= table["low"]).all() and (table["high in general"] >= table["high"]).all()
    assert len(table) == 3 * 3


def test_one_family_says_nothing_of_others() -> None:
    found = analyse(make_results(2.0, languages=("en", "de", "hi"), sizes=SIZES[:1]), num_draws=50)
    assert found.extra[LANGUAGES_TITLE]["low in general"].isna().all()
    assert "all are of one family" in caveat_on_languages(found)


def test_the_interval_in_general_adds_variances_and_their_degrees_of_freedom() -> None:
    fixed = Estimate(1.0, 0.0, 0.01, 4.0, 5, 10)
    low, high = interval_in_general(fixed, 1.0, 3)
    assert (high - low) / 2 == pytest.approx(4.3 * np.sqrt(1.01), rel=0.03)  # Student's t with 2 degrees of freedom
    assert interval_in_general(fixed, 0.0, 3) == pytest.approx(fixed.interval())


def test_branches_of_indo_european_are_one_family_and_isolates_are_their_own() -> None:
    assert language_family("de") == language_family("hi") == language_family("ru")
    assert language_family("eu") == "eu" and language_family("ko") == "ko"
    assert language_family("qea") != language_family("qfa") or language_family("qea").startswith("micro")


@pytest.mark.parametrize(("number", "laws"), [(4, 0), (5, 1), (7, 2)])
def test_curves_are_drawn_where_sizes_allow_them(number: int, laws: int) -> None:
    sizes = many_sizes(number)
    base = {size.name: 100.0 - (10.0 + 40.0 * 10 ** (-0.3 * place)) for place, size in enumerate(sizes)}
    results = make_results(
        1.0, sizes=sizes, arms=ARMS[:2], pairs=PAIRS[:4], base=lambda size: base[size.name], seed_noise=0.01
    )
    found = analyse(results, num_draws=20)
    notes = " ".join(found.notes)
    if not laws:
        assert CURVES_TITLE not in found.extra
        assert "a power law takes at least five sizes, a broken law seven; this study has 4" in notes
        assert "4 sizes allow no richer curve" in " ".join(found.methods)
        return
    table = found.extra[CURVES_TITLE]
    assert table["curve"].nunique() == laws and len(table) == laws * 2
    assert ("broken law" in notes) == (laws == 1)
    fitted = table[(table["curve"] == "power law with a floor") & (table["of"] == "baseline")]
    assert (fitted["mean residual, points"] < 0.5).all()
    assert "no claim rests on them" in " ".join(found.methods)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([(0, 0), (0, 1), (0, 2)], ("1 x 3 seeds", "With one intermediate seed intervals under-cover")),
        ([(0, 0)], ("have not been tried", "With one intermediate seed intervals under-cover")),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], ("2 x 2 seeds", "intervals of gains under-cover")),
        ([(0, 0), (1, 0)], ("have not been tried", "must be taken to under-cover")),
        (PAIRS, ("5 intermediate seeds with 2 target seeds each", "95.4 % of cells")),
    ],
)
def test_methods_give_the_measured_coverage_of_the_plan(pairs: Sequence[tuple[int, int]], said: Sequence[str]) -> None:
    found = analyse(make_results(2.0, sizes=SIZES[:2], pairs=pairs), num_draws=20)
    text = " ".join(found.methods)
    assert all(one in text for one in said)


def test_the_most_common_plan_is_that_of_most_sizes() -> None:
    facts = make_results(1.0, pairs=[(0, 0)]).facts
    small, big = [(0, 0), (0, 1), (1, 0), (1, 1)], [(0, 0), (0, 1), (0, 2)]
    assert most_common_plan(replace(facts, seeds={"a": small, "b": big, "c": small})) == (2, 2)
    assert most_common_plan(replace(facts, seeds={"a": small, "b": big})) == (1, 3)
    assert most_common_plan(replace(facts, seeds={})) is None
    assert "No seeds are planned" in " ".join(
        analyse(replace(make_results(1.0, pairs=PAIRS[:2]), facts=replace(facts, seeds={})), num_draws=5).methods
    )

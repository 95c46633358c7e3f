"""Studies with sizes of several architecture families: what is said of size, and that families are not taken for it."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from small_families import GEMMA, QWEN, REMBERT, XLM_R, families_study
from small_studies import ARMS, LANGUAGES, TARGETS, TASKS

from xlt_scale.scaling.analysis.analysis import analyse
from xlt_scale.scaling.analysis.gains import StudyGains
from xlt_scale.scaling.analysis.sensitivity import draw_slopes, variants
from xlt_scale.scaling.results import Analysis, SizeFacts

FALLING = {"XLM-R": -1.0, "Qwen3": -1.0, "Gemma 3": -1.0, "RemBERT": 0.0}
LEVELS = {"XLM-R": 4.0, "Qwen3": 6.0, "Gemma 3": 5.0, "RemBERT": 2.0}
ENDS = (*XLM_R[::3], *QWEN[::3], *GEMMA[::2])
"""Two sizes of each family."""


def run(slopes: Mapping[str, float] = FALLING, levels: Mapping[str, float] = LEVELS, **options: Any) -> Analysis:
    small = {
        "sizes": ENDS,
        "arms": ARMS[:2],
        "targets": TARGETS[:1],
        "tasks": TASKS[:1],
        "languages": LANGUAGES[:2],
        "pairs": [(seed, 0) for seed in range(5)],
        "num_items": 30,
        "seed_noise": 0.1,
    }
    return analyse(families_study(levels, slopes, **{**small, **options}), num_draws=20)


@cache
def falling() -> Analysis:
    """Three families with one slope, and a family with one size."""
    return run(sizes=(*ENDS, REMBERT))


def text(analysis: Analysis) -> str:
    return " ".join(analysis.answer.sentences)


def headline(analysis: Analysis, variant: str, scale: str = "points") -> Any:
    table = analysis.slopes
    is_there = (table["arm"] == "all") & (table["group_kind"] == "headline")
    return table[is_there & (table["variant"] == variant) & (table["scale"] == scale)].iloc[0]


def test_the_headline_is_the_slope_that_families_share_with_an_intercept_for_each() -> None:
    found = falling()
    assert found.answer.verdict == "diminishes"
    assert "one slope, an intercept for each of XLM-R, Qwen3, Gemma 3 and RemBERT" in found.answer.sentences[0]
    assert "6 sizes in 3 families" in found.answer.sentences[1]
    primary = headline(found, "primary")
    assert primary["low"] < -1.0 < primary["high"]
    assert primary["family"] == "" and primary["intercept"] != primary["intercept"]  # nan: each family has its own


def test_levels_of_families_do_not_make_a_slope() -> None:
    sizes = tuple(
        SizeFacts(f"{family}-{number}", family, True, number, number // 2)
        for family, numbers in {"A": (10**8, 3 * 10**8), "B": (10**9, 3 * 10**9), "C": (10**10, 3 * 10**10)}.items()
        for number in numbers
    )
    found = run(dict.fromkeys("ABC", -1.0), {"A": 3.0, "B": 7.0, "C": 11.0}, sizes=sizes)
    assert headline(found, "families pooled (confounded)")["gain"] > 1.0
    primary = headline(found, "primary")
    assert primary["low"] < -1.0 < primary["high"] < 0.0
    assert found.answer.verdict == "diminishes"


def test_each_family_has_the_line_that_a_study_of_it_alone_has() -> None:
    options: dict[str, Any] = {"arms": ARMS[:2], "targets": TARGETS[:1], "tasks": TASKS[:1], "num_items": 20}
    several = families_study(LEVELS, FALLING, sizes=(*XLM_R, *QWEN[::3]), **options)
    alone = StudyGains(several)
    alone.sizes = [size for size in alone.sizes if size.family == "XLM-R"]
    both, one = (draw_slopes(gains, False).table for gains in (StudyGains(several), alone))
    keys = ["arm", "group_kind", "group", "scale"]
    own = both[both["variant"] == "XLM-R alone"].set_index(keys).drop(columns="variant")
    plain = one[one["variant"] == "primary"].set_index(keys).drop(columns="variant")
    assert len(own) and own.equals(plain.loc[own.index])


def test_slopes_that_are_not_shown_to_differ_come_with_what_could_have_been_shown() -> None:
    said = text(falling())
    assert "That the families' slopes differ is not shown" in said
    assert "the smallest difference between two families' slopes that this plan shows in 80 % of repetitions is" in said
    quantities = falling().power["quantity"].value_counts()
    assert quantities["minimum detectable difference of slopes"] == 3


def test_slopes_that_differ_are_not_hidden_behind_their_mean() -> None:
    found = run({**FALLING, "Qwen3": 1.0})
    assert found.answer.verdict == "differs by family"
    assert found.answer.sentences[0].startswith("The families' slopes differ")
    assert "At 10 billion parameters the families' lines" not in text(found)
    table = found.extra["Does the gain change with size"]
    assert set(table.loc[table["group kind"] == "headline", "verdict"]) == {"differs by family"}
    assert "diminishes: XLM-R and Gemma 3; grows: Qwen3" in text(found)
    assert "Qwen3 alone (2 sizes, 596 million to 32 billion parameters): the gain grows with size" in text(found)


def test_families_of_one_size_each_say_nothing_of_size() -> None:
    found = run(sizes=(XLM_R[1], QWEN[3], REMBERT))
    assert found.answer.verdict == "cannot tell"
    assert "no architecture family has two sizes" in found.answer.sentences[0]
    assert "cannot be asked: no family has two sizes" in text(found)


def test_every_size_above_ten_billion_is_named_by_the_counts_that_it_is_above_by() -> None:
    said = text(falling())
    assert (
        "more than 10 billion parameters, by both counts: qwen3-32b (Qwen3), gemma3-27b (Gemma 3); by all parameters "
        "and not without embeddings: xlmr-xxl (XLM-R); of RemBERT by neither count" in said
    )
    assert "There the mean gains over arms are" in said
    table = falling().extra["Sizes, and which have more than 10 billion parameters"].set_index("size")
    assert table["more than 10 billion"].to_dict() == {
        "xlmr-base": "no",
        "xlmr-xxl": "all parameters alone",
        "qwen3-0.6b": "no",
        "qwen3-32b": "both counts",
        "gemma3-270m": "no",
        "gemma3-27b": "both counts",
        "rembert": "no",
    }


def test_lines_at_ten_billion_are_the_families_own_and_end_with_their_sizes() -> None:
    said = text(falling())
    assert "At 10 billion parameters the families' lines" in said
    assert "more than half a decade past the largest size of RemBERT" in said
    table = falling().predictions
    ends = table[(table["arm"] == "all") & (table["group_kind"] == "headline")].groupby("family")["num_parameters"]
    assert ends.max()["XLM-R"] == round(XLM_R[3].num_parameters * 10**0.5)
    assert ends.max()["RemBERT"] == REMBERT.num_parameters


def test_families_are_compared_at_the_reference_size() -> None:
    table = falling().extra["By architecture family"].set_index("family")
    at_reference = table["gain at N_ref by the shared slope"]
    assert at_reference["Qwen3"] - at_reference["XLM-R"] == pytest.approx(2.0, abs=0.5)
    assert table.loc["RemBERT", "verdict"] == "no slope"


def test_caveats_name_norms_within_a_family_what_families_differ_in_and_decoders() -> None:
    caveats = " ".join(falling().answer.caveats)
    assert "Size is mixed up with architecture within XLM-R: xlmr-base normalise after each block" in caveats
    assert "differ in pre-training data, tokenizer and objective" in caveats
    assert "RemBERT has a single size" in caveats
    assert "4 sizes of Qwen3 and Gemma 3 are decoders read in both directions" in caveats


def test_checks_take_out_each_family_and_set_the_norms_apart() -> None:
    names = [one.name for one in variants((*XLM_R, *ENDS[2:], REMBERT), has_collapsed=False)]
    for name in ("XLM-R alone", "without Qwen3", "an intercept per norm", "families pooled (confounded)"):
        assert name in names
    assert "RemBERT alone" not in names and "without RemBERT" not in names
    norms = next(one for one in variants(XLM_R + QWEN, False) if one.name == "an intercept per norm")
    assert norms.ladders["xlmr-large"] != norms.ladders["xlmr-xl"] == "XLM-R, pre-norm"


def test_methods_say_that_the_slope_rests_on_differences_within_families() -> None:
    methods = " ".join(falling().methods)
    assert "7 sizes in 4 architecture families. XLM-R: xlmr-base (277 million parameters) and xlmr-xxl" in methods
    assert "one slope, which rests on differences within families alone" in methods
    assert "Welch-James" in methods


def test_other_questions_change_with_size_within_families_too() -> None:
    found = run(kind="compare", arms=ARMS, sizes=ENDS[:4])
    assert "4 sizes of 2 families, one slope within them" in text(found)

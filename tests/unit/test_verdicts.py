"""The rule that says whether gains diminish, and the sentence that goes with what it found."""

import math

import pandas as pd
import pytest

from xlt_scale.scaling.analysis.detectability import power_table, what_it_takes
from xlt_scale.scaling.analysis.grouping import ALL, HEADLINE
from xlt_scale.scaling.analysis.sensitivity import Slopes
from xlt_scale.scaling.analysis.verdicts import TrendEvidence, trend, trend_sentences
from xlt_scale.scaling.analysis.wording import interval, points, signed
from xlt_scale.scaling.statistics.effects import Estimate
from xlt_scale.scaling.statistics.seed_planning import seeds_needed


def estimate(value: float, error: float, num_clusters: int = 5, seed_share: float = 0.8) -> Estimate:
    variance = error**2
    return Estimate(
        value, seed_share * variance, (1 - seed_share) * variance, 4.0, num_clusters, 2 * num_clusters, 500.0
    )


def evidence(points: Estimate | None, log_error: Estimate | None) -> TrendEvidence:
    return TrendEvidence(points, log_error, 3, at_smallest=3.0)


@pytest.mark.parametrize(
    ("points", "log_error", "expected"),
    [
        ((-2.0, 0.2), (0.05, 0.005), "diminishes"),
        ((2.0, 0.2), (-0.05, 0.005), "grows"),
        ((-2.0, 0.2), (0.0, 0.005), "headroom only"),
        ((-2.0, 0.2), (-0.05, 0.005), "headroom only"),
        ((0.1, 0.2), (0.0, 0.005), "no change"),
        ((-1.0, 2.0), (0.03, 0.05), "cannot tell"),
        ((2.0, 0.2), (0.0, 0.005), "cannot tell"),
    ],
)
def test_a_trend_takes_both_scales(points: tuple[float, float], log_error: tuple[float, float], expected: str) -> None:
    assert trend(evidence(estimate(*points), estimate(*log_error)), 0.05) == expected


def test_without_a_gain_at_the_smallest_size_there_is_none_to_diminish() -> None:
    found = TrendEvidence(estimate(-2.0, 0.2), estimate(0.05, 0.005), 3, at_smallest=-0.1)
    assert trend(found, 0.05) == "falls"
    assert "the more harm" in trend_sentences("Overall", found, 0.05, lambda: "")[0]


def test_the_level_is_one_sided() -> None:
    slope = estimate(-0.5, 0.25)
    assert 0.05 < slope.p_value() < 0.1
    assert trend(evidence(slope, estimate(0.05, 0.001)), 0.05) == "diminishes"
    assert trend(evidence(slope, estimate(0.05, 0.001)), 0.01) != "diminishes"


def test_nothing_is_told_from_one_intermediate_seed() -> None:
    found = evidence(estimate(-2.0, 0.1, num_clusters=1), estimate(0.05, 0.001, num_clusters=1))
    assert trend(found, 0.05) == "cannot tell"
    first, needed, _ = trend_sentences("Overall", found, 0.05, lambda: what_it_takes(found, 0.05))
    assert "one intermediate seed" in first and "at least 2 intermediate seeds" in needed


def test_nothing_is_told_from_a_single_run_pair() -> None:
    single = Estimate(-2.0, math.nan, 0.01, 1.0, 1, 3)
    assert trend(evidence(single, single), 0.05) == "cannot tell"
    assert "single run pair" in trend_sentences("Overall", evidence(single, single), 0.05, lambda: "")[0]


def test_one_size_has_no_trend_and_a_second_would_make_one() -> None:
    (sentence,) = trend_sentences("Overall", TrendEvidence(None, None, 1), 0.05, lambda: "")
    assert "fewer than two sizes" in sentence and "second size" in sentence


def test_the_sentence_names_level_sizes_and_seeds() -> None:
    sentences = " ".join(
        trend_sentences("Overall", evidence(estimate(-2, 0.2), estimate(0.05, 0.005)), 0.05, lambda: "")
    )
    assert "One-sided level 0.05, 3 sizes, at least 5 intermediate seeds" in sentences
    assert "90 % interval" in sentences and "\u22122.00 points per tenfold parameters" in sentences


def test_headroom_is_said_to_be_headroom() -> None:
    (sentence, _) = trend_sentences("Overall", evidence(estimate(-2, 0.2), estimate(0.0, 0.005)), 0.05, lambda: "")
    assert "less room to gain" in sentence


def test_disagreeing_scales_claim_nothing() -> None:
    (sentence, _) = trend_sentences("Overall", evidence(estimate(2, 0.2), estimate(0.0, 0.005)), 0.05, lambda: "")
    assert "scales disagree" in sentence


def test_what_cannot_be_told_comes_with_a_number_of_seeds() -> None:
    found = evidence(estimate(-0.8, 0.6, num_clusters=3), estimate(0.02, 0.02, num_clusters=3))
    sentence = what_it_takes(found, 0.05)
    number = seeds_needed(estimate(-0.8, 0.6, num_clusters=3), 1.0, 0.05)
    assert number is not None and f"{number} intermediate seeds per size" in sentence


def test_no_spread_at_all_says_so_instead_of_a_number() -> None:
    flat = Estimate(0.0, 0.0, 0.0, 4.0, 3, 6)
    assert "neither runs nor test items vary" in what_it_takes(evidence(flat, flat), 0.05)


@pytest.mark.parametrize(
    "slope",
    [
        estimate(-0.8, 0.9, num_clusters=3),
        estimate(-0.8, 90.0, num_clusters=3),
        estimate(-0.8, 0.9, num_clusters=1),
        Estimate(0.0, 0.0, 0.0, 4.0, 3, 6),
        Estimate(-2.0, math.nan, 0.01, 1.0, 1, 3),
    ],
)
def test_notes_on_power_have_no_nan(slope: Estimate) -> None:
    drawn = Slopes(pd.DataFrame(), {(ALL, HEADLINE): evidence(slope, slope)}, {}, {}, {})
    table = power_table(drawn, pd.DataFrame(columns=["group_kind"]), 0.05)
    assert len(table) and "nan" not in " ".join(table["note"])


def test_numbers_have_a_true_minus_sign() -> None:
    assert (signed(-1.234), signed(-0.001), signed(0.5, 1)) == ("\u22121.23", "+0.00", "+0.5")
    assert interval(-1.0, 2.0) == "\u22121.00 to +2.00"
    assert points(math.nan) == "not known"

"""Runs that did not train are found, counted, and left out on both sides of a pair or on none."""

import numpy as np
import pandas as pd
import pytest
from small_studies import make_results

from xlt_scale.scaling.analysis.analysis import COLLAPSE_TITLE, analyse
from xlt_scale.scaling.analysis.collapse import (
    AT_CHANCE,
    FAR_BELOW,
    LOSS_STAYED,
    collapse_table,
    collapsed_runs,
    find_collapsed,
    is_far_below,
    sound_pairs,
)
from xlt_scale.scaling.results import Analysis

DEAD = "small-questions-spans-0-0"


def kill(runs: pd.DataFrame) -> pd.DataFrame:
    """One run of one arm at chance."""
    return runs.assign(score=runs["score"].where(runs["record"] != DEAD, 33.0))


def reasons(runs: pd.DataFrame, record: str = DEAD) -> list[str]:
    found = find_collapsed(runs)
    return list(found.loc[found["record"] == record, "reasons"].iloc[0])


def test_a_sound_study_has_no_collapsed_run() -> None:
    assert collapse_table(find_collapsed(make_results(2.0).runs))["num_collapsed"].sum() == 0


def test_a_run_at_chance_in_its_trained_language_is_flagged_whatever_the_others() -> None:
    is_english = lambda runs: (runs["record"] == DEAD) & (runs["language"] == "en")  # noqa: E731
    runs = make_results(2.0, adjust=lambda runs: runs.assign(score=runs["score"].where(~is_english(runs), 35.0))).runs
    assert AT_CHANCE in reasons(runs)


def test_other_languages_at_chance_are_no_collapse() -> None:
    is_other = lambda runs: (runs["record"] == DEAD) & (runs["language"] != "en")  # noqa: E731
    runs = make_results(2.0, adjust=lambda runs: runs.assign(score=runs["score"].where(~is_other(runs), 33.0))).runs
    assert reasons(runs) == []


def test_a_loss_that_stays_at_its_start_is_flagged() -> None:
    stays = lambda runs: runs.assign(last_loss=runs["last_loss"].where(runs["record"] != DEAD, 1.09))  # noqa: E731
    assert reasons(make_results(2.0, adjust=stays).runs) == [LOSS_STAYED]


def test_of_seeds_that_lie_far_apart_the_low_ones_are_flagged() -> None:
    lowered = lambda runs: runs.assign(score=runs["score"] - 12.0 * (runs["record"] == DEAD))  # noqa: E731
    assert reasons(make_results(2.0, adjust=lowered).runs) == [FAR_BELOW]


def test_seeds_of_a_restless_small_model_are_no_collapse() -> None:
    spread = lambda runs: runs.assign(score=runs["score"] + 14.0 * ((runs["target_seed"] == 0) - 0.5))  # noqa: E731
    assert collapsed_runs(find_collapsed(make_results(2.0, adjust=spread).runs)) == frozenset()


def test_runs_far_below_take_four_runs_ten_points_and_three_spreads() -> None:
    calm = [60.0, 60.5, 59.5, 60.2]
    assert list(is_far_below(np.array([*calm, 48.0]))) == [False] * 4 + [True]
    assert not is_far_below(np.array([*calm, 51.0])).any()
    assert not is_far_below(np.array([60.0, 60.5, 40.0])).any()
    assert not is_far_below(np.array([70.0, 60.0, 50.0, 65.0, 45.0])).any()
    assert not is_far_below(np.array([*calm, 40.0, np.nan])).any()


def test_an_untrained_encoder_near_chance_is_a_floor_and_no_collapse() -> None:
    floor = lambda runs: runs.assign(score=34.0, first_loss=float("nan"), last_loss=float("nan"))  # noqa: E731
    runs = make_results(2.0, adjust=floor).runs
    assert {key[2] for key in collapsed_runs(find_collapsed(runs, ["spans"]))} == {"pairs"}


def test_unknown_chance_and_no_training_flag_nothing() -> None:
    unknown = lambda runs: runs.assign(chance=float("nan"), first_loss=float("nan"), last_loss=float("nan"))  # noqa: E731
    assert collapsed_runs(find_collapsed(make_results(2.0, adjust=unknown).runs)) == frozenset()


def test_a_pair_goes_when_either_side_collapsed() -> None:
    collapsed = frozenset({("small", "none", "spans", 0, 1), ("small", "questions", "spans", 1, 0)})
    pairs = [(0, 0), (0, 1), (1, 0)]
    assert sound_pairs(pairs, collapsed, "small", ("none", "questions"), "spans") == [(0, 0)]
    assert sound_pairs(pairs, collapsed, "small", ("none", "questions"), "pairs") == pairs


def test_a_run_without_seeds_stands_for_every_pair() -> None:
    collapsed = frozenset({("small", "none", "spans", -1, -1)})
    assert sound_pairs([(0, 0)], collapsed, "small", ("none",), "spans") == []


@pytest.fixture(scope="module")
def analysed() -> Analysis:
    return analyse(make_results(2.0, adjust=kill), num_draws=50)


def test_headlines_are_given_with_and_without_collapsed_runs(analysed: Analysis) -> None:
    table = analysed.extra[COLLAPSE_TITLE].set_index(["size", "arm"])
    dead = table.loc[("small", "questions")]
    assert dead["gain"] < dead["gain without"] - 0.5
    assert dead["gain without"] == pytest.approx(2.0, abs=0.6)
    other = table.loc[("small", "inference")]
    assert other["gain"] == pytest.approx(other["gain without"])


def test_slopes_are_given_without_collapsed_runs_and_the_caveat_says_so(analysed: Analysis) -> None:
    slopes = analysed.slopes
    own = slopes[(slopes["arm"] == "questions") & (slopes["group"] == "qa") & (slopes["scale"] == "points")]
    by_variant = own.set_index("variant")["gain"]
    assert abs(by_variant["without collapsed runs"]) < abs(by_variant["primary"])
    assert any("1 of 180 runs collapsed" in caveat for caveat in analysed.answer.caveats)
    assert analysed.cells["num_collapsed"].max() == 1


def test_the_table_of_collapse_has_rates_and_names() -> None:
    table = collapse_table(find_collapsed(make_results(2.0, adjust=kill).runs)).set_index(["size", "arm", "target"])
    row = table.loc[("small", "questions", "spans")]
    assert (row["num_runs"], row["num_collapsed"], row["rate"], row["records"]) == (10, 1, 0.1, [DEAD])

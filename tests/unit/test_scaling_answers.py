"""Each kind of question gets a true answer: planted truths are found, and what cannot be said is said to be so."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from small_studies import ARMS, LANGUAGES, SIZES, GainRule, log_decades, make_results

from xlt_scale.scaling.analysis.analysis import analyse
from xlt_scale.scaling.analysis.answers.best_of import nested_selection
from xlt_scale.scaling.results import Analysis, ArmFacts, QuestionKind, SizeFacts, TargetFacts

KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)


def aligned(size: SizeFacts, arm: ArmFacts, target: TargetFacts, language: str) -> float:
    return 3.0 if arm.group == target.group else 1.0


def better_questions(size: SizeFacts, arm: ArmFacts, target: TargetFacts, language: str) -> float:
    return 3.0 if arm.name == "questions" else 1.0


def run(gain: GainRule | float, kind: QuestionKind, **options: object) -> Analysis:
    return analyse(make_results(gain, kind=kind, **options), num_draws=100)  # type: ignore[arg-type]


def text(analysis: Analysis) -> str:
    return " ".join(analysis.answer.sentences)


def test_size_answers_the_question_in_its_first_sentence() -> None:
    found = run(lambda size, *_: 3.0 - log_decades(size), "size")
    assert found.answer.verdict == "diminishes"
    assert "the gain diminishes with size" in found.answer.sentences[0]
    assert "No size of this study has more than 10 billion parameters by both counts" in text(found)


def test_size_says_what_was_measured_above_ten_billion() -> None:
    sizes = (*SIZES[:2], SizeFacts("huge", "xlm-r", False, 12_000_000_000, 11_000_000_000))
    found = run(2.0, "size", sizes=sizes)
    assert "At huge (12 billion parameters, 11 billion without embeddings) gains are" in text(found)


def test_size_says_that_ten_billion_is_extrapolated_when_it_is() -> None:
    sizes = (SIZES[0], replace(SIZES[1], num_parameters=5_000_000_000))
    assert "outside the sizes that were run (extrapolated)" in text(run(2.0, "size", sizes=sizes))


def test_size_draws_no_line_further_than_half_a_decade_past_the_largest_size() -> None:
    assert "more than half a decade past the largest size" in text(run(2.0, "size", sizes=SIZES[:2]))


def test_size_says_that_arms_do_harm_where_gains_are_negative() -> None:
    assert "the arms do harm" in text(run(-2.0, "size"))


def test_compare_finds_the_better_group_and_leaves_the_baseline_out_of_it() -> None:
    found = run(better_questions, "compare", sizes=SIZES[:2])
    assert found.answer.verdict == "qa better"
    table = found.extra["Differences between groups"]
    overall = table[(table["scope"] == "headline") & (table["size"] == "small")].iloc[0]
    assert overall["low"] < -2.0 < overall["high"]


def test_compare_says_which_target_groups_and_families_differ() -> None:
    found = run(aligned, "compare", sizes=SIZES[:2])
    assert found.answer.verdict == "cannot tell"
    assert "by target group (2 values): shown to differ from 0 after Holm: classification +" in text(found)


def test_compare_names_the_weakest_language() -> None:
    found = run(lambda size, arm, target, language: 0.5 if language == "sw" else 3.0, "compare", sizes=SIZES[:1])
    assert set(found.extra["Weakest language and spread over languages"]["weakest language"]) == {"sw"}


def test_compare_sets_the_intermediate_languages_family_apart() -> None:
    found = run(lambda size, arm, target, language: 4.0 if language == "de" else 1.0, "compare", sizes=SIZES[:1])
    table = found.extra["Gain on the intermediate language's family against other languages"]
    assert (table["own family minus others"] > 2.0).all()


def test_rank_puts_the_better_group_first() -> None:
    found = run(better_questions, "rank")
    assert found.answer.verdict == "qa best"
    assert (found.extra["Arms by mean gain"].query("rank == 1")["name"] == "questions").all()
    assert (found.extra["Chance that one arm beats another"]["P(first > second)"] < 0.2).all()


def test_rank_does_not_call_equal_groups_best() -> None:
    found = run(2.0, "rank")
    assert found.answer.verdict == "cannot tell"
    assert "Which group gains most cannot be told" in found.answer.sentences[0]


def test_best_of_several_is_reported_on_seeds_that_did_not_choose_it() -> None:
    noise = np.random.default_rng(0).normal(0.0, 1.0, (500, 8, 4))
    curse = [same - other for same, other in map(nested_selection, noise)]
    same = float(np.mean([nested_selection(gains)[0] for gains in noise]))
    other = float(np.mean([nested_selection(gains)[1] for gains in noise]))
    assert same > 0.5  # no arm gains anything
    assert other == pytest.approx(0.0, abs=0.1)
    assert np.mean(curse) > 0.5


def test_best_of_several_with_one_seed_says_nothing_about_other_seeds() -> None:
    assert np.isnan(nested_selection(np.array([[1.0], [2.0]]))[1])
    assert "cannot be said with one seed" in text(run(2.0, "rank", pairs=[(0, 0)]))


def test_alignment_finds_the_planted_advantage() -> None:
    found = run(aligned, "alignment")
    assert found.answer.verdict == "aligned better"
    rows = found.extra["Gain where arm and target are of one group"].set_index(["quantity", "size"])
    plain = rows.loc[("aligned minus not aligned", "mean over sizes")]
    assert plain["low"] < 2.0 < plain["high"]


def test_alignment_without_groups_in_common_says_what_it_takes() -> None:
    arms = (*ARMS[:1], ArmFacts("other", "other", ("ccg",), ("en",), "tagging"))
    found = run(2.0, "alignment", arms=arms)
    assert found.answer.verdict == "cannot tell"
    assert "one arm whose group is a target's group" in found.answer.sentences[0]


def test_grid_counts_what_helps_and_hurts_after_holm() -> None:
    found = run(lambda size, arm, *_: 2.0 if arm.name == "questions" else -2.0, "grid")
    assert found.answer.verdict == "6 help, 6 hurt, of 12"
    assert "Holm over 12 tests" in text(found)


def test_grid_marks_shared_data_and_missing_cells() -> None:
    lacking = lambda runs: runs[~((runs["arm"] == "questions") & (runs["target"] == "pairs"))]  # noqa: E731
    found = run(2.0, "grid", same_data={("inference", "pairs"): "same"}, adjust=lacking)
    table = found.extra["Gains by arm and task, small"].set_index("arm")
    assert table.loc["inference", "xnli"] == "shared data"
    assert table.loc["questions", "xnli"] == "missing"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "size"])
def test_with_two_sizes_every_kind_says_how_its_contrast_changes(kind: QuestionKind) -> None:
    assert "points per tenfold parameters" in text(run(aligned, kind, sizes=SIZES[:2]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "size"])
def test_with_one_size_every_kind_says_that_change_cannot_be_said(kind: QuestionKind) -> None:
    assert "cannot be said from one size" in text(run(aligned, kind, sizes=SIZES[:1]))


@pytest.mark.parametrize("kind", KINDS)
def test_one_run_pair_claims_nothing_and_says_what_intervals_do_not_cover(kind: QuestionKind) -> None:
    found = run(aligned, kind, pairs=[(0, 0)], sizes=SIZES[:2])
    assert found.answer.verdict == "cannot tell"
    assert "covers neither intermediate seeds nor target seeds" in text(found)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "size"])
def test_one_intermediate_seed_limits_every_claim_to_its_checkpoints(kind: QuestionKind) -> None:
    found = run(better_questions, kind, pairs=[(0, 0), (0, 1), (0, 2)], sizes=SIZES[:2])
    assert "for these intermediate checkpoints alone" in text(found)


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_gain_every_kind_says_so(kind: QuestionKind) -> None:
    for found in (run(2.0, kind, arms=ARMS[:1]), run(2.0, kind, adjust=lambda runs: runs.iloc[:0])):
        assert found.answer.verdict == "cannot tell"
        assert "Nothing can be said yet" in found.answer.sentences[0]


@pytest.mark.parametrize("kind", KINDS)
def test_missing_scores_and_runs_are_survived(kind: QuestionKind) -> None:
    def damage(runs):  # type: ignore[no-untyped-def]
        is_lost = (runs["size"] == "large") & (runs["arm"] == "inference")
        is_blank = (runs["size"] == "middle") & (runs["language"] == "hi") & (runs["arm"] == "questions")
        return runs[~is_lost].assign(score=runs["score"].where(~is_blank))

    assert "nan" not in text(run(aligned, kind, adjust=damage))


def test_two_intermediate_seeds_are_said_to_leave_one_degree_of_freedom() -> None:
    found = run(2.0, "grid", pairs=[(0, 0), (1, 0)], sizes=SIZES[:1])
    assert any("1 degree of freedom" in caveat for caveat in found.answer.caveats)


def test_caveats_name_fixed_languages_architecture_and_artificial_languages() -> None:
    caveats = " ".join(run(2.0, "grid").answer.caveats)
    assert "The list of languages is fixed" in caveats and "architecture" in caveats
    assert "artificial" not in caveats
    micro = " ".join(run(2.0, "grid", languages=["qen", *LANGUAGES[:2]], sizes=SIZES[:1]).answer.caveats)
    assert "The languages are artificial" in micro and "architecture" not in micro

"""Scorers, on cases that can be checked by hand."""

import pytest

from xlt_scale.evaluation.scorers import SCORERS
from xlt_scale.evaluation.scorers.classification import score_accuracy_and_f1


@pytest.mark.parametrize(
    ("predictions", "labels", "expected"),
    [([0, 1, 2, 2], [0, 1, 2, 2], 100.0), ([0, 1, 2, 2], [0, 1, 2, 0], 75.0), ([1], [0], 0.0)],
)
def test_accuracy_is_the_share_of_equal_items_in_percent(
    predictions: list[int], labels: list[int], expected: float
) -> None:
    assert SCORERS["accuracy"].score(predictions, labels, "en").values == {"accuracy": expected}


def test_predictions_and_labels_of_different_number_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 predictions for 3 labels"):
        SCORERS["accuracy"].score(["0", "1"], ["0", "1", "1"], "en")


def test_no_items_are_an_error() -> None:
    with pytest.raises(ValueError, match="no items"):
        SCORERS["accuracy"].score([], [], "en")


def test_retrieval_accuracy_is_the_share_that_found_its_own_line() -> None:
    score = SCORERS["bitext_accuracy"].score([0, 1, 1, 3], [0, 1, 2, 3], "de")
    assert score.values == {"accuracy": 75.0}


def test_every_scorer_gives_its_headline_first_and_names_its_version() -> None:
    examples = {
        "accuracy": (["a"], ["a"]),
        "accuracy_and_f1": (["1"], ["1"]),
        "correlation": ([1.0, 2.0], [1.0, 3.0]),
        "entity_f1": ([["B-PER"]], [["B-PER"]]),
        "tagging_f1": ([["NOUN"]], [["NOUN"]]),
        "token_accuracy": ([["N/N"]], [["N/N"]]),
        "squad": ({"q": "a b"}, {"q": ["a b"]}),
        "squad_v2": ({"q": ""}, {"q": []}),
        "mlqa": ({"q": "x"}, {"q": ["x"]}),
        "bitext_accuracy": ([0], [0]),
        "bitext_mining": ([("a", "b")], [("a", "b")]),
        "map_at_20": ({"q": ["x"]}, {"q": ["x"]}),
    }
    assert set(examples) == set(SCORERS)
    for metric, (predictions, labels) in examples.items():
        score = SCORERS[metric].score(predictions, labels, "en")
        assert next(iter(score.values)) == SCORERS[metric].headline
        assert score.values[SCORERS[metric].headline] == pytest.approx(100.0)
    versions = [scorer.version for scorer in SCORERS.values()]
    assert len(set(versions)) == len(versions)


@pytest.mark.parametrize("metric", sorted(SCORERS))
def test_nothing_to_score_is_an_error_of_every_scorer(metric: str) -> None:
    nothing = {} if metric in ("squad", "squad_v2", "mlqa", "map_at_20") else []
    with pytest.raises(ValueError, match="no items"):
        SCORERS[metric].score(nothing, nothing, "en")


def test_accuracy_keeps_which_items_were_right() -> None:
    score = SCORERS["accuracy"].score(["a", "b", "c"], ["a", "c", "c"], "en")
    assert score.items["correct"].tolist() == [1, 0, 1]


def test_f1_is_that_of_the_positive_class() -> None:
    # two of three predicted duplicates are right, one of three is not found
    score = score_accuracy_and_f1(["1", "1", "1", "0", "0"], ["1", "1", "0", "1", "0"])
    assert score.values["accuracy"] == pytest.approx(60.0)
    assert score.values["f1"] == pytest.approx(200 / 3)
    assert score.items["counts"].sum(axis=0).tolist() == [2, 3, 3]


def test_the_positive_class_may_be_spelt_as_a_word() -> None:
    score = score_accuracy_and_f1(["duplicate", "different"], ["duplicate", "duplicate"])
    assert score.values["f1"] == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="positive class"):
        score_accuracy_and_f1(["yes", "no"], ["yes", "yes"])
    assert score_accuracy_and_f1(["yes", "no"], ["yes", "yes"], positive=["yes"]).values["f1"] == pytest.approx(200 / 3)


def test_correlations_are_of_values_and_of_ranks() -> None:
    # by hand: deviations (-1, 0, 1) and (-3, -2, 5): 8 / sqrt(2 * 38)
    values = SCORERS["correlation"].score([1.0, 2.0, 3.0], [1.0, 2.0, 9.0], "en").values
    assert values["pearson"] == pytest.approx(100 * 8 / 76**0.5)
    assert values["spearman"] == pytest.approx(100.0)


def test_equal_values_share_their_rank() -> None:
    # ranks 1.5 1.5 3 against 1 2 3: deviations (-.5, -.5, 1) and (-1, 0, 1): 1.5 / sqrt(1.5 * 2)
    values = SCORERS["correlation"].score([4.0, 4.0, 5.0], [1.0, 2.0, 3.0], "en").values
    assert values["spearman"] == pytest.approx(100 * 1.5 / 3**0.5)


def test_constant_predictions_have_no_correlation_and_are_no_error() -> None:
    values = SCORERS["correlation"].score([0.1, 0.1, 0.1], [1.0, 2.0, 3.0], "en").values
    assert values == {"pearson": 0.0, "spearman": 0.0}


def test_a_prediction_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="prediction 2 is not a finite number"):
        SCORERS["correlation"].score([1.0, float("nan")], [1.0, 2.0], "en")


@pytest.mark.parametrize(
    ("ranked", "gold", "expected"),
    [
        (["x", "g"], {"g"}, 1 / 2),  # one gold id: the reciprocal rank
        (["g", "x", "h"], {"g", "h"}, (1 / 1 + 2 / 3) / 2),
        (["g", "g", "h"], {"g", "h"}, (1 / 1 + 2 / 3) / 2),  # the second g keeps its rank and counts nothing
        ([f"x{n}" for n in range(20)] + ["g"], {"g"}, 0.0),  # beyond rank 20
        ([f"g{n}" for n in range(20)], {f"g{n}" for n in range(40)}, 1.0),  # no more than 20 can be found
        ([], {"g"}, 0.0),
    ],
)
def test_average_precision_at_20(ranked: list[str], gold: set[str], expected: float) -> None:
    score = SCORERS["map_at_20"].score({"q": ranked}, {"q": gold}, "en")
    assert score.values["map_at_20"] == pytest.approx(100 * expected)


def test_a_query_without_prediction_scores_0_and_is_counted() -> None:
    score = SCORERS["map_at_20"].score({"p": ["x"], "other": []}, {"p": ["x"], "q": ["x"]}, "en")
    assert score.values == {"map_at_20": 50.0, "missing": 1.0, "unexpected": 1.0}


def test_mined_pairs_are_scored_as_a_set() -> None:
    gold = [("a", "1"), ("b", "2"), ("c", "3")]
    score = SCORERS["bitext_mining"].score([("a", "1"), ("a", "1"), ("b", "9")], gold, "de")
    assert score.values["precision"] == pytest.approx(50.0)
    assert score.values["recall"] == pytest.approx(100 / 3)
    assert score.values["f1"] == pytest.approx(40.0)


def test_outcomes_of_mining_have_one_row_per_gold_pair_and_one_for_the_rest() -> None:
    gold = [("a", "1"), ("b", "2"), ("c", "3")]
    score = SCORERS["bitext_mining"].score([("a", "1"), ("b", "9"), ("x", "3")], gold, "de")
    assert score.items["counts"].tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 1, 0]]


def test_mining_nothing_scores_0() -> None:
    assert SCORERS["bitext_mining"].score([], [("a", "1")], "de").values["f1"] == 0.0

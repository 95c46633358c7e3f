"""Scorers, on cases that can be checked by hand."""

import numpy as np
import pytest

from xlt_scale.evaluation.scorers import accuracy, nearest_neighbours, retrieval_accuracy


@pytest.mark.parametrize(
    ("predictions", "labels", "expected"),
    [([0, 1, 2, 2], [0, 1, 2, 2], 100.0), ([0, 1, 2, 2], [0, 1, 2, 0], 75.0), ([1], [0], 0.0)],
)
def test_accuracy_is_the_share_of_equal_items_in_percent(
    predictions: list[int], labels: list[int], expected: float
) -> None:
    assert accuracy(np.array(predictions), np.array(labels)) == expected


def test_predictions_and_labels_of_different_number_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 predictions for 3 labels"):
        accuracy(np.array([0, 1]), np.array([0, 1, 1]))


def test_no_items_are_an_error() -> None:
    with pytest.raises(ValueError, match="no items"):
        accuracy(np.array([]), np.array([]))


def test_the_nearest_neighbour_has_the_smallest_angle_whatever_its_length() -> None:
    queries = np.array([[1.0, 0.1], [0.0, 2.0]])
    candidates = np.array([[0.0, 0.001], [100.0, 0.0], [3.0, 3.0]])
    assert nearest_neighbours(queries, candidates).tolist() == [1, 0]


def test_an_opposite_vector_is_the_farthest() -> None:
    assert nearest_neighbours(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0], [0.0, 1.0]])).tolist() == [1]


def test_a_zero_candidate_is_as_far_as_a_right_angle() -> None:
    candidates = np.array([[0.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    assert nearest_neighbours(np.array([[1.0, 0.0], [-0.5, -0.1]]), candidates).tolist() == [1, 2]
    assert nearest_neighbours(np.array([[-1.0, -1.0]]), candidates[:2]).tolist() == [0]


def test_a_zero_query_finds_the_first_candidate_without_a_warning() -> None:
    with np.errstate(all="raise"):
        assert nearest_neighbours(np.zeros((2, 3)), np.eye(3)).tolist() == [0, 0]


def test_of_equal_candidates_the_first_is_found() -> None:
    assert nearest_neighbours(np.array([[1.0, 2.0]]), np.array([[0.0, 1.0], [1.0, 2.0], [1.0, 2.0]])).tolist() == [1]


def test_half_precision_vectors_are_compared_in_single_precision() -> None:
    candidates = np.full((2, 1024), 200.0, dtype=np.float16)  # the norm is beyond half precision's range
    candidates[0, :100] *= -1
    assert nearest_neighbours(candidates, candidates).tolist() == [0, 1]


def test_more_queries_than_one_block_are_all_answered() -> None:
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(50, 8))
    numbers = rng.integers(0, 50, 5000)
    assert nearest_neighbours(candidates[numbers] * 3, candidates).tolist() == numbers.tolist()


def test_retrieval_accuracy_is_the_share_that_found_its_own_line() -> None:
    assert retrieval_accuracy(np.array([0, 1, 1, 3])) == 75.0

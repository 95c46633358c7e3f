"""Search among vectors and mining of pairs, on cases that can be checked by hand."""

import numpy as np
import pytest

from xlt_scale.evaluation import bitext
from xlt_scale.evaluation.bitext import (
    Candidates,
    best_threshold,
    centred,
    mine,
    nearest_neighbours,
    ratio_margin_candidates,
    top_k,
)


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


def test_the_k_best_come_best_first_with_their_products() -> None:
    numbers, products = top_k(np.array([[1.0, 0.0]]), np.array([[1.0, 9.0], [3.0, 0.0], [2.0, 0.0]]), 2)
    assert numbers.tolist() == [[1, 2]]
    assert products.tolist() == [[3.0, 2.0]]


def test_more_than_there_are_means_all() -> None:
    assert top_k(np.ones((2, 1)), np.array([[1.0], [2.0]]), 5)[0].tolist() == [[1, 0], [1, 0]]


def test_of_equal_products_the_first_candidates_come_first() -> None:
    candidates = np.array([[1.0], [2.0], [1.0], [2.0], [1.0], [2.0]])
    assert top_k(np.ones((1, 1)), candidates, 4)[0].tolist() == [[1, 3, 5, 0]]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    # small whole numbers: many ties, and no rounding that could differ between blocks
    queries, candidates = rng.integers(-2, 3, (23, 4)), rng.integers(-2, 3, (57, 4))
    products = queries @ candidates.T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :6]
    monkeypatch.setattr(bitext, "_QUERIES_PER_BLOCK", 5)
    monkeypatch.setattr(bitext, "_CANDIDATES_PER_BLOCK", 4)
    numbers, found = top_k(queries, candidates, 6)
    assert np.array_equal(numbers, expected)
    assert np.array_equal(found, np.take_along_axis(products, expected, axis=1))


def test_searching_among_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no candidates"):
        top_k(np.ones((1, 2)), np.ones((0, 2)), 1)


def test_centred_vectors_have_no_mean() -> None:
    assert centred(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_the_margin_is_the_cosine_over_the_mean_of_the_two_neighbourhoods() -> None:
    source = np.array([[1.0, 0.0], [0.0, 1.0]])
    target = np.array([[1.0, 0.0], [0.6, 0.8]])
    # cosines [[1, .6], [0, .8]]; means over two neighbours: sources .8, .4; targets .5, .7
    found = ratio_margin_candidates(source, target, neighbours=2)
    assert found.pairs.tolist() == [[0, 0], [1, 1]]
    assert found.scores.tolist() == pytest.approx([1 / ((0.8 + 0.5) / 2), 0.8 / ((0.4 + 0.7) / 2)])


def test_every_sentence_is_in_at_most_one_pair() -> None:
    rng = np.random.default_rng(0)
    pairs = ratio_margin_candidates(rng.normal(size=(40, 3)), rng.normal(size=(25, 3))).pairs
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs) <= 25


def test_noisy_translations_are_mined() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(size=(60, 16))
    target = np.concatenate([source[:30] + 0.1 * rng.normal(size=(30, 16)), rng.normal(size=(30, 16))])
    gold = {(number, number) for number in range(30)}
    found = ratio_margin_candidates(source, target)
    threshold, f1 = best_threshold(found, gold)
    assert f1 == 1.0
    assert set(mine(found, threshold)) == gold


def test_no_sentences_on_one_side_make_no_candidates() -> None:
    found = ratio_margin_candidates(np.ones((3, 2)), np.ones((0, 2)))
    assert found.pairs.shape == (0, 2)
    assert mine(found, 0.0) == []


def _candidates(*scores: float) -> Candidates:
    return Candidates(np.array([(n, n) for n in range(len(scores))], np.int64).reshape(-1, 2), np.float32(scores))


def test_the_threshold_lies_between_the_last_taken_and_the_next_pair() -> None:
    # with 0 and 1 gold: F1 is 2/3 after one pair, 1 after two, 4/5 after three
    threshold, f1 = best_threshold(_candidates(1.5, 1.25, 1.0), {(0, 0), (1, 1)})
    assert (threshold, f1) == (1.125, 1.0)


def test_a_threshold_from_one_pair_or_below_the_last_is_that_pairs_margin() -> None:
    assert best_threshold(_candidates(1.5), {(0, 0)}) == (1.5, 1.0)
    candidates = _candidates(1.5, 1.25)
    threshold, _ = best_threshold(candidates, {(1, 1)})
    assert threshold == 1.25
    assert mine(candidates, threshold) == [(0, 0), (1, 1)]


def test_no_candidates_and_no_right_ones_give_threshold_0() -> None:
    assert best_threshold(_candidates(), {(0, 0)}) == (0.0, 0.0)
    assert best_threshold(_candidates(1.0), {(5, 5)}) == (0.0, 0.0)


def test_equal_margins_are_taken_together() -> None:
    # taking the first of the two alone would give F1 1, but no threshold parts them
    candidates = _candidates(1.5, 1.5)
    threshold, f1 = best_threshold(candidates, {(0, 0)})
    assert f1 == pytest.approx(2 / 3)
    assert len(mine(candidates, threshold)) == 2


def test_a_threshold_needs_gold_pairs() -> None:
    with pytest.raises(ValueError, match="no gold pairs"):
        best_threshold(_candidates(1.0), [])

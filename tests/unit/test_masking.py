"""Masking: how many tokens, what becomes of them, and that it depends on nothing but key, example and position."""

from typing import Any

import numpy as np
import pytest

from xlt_scale.data.masking import IGNORED, mask_tokens

VOCAB_SIZE = 1000
SPECIAL = np.zeros(VOCAB_SIZE, dtype=bool)
SPECIAL[[0, 1, 2, 3, 4, 998]] = True
ORDINARY = np.flatnonzero(~SPECIAL)
MASK = 4
LENGTH = 50


def sequences(num_examples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, example numbers and positions of examples that are framed by special tokens."""
    tokens = np.random.default_rng(3).choice(ORDINARY, (num_examples, LENGTH))
    tokens[:, 0], tokens[:, -1], tokens[:, 20] = 0, 2, 3
    return tokens.ravel(), np.repeat(np.arange(num_examples), LENGTH), np.tile(np.arange(LENGTH), num_examples)


def mask(
    tokens: np.ndarray, examples: np.ndarray, positions: np.ndarray, key: int = 11, share: float = 0.15
) -> tuple[np.ndarray, np.ndarray]:
    return mask_tokens(
        tokens, examples, positions, key=key, share=share, special=SPECIAL, ordinary=ORDINARY, mask_id=MASK
    )


def within(count: int, expected: float, of: int) -> bool:
    """Whether a count lies within four standard deviations of its expected share."""
    return abs(count - expected * of) < 4 * (expected * (1 - expected) * of) ** 0.5


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens of 200,000 positions, masked, and their labels."""
    tokens, examples, positions = sequences(4000)
    return tokens, *mask(tokens, examples, positions)


def test_fifteen_percent_of_the_tokens_are_chosen(many: tuple[np.ndarray, ...]) -> None:
    tokens, _, labels = many
    candidates = int((~SPECIAL[tokens]).sum())
    assert candidates > 100_000
    assert within(int((labels != IGNORED).sum()), 0.15, candidates)


def test_of_the_chosen_eighty_percent_are_masked_ten_random_and_ten_kept(many: tuple[np.ndarray, ...]) -> None:
    tokens, masked, labels = many
    chosen = labels != IGNORED
    num_chosen = int(chosen.sum())
    kept = 0.1 + 0.1 / len(ORDINARY)  # a random token is the old one now and then
    assert within(int((masked[chosen] == MASK).sum()), 0.8, num_chosen)
    assert within(int((masked[chosen] == tokens[chosen]).sum()), kept, num_chosen)


def test_labels_are_the_tokens_that_stood_there(many: tuple[np.ndarray, ...]) -> None:
    tokens, _, labels = many
    chosen = labels != IGNORED
    assert (labels[chosen] == tokens[chosen]).all()


def test_tokens_that_are_not_chosen_stay(many: tuple[np.ndarray, ...]) -> None:
    tokens, masked, labels = many
    assert (masked == tokens)[labels == IGNORED].all()


def test_special_tokens_are_never_chosen(many: tuple[np.ndarray, ...]) -> None:
    tokens, _, labels = many
    assert (labels[SPECIAL[tokens]] == IGNORED).all()


def test_a_random_token_is_never_a_special_one(many: tuple[np.ndarray, ...]) -> None:
    tokens, masked, _ = many
    drawn = masked[(masked != tokens) & (masked != MASK)]
    assert len(drawn) > 1000
    assert not SPECIAL[drawn].any()


def test_random_tokens_come_from_the_whole_vocabulary_alike(many: tuple[np.ndarray, ...]) -> None:
    tokens, masked, _ = many
    drawn = masked[(masked != tokens) & (masked != MASK)]
    counts = np.bincount(np.searchsorted(ORDINARY, drawn) * 10 // len(ORDINARY), minlength=10)
    assert all(within(int(count), 0.1, len(drawn)) for count in counts)


def test_every_position_is_chosen_alike(many: tuple[np.ndarray, ...]) -> None:
    _, _, labels = many
    counts = (labels.reshape(-1, LENGTH) != IGNORED).sum(axis=0)
    inside = [position for position in range(LENGTH) if position not in (0, 20, LENGTH - 1)]
    assert all(within(int(counts[position]), 0.15, 4000) for position in inside)


def test_an_example_is_masked_alike_in_whatever_micro_batch_it_lies() -> None:
    tokens, examples, positions = sequences(30)
    masked, labels = (array.reshape(30, LENGTH) for array in mask(tokens, examples, positions))
    order = np.array([17, 3, 29])
    columns = (array.reshape(30, LENGTH)[order].ravel() for array in (tokens, examples, positions))
    masked_part, labels_part = mask(*columns)
    assert (masked_part == masked[order].ravel()).all()
    assert (labels_part == labels[order].ravel()).all()


def test_two_examples_with_the_same_text_are_masked_differently() -> None:
    tokens, _, positions = sequences(1)
    _, one = mask(tokens, np.full(LENGTH, 5), positions)
    _, other = mask(tokens, np.full(LENGTH, 6), positions)
    assert (one != other).any()


def test_another_key_masks_anew() -> None:
    tokens, examples, positions = sequences(400)
    chosen = [mask(tokens, examples, positions, key=key)[1] != IGNORED for key in (1, 2)]
    candidates = int((~SPECIAL[tokens]).sum())
    assert within(int((chosen[0] & chosen[1]).sum()), 0.15**2, candidates)


def test_masking_does_not_change_what_it_is_given() -> None:
    columns = sequences(20)
    before = [column.copy() for column in columns]
    mask(*columns)
    assert all((column == old).all() for column, old in zip(columns, before, strict=True))


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 20 * (LENGTH - 3))])
def test_a_share_of_nought_chooses_none_and_of_one_all(share: float, expected: int) -> None:
    assert int((mask(*sequences(20), share=share)[1] != IGNORED).sum()) == expected


def test_an_empty_row_gives_an_empty_row() -> None:
    nothing: Any = np.empty(0, dtype=np.int64)
    assert [len(array) for array in mask(nothing, nothing, nothing)] == [0, 0]

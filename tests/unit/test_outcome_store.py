"""Outcomes in few bytes, and the item values made of them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_records import made_up_score

from xlt_scale.errors import UserError
from xlt_scale.evaluation.scorers import SCORERS
from xlt_scale.scaling.records.outcome_store import (
    Packed,
    headline_arrays,
    item_values,
    pack,
    packed_outcomes,
    read_outcome_file,
    unpack,
    write_outcome_file,
)


def values_of(packed: dict[str, Packed], headline: str) -> np.ndarray:
    names = headline_arrays(headline, list(packed))
    return item_values([unpack(packed[name]) for name in names], names)


@pytest.mark.parametrize("metric", sorted(SCORERS))
@pytest.mark.parametrize("seed", range(3))
def test_item_values_average_to_the_score_of_every_metric(metric: str, seed: int) -> None:
    headline, found = SCORERS[metric].headline, made_up_score(metric, str(seed))
    score = found.values[headline]
    values = values_of(packed_outcomes(found.items, headline, score), headline)
    assert values.dtype == np.float32
    assert values.mean(dtype=float) == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("metric", ["entity_f1", "bitext_mining", "token_accuracy", "correlation"])
def test_the_spread_of_item_values_is_that_of_the_resampled_score(metric: str) -> None:
    headline, found = SCORERS[metric].headline, made_up_score(metric, "a score that is no mean")
    values = values_of(packed_outcomes(found.items, headline, found.values[headline]), headline)
    draw = np.random.default_rng(3)
    names = headline_arrays(headline, list(found.items))
    scores = []
    for _ in range(4000):
        rows = draw.integers(0, len(values), len(values))
        scores.append(item_values([found.items[name][rows] for name in names], names).mean(dtype=float))
    assert values.std() / np.sqrt(len(values)) == pytest.approx(np.std(scores), rel=0.15)


@given(st.lists(st.booleans(), max_size=40))
def test_bits_come_back(bits: list[bool]) -> None:
    values = np.array(bits, np.uint8)
    assert np.array_equal(unpack(pack("correct", values)), values)


@given(st.lists(st.integers(0, 100_000), min_size=3, max_size=30))
def test_counts_come_back(numbers: list[int]) -> None:
    values = np.array(numbers[: len(numbers) // 3 * 3], np.int32).reshape(-1, 3)
    assert np.array_equal(unpack(pack("counts", values)), values)


def test_small_counts_take_a_byte_each() -> None:
    assert pack("counts", np.array([[1, 2, 255]])).data.dtype == np.uint8
    assert pack("counts", np.array([[1, 2, 256]])).data.dtype == np.uint16


@given(st.integers(1, 12), st.integers(0, 12))
def test_fractions_with_small_denominators_are_kept_exactly(whole: int, part: int) -> None:
    values = np.array([min(part, whole) / whole], np.float32)
    assert np.array_equal(unpack(pack("f1", values)), values)


@given(st.floats(0, 1, width=32))
def test_other_shares_are_off_by_less_than_a_thousandth_of_a_point(value: float) -> None:
    assert abs(100 * float(unpack(pack("f1", np.array([value], np.float32)))[0]) - 100 * value) < 1e-3


@pytest.mark.parametrize(
    ("name", "values"), [("correct", [0, 2]), ("f1", [0.5, 1.5]), ("f1", [float("nan")]), ("counts", [[-1, 0, 0]])]
)
def test_values_that_cannot_be_are_refused(name: str, values: list[object]) -> None:
    with pytest.raises(ValueError, match=name):
        pack(name, np.array(values))


def test_outcomes_of_another_scoring_are_refused() -> None:
    with pytest.raises(ValueError, match="of another scoring"):
        packed_outcomes({"correct": np.array([1, 0], np.uint8)}, "accuracy", 60.0)


def test_nothing_right_anywhere_is_a_score_of_zero() -> None:
    assert np.array_equal(item_values([np.zeros((4, 3), np.uint8)], ("counts",)), np.zeros(4, np.float32))


def test_constant_predictions_correlate_with_nothing() -> None:
    found = item_values([np.ones(5, np.float32), np.arange(5, dtype=np.float32)], ("predicted", "gold"))
    assert np.array_equal(found, np.zeros(5, np.float32))


def test_values_of_many_runs_are_those_of_each() -> None:
    draw = np.random.default_rng(0)
    runs = draw.integers(0, 9, (5, 20, 3)).astype(np.uint8)
    assert np.allclose(item_values([runs], ("counts",)), [item_values([run], ("counts",)) for run in runs])


def test_a_headline_without_its_outcomes_has_no_item_values() -> None:
    assert headline_arrays("accuracy", ["counts"]) == ()
    assert headline_arrays("spearman", ["predicted", "gold"]) == ()


def some_outcomes() -> dict[tuple[str, str], dict[str, Packed]]:
    return {
        ("xnli", "de"): {"correct": pack("correct", np.array([1, 0, 1], np.uint8))},
        ("panx", "sw"): {"counts": pack("counts", np.array([[1, 2, 3], [0, 0, 700]]))},
    }


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    write_outcome_file(tmp_path / "phase.safetensors", some_outcomes())
    found = read_outcome_file(tmp_path / "phase.safetensors")
    assert unpack(found["xnli", "de"]["correct"]).tolist() == [1, 0, 1]
    assert unpack(found["panx", "sw"]["counts"]).tolist() == [[1, 2, 3], [0, 0, 700]]


def test_the_same_outcomes_make_the_same_bytes(tmp_path: Path) -> None:
    outcomes = some_outcomes()
    write_outcome_file(tmp_path / "one", outcomes)
    write_outcome_file(tmp_path / "two", dict(reversed(outcomes.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("num_bytes", [0, 5, 100])
def test_a_file_that_was_cut_short_is_named(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "phase.safetensors"
    write_outcome_file(path, some_outcomes())
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(UserError, match=r"phase.safetensors is damaged .*; remove the record phase.json"):
        read_outcome_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing beside its record"):
        read_outcome_file(tmp_path / "phase.safetensors")

"""Learning-rate schedules, step by step."""

from math import cos, pi
from typing import Any

import pytest

from xlt_scale.config import PhaseOptions
from xlt_scale.training.schedule import learning_rate_at


def rates(schedule: Any, warmup: float, num_steps: int) -> list[float]:
    phase = PhaseOptions(name="p", task="t", steps=num_steps, learning_rate=1.0, schedule=schedule, warmup=warmup)
    return [learning_rate_at(step, num_steps, phase) for step in range(num_steps)]


def test_linear_falls_to_nought_just_after_the_last_step() -> None:
    assert rates("linear", 0.0, 4) == [1.0, 0.75, 0.5, 0.25]


def test_cosine_falls_to_nought_just_after_the_last_step() -> None:
    assert rates("cosine", 0.0, 4) == pytest.approx([(1 + cos(pi * step / 4)) / 2 for step in range(4)])


def test_constant_stays() -> None:
    assert rates("constant", 0.0, 3) == [1.0, 1.0, 1.0]


def test_the_first_step_of_the_warm_up_learns_already() -> None:
    assert rates("constant", 0.3, 10)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_after_the_warm_up_the_schedule_begins_at_its_peak() -> None:
    assert rates("linear", 0.5, 8) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.75, 0.5, 0.25])


def test_a_warm_up_over_all_steps_only_rises() -> None:
    assert rates("linear", 1.0, 3) == [0.25, 0.5, 0.75]


def test_a_warm_up_shorter_than_half_a_step_is_none() -> None:
    assert rates("linear", 0.1, 4) == rates("linear", 0.0, 4)


def test_a_single_step_learns_at_the_peak() -> None:
    for schedule in ("linear", "cosine", "constant"):
        assert rates(schedule, 0.0, 1) == [1.0]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.06, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
def test_no_step_has_a_rate_of_nought_or_over_the_peak(schedule: str, warmup: float, num_steps: int) -> None:
    assert all(0 < rate <= 1 for rate in rates(schedule, warmup, num_steps))


def test_the_rate_is_a_multiple_of_the_peak() -> None:
    phase = PhaseOptions(name="p", task="t", steps=10, learning_rate=2e-5, warmup=0.0)
    assert learning_rate_at(5, 10, phase) == 1e-5

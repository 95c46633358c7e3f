"""How often each task and language is drawn."""

from typing import Any

import pytest

from xlt_scale.config import PhaseOptions
from xlt_scale.training.mixing import stream_weights, task_shares

# Training examples of the nine intermediate tasks of X-STILTs (Phang et al. 2020).
NINE = {
    "anli-plus": 1_104_934,
    "mnli": 392_702,
    "qqp": 363_846,
    "squad-v2": 130_319,
    "squad": 87_599,
    "hellaswag": 39_905,
    "ccg": 38_015,
    "cosmosqa": 25_588,
    "commonsenseqa": 9_741,
}


def phase(**options: Any) -> PhaseOptions:
    return PhaseOptions(name="intermediate", steps=10, **options)


def refusal(**options: Any) -> str:
    with pytest.raises(ValueError) as error:
        phase(**options)
    return str(error.value)


def test_a_single_task_takes_every_step() -> None:
    assert task_shares(phase(task="mnli"), {"mnli": 7}) == {"mnli": 1.0}


def test_given_weights_are_made_to_sum_to_one() -> None:
    shares = task_shares(phase(mixture={"mnli": 3.0, "squad": 1.0}), {"mnli": 7, "squad": 900})
    assert shares == {"mnli": 0.75, "squad": 0.25}


def test_proportional_mixing_of_the_nine_tasks_is_capped_at_two_to_the_seventeen() -> None:
    shares = task_shares(phase(mixture=list(NINE), mixing="proportional"), NINE)
    percent = {task: round(100 * share, 1) for task, share in shares.items()}
    assert percent == {
        "anli-plus": 18.1,
        "mnli": 18.1,
        "qqp": 18.1,
        "squad-v2": 18.0,
        "squad": 12.1,
        "hellaswag": 5.5,
        "ccg": 5.2,
        "cosmosqa": 3.5,
        "commonsenseqa": 1.3,
    }


def test_without_a_cap_every_example_counts() -> None:
    shares = task_shares(phase(mixture=["a", "b"], mixing="proportional", mixing_cap=0), {"a": 900_000, "b": 100_000})
    assert shares == {"a": 0.9, "b": 0.1}


def test_a_temperature_of_two_takes_square_roots() -> None:
    options = phase(mixture=["a", "b"], mixing="temperature", mixing_temperature=2.0)
    assert task_shares(options, {"a": 900, "b": 100}) == {"a": 0.75, "b": 0.25}


def test_uniform_mixing_does_not_look_at_sizes() -> None:
    assert task_shares(phase(mixture=["a", "b"], mixing="uniform"), {"a": 1, "b": 999}) == {"a": 0.5, "b": 0.5}


def test_a_joint_task_takes_its_share_and_the_others_divide_the_rest() -> None:
    options = phase(mixture={"a": 1.0, "b": 3.0}, joint={"mlm": 0.5})
    assert task_shares(options, {"a": 1, "b": 1, "mlm": 10**9}) == {"a": 0.125, "b": 0.375, "mlm": 0.5}


def test_languages_are_drawn_by_their_examples_to_the_exponent() -> None:
    options = phase(task="mnli", joint={"mlm": 0.5}, language_exponent=0.5)
    weights = stream_weights(options, {"mnli": {"mnli": 10}, "mlm": {"mlm/de": 900, "mlm/sw": 100}})
    assert weights == {"mnli": 0.5, "mlm/de": pytest.approx(0.375), "mlm/sw": pytest.approx(0.125)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mixture": ["a", "b"]}, "set mixing to proportional, temperature or uniform"),
        ({"mixture": {"a": 1.0}, "mixing": "uniform"}, "is for a mixture that is a list of tasks"),
        ({"task": "a", "mixing": "uniform"}, "is for a mixture that is a list of tasks"),
        ({"mixture": ["a", "a"], "mixing": "uniform"}, "names a task twice"),
        ({"task": "a", "joint": {"a": 0.5}}, "'a' is in joint and trained anyway"),
        ({"task": "a", "joint": {"b": 1.0}}, "leave nothing for a main task"),
        ({"task": "a", "joint": {"b": 0.0}}, "has the share 0"),
        ({"task": "a", "task_languages": {"b": ["de"]}}, "which the phase does not train"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], says: str) -> None:
    assert says in refusal(**options)


@pytest.mark.parametrize(("joint", "steps"), [({}, 50), ({"mlm": 0.5}, 100), ({"mlm": 0.2}, 63)])
def test_epochs_are_passes_over_the_main_tasks_whatever_is_trained_beside_them(
    joint: dict[str, float], steps: int
) -> None:
    from types import SimpleNamespace

    from xlt_scale.training.job import _num_steps

    streams: Any = {
        name: SimpleNamespace(spec=SimpleNamespace(name=name.partition("/")[0]), data=range(size))
        for name, size in (("mnli", 800), ("mlm/de", 5000), ("mlm/sw", 90))
    }
    options = PhaseOptions(name="p", task="mnli", joint=joint, epochs=2.0, batch_size=32)
    assert _num_steps(options, streams) == steps

"""Every task format, trained in one mixture and predicted, by real process groups of both engines."""

import numpy as np
import pytest
from agreement import relative_difference
from small_run import TASKS
from small_runs import ENGINES, FORMAT_STEPS, SmallRuns

pytestmark = [pytest.mark.distributed]


def test_the_mixture_trains_every_format(small_runs: SmallRuns) -> None:
    for name in ENGINES:
        run = small_runs.two[f"{name} formats"][0]
        assert set(run["tasks"]) == set(TASKS)
        assert len(run["losses"]) == FORMAT_STEPS
        assert np.isfinite(run["losses"]).all()


def test_both_engines_agree_on_every_format_at_two_ranks(small_runs: SmallRuns) -> None:
    zero3, fsdp2 = (small_runs.two[f"{name} formats"][0] for name in ENGINES)
    assert relative_difference(zero3["losses"], fsdp2["losses"]) < 1e-5
    assert relative_difference(zero3["norms"], fsdp2["norms"]) < 1e-4


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_world_size_changes_nothing_but_rounding(world_size: int, small_runs: SmallRuns) -> None:
    """Of a dual encoder too, whose loss compares all pairs of the global batch, and of questions with different numbers
    of choices.
    """
    expected = small_runs.two["fsdp2 formats"][0]["losses"]
    for name in ENGINES:
        found = small_runs.at(world_size)[f"{name} formats"][0]["losses"]
        assert relative_difference(found, expected) < 1e-5


def test_a_padded_encoder_trains_every_format_alike_under_both_engines(small_runs: SmallRuns) -> None:
    zero3, fsdp2 = (small_runs.two[f"{name} formats padded"][0]["losses"] for name in ENGINES)
    assert relative_difference(zero3, fsdp2) < 1e-5


def test_predictions_do_not_depend_on_the_micro_batches(small_runs: SmallRuns) -> None:
    for name in ENGINES:
        narrow, wide = (small_runs.two[f"{name} predictions {budget}"][0] for budget in (40, 5000))
        for task, values in narrow.items():
            assert np.allclose(values, wide[task], atol=1e-5), task


def test_every_rank_has_the_predictions_of_all(small_runs: SmallRuns) -> None:
    first, second = small_runs.two["fsdp2 predictions 40"]
    assert first == second


def test_predictions_have_the_rows_that_their_format_asks_for(small_runs: SmallRuns) -> None:
    from small_run import make_data

    found = {task: np.array(values) for task, values in small_runs.two["zero3 predictions 40"][0].items()}
    tags = make_data("tags").token_labels
    assert tags is not None
    assert found["pairs"].shape == (60,)
    assert found["numbers"].shape == (60,)
    assert found["choices"].shape == (20,)
    assert found["tags"].shape == (int((tags >= 0).sum()),)
    assert found["spans"].shape == (len(make_data("spans").input_ids), 2)
    assert found["rankings"].shape == (60, 32)
    assert np.allclose(np.linalg.norm(found["rankings"], axis=1), 1.0, atol=1e-5)

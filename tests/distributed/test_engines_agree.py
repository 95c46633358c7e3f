"""ZeRO-3 and FSDP2 do the same run: weights, losses, gradient norms, whatever the options."""

import numpy as np
import pytest
from agreement import relative_difference
from small_run import BATCH_SIZE, PHASE, make_streams
from small_runs import ENGINES, FAMILIES, LONG, LOPSIDED_STEPS, SHORT, SMALL_BUDGET, SmallRuns

from xlt_scale.config import PhaseOptions

pytestmark = [pytest.mark.distributed]

TOLERANCE = 1e-5
EMBEDDINGS = "encoder.embeddings.word_embeddings.weight"


def test_fresh_weights_are_bit_by_bit_the_same_under_both_engines_at_every_world_size(small_runs: SmallRuns) -> None:
    initial = [small_runs.at(size)[name][0]["initial"] for size in (1, 2, 3, 4) for name in ENGINES]
    assert len(initial[0]) > 40
    assert all(digests == initial[0] for digests in initial)


def test_both_give_the_same_losses_over_twenty_steps_at_two_ranks(small_runs: SmallRuns) -> None:
    zero3, fsdp2 = (small_runs.two[name][0] for name in ENGINES)
    assert len(zero3["losses"]) == LONG == 20
    assert set(zero3["tasks"]) == {"text", "pairs"}
    assert relative_difference(zero3["losses"], fsdp2["losses"]) < TOLERANCE
    assert relative_difference(zero3["norms"], fsdp2["norms"]) < TOLERANCE


def test_that_run_puts_the_engines_to_the_test(small_runs: SmallRuns) -> None:
    """Gradients are clipped in some steps and not in others, ranks have several micro-batches, and spare ones."""
    norms = small_runs.two["fsdp2"][0]["norms"]
    assert min(norms) < PHASE["gradient_clipping"] < max(norms)
    tasks = make_streams(PhaseOptions(**PHASE)).values()
    splits = [
        task.plan.split(step, rank, 2, SMALL_BUDGET).micro_batches
        for task in tasks
        for step in range(SHORT)
        for rank in (0, 1)
    ]
    assert max(len(split) for split in splits) >= 3
    assert any(len(part) == 0 for split in splits for part in split)
    assert all(task.plan.batch_size == BATCH_SIZE for task in tasks)


def test_every_rank_knows_the_global_loss_and_norm(small_runs: SmallRuns) -> None:
    for name in ENGINES:
        first, *others = small_runs.two[name]
        assert all(other["losses"] == first["losses"] and other["norms"] == first["norms"] for other in others)


@pytest.mark.parametrize("variant", ["frozen", "unclipped", "checkpointing", "lopsided", "one micro-batch"])
def test_both_agree_with_other_options_too(variant: str, small_runs: SmallRuns) -> None:
    zero3, fsdp2 = (small_runs.two[f"{name} {variant}"][0] for name in ENGINES)
    assert len(zero3["losses"]) == (LOPSIDED_STEPS if variant == "lopsided" else SHORT)
    assert relative_difference(zero3["losses"], fsdp2["losses"]) < TOLERANCE
    assert relative_difference(zero3["norms"], fsdp2["norms"]) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_both_agree_on_other_families_too(family: str, small_runs: SmallRuns) -> None:
    zero3, fsdp2 = (small_runs.two[f"{name} {family}"][0] for name in ENGINES)
    assert zero3["initial"] == fsdp2["initial"]
    assert relative_difference(zero3["losses"], fsdp2["losses"]) < TOLERANCE
    assert relative_difference(zero3["norms"], fsdp2["norms"]) < TOLERANCE
    unchanged = [
        {name for name in run["initial"] if run["final"][name] == run["initial"][name]} for run in (zero3, fsdp2)
    ]
    assert unchanged[0] == unchanged[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_embeddings_keep_their_values_and_all_else_learns(engine: str, small_runs: SmallRuns) -> None:
    for answers in (small_runs.one, small_runs.two):
        run = answers[f"{engine} frozen"][0]
        kept = {name for name, digest in run["initial"].items() if run["final"][name] == digest}
        tables = {f"encoder.embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")}
        assert kept == tables
    assert small_runs.two[engine][0]["final"][EMBEDDINGS] != small_runs.two[engine][0]["initial"][EMBEDDINGS]


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_embeddings_are_not_rounded_to_bf16(engine: str, small_runs: SmallRuns) -> None:
    run = small_runs.two[f"{engine} bf16 frozen"][0]
    assert run["final"][EMBEDDINGS] == run["initial"][EMBEDDINGS]


@pytest.mark.parametrize("engine", ENGINES)
def test_recomputing_activations_changes_no_loss(engine: str, small_runs: SmallRuns) -> None:
    base = small_runs.two[engine][0]["losses"]
    assert relative_difference(small_runs.two[f"{engine} checkpointing"][0]["losses"], base) < TOLERANCE


def test_in_bf16_both_start_alike_and_stay_within_rounding_of_each_other(small_runs: SmallRuns) -> None:
    """Forward passes are equal to the bit. Backward ones are not: the engines' hooks change the order in which PyTorch
    adds up, in bf16, the gradients of a tensor that is used several times.
    """
    zero3, fsdp2 = (small_runs.two[f"{name} bf16"][0] for name in ENGINES)
    fp32 = small_runs.two["fsdp2"][0]
    assert zero3["initial"] == fsdp2["initial"] == fp32["initial"]
    assert zero3["losses"][0] == fsdp2["losses"][0]
    assert relative_difference(zero3["losses"], fsdp2["losses"]) < 2e-3
    assert 1e-4 < relative_difference(fsdp2["losses"], fp32["losses"]) < 0.02


def test_offloading_the_optimiser_changes_no_loss(small_runs: SmallRuns) -> None:
    assert (
        relative_difference(small_runs.two["zero3 offload"][0]["losses"], small_runs.two["zero3"][0]["losses"]) < 1e-6
    )


def test_partitioning_even_the_smallest_parameters_changes_no_loss(small_runs: SmallRuns) -> None:
    """With the default threshold a model as small as this one is gathered all the time."""
    found = small_runs.two["zero3 partitioned"][0]
    assert relative_difference(found["losses"], small_runs.two["zero3"][0]["losses"]) < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_predictions_come_in_the_datas_order_on_every_rank_whatever_the_token_budget(
    engine: str, small_runs: SmallRuns
) -> None:
    found = [small_runs.two[f"{engine} classes {budget}"][rank] for budget in (40, 5000) for rank in (0, 1)]
    other = small_runs.two["zero3 classes 40"][0]
    assert len(np.unique(other)) > 1
    assert all(classes == other for classes in found)


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_that_are_loaded_after_a_prediction_are_those_that_predict_next(
    engine: str, small_runs: SmallRuns
) -> None:
    found = small_runs.two[f"{engine} loads after prediction"][0]
    assert found["changed"] > 0.1
    assert found["after_prediction"] < 1e-6
    assert found["after_training"] < 1e-6


@pytest.mark.parametrize("setting", ["unknown setting", "wrong setting"])
def test_what_deepspeed_refuses_is_one_line_with_the_files_name(setting: str, small_runs: SmallRuns) -> None:
    message = small_runs.one[f"zero3 {setting}"][0]
    assert "DeepSpeed refuses it" in message
    assert ".json" in message
    assert ("colour" in message) or ("reduce_bucket_size" in message)
    assert "\n" not in message

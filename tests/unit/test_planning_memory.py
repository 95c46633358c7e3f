"""Bytes on a device: what moves them, and the rules that the planner shares with the engines."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.planning import activations, memory, residence
from xlt_scale.planning.hardware import GIB
from xlt_scale.planning.known_hardware import find_cluster
from xlt_scale.planning.memory import moment_bytes, predict_memory
from xlt_scale.planning.shapes import shape_of
from xlt_scale.planning.workload import Layout, Lengths, Workload
from xlt_scale.sizes import find_size

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from planner_accuracy_rows import all_rows

NLI = Lengths(mean=42.9, mean_square=2300.0, longest=128)
XL, XXL = (Workload(shape_of(find_size(name)), NLI, 256) for name in ("xlmr-xl", "xlmr-xxl"))
H200, EIGHT = find_cluster("h200"), find_cluster("hgx-h200")


def gib(workload: Workload, layout: Layout) -> float:
    return predict_memory(workload, layout, H200 if layout.num_devices == 1 else EIGHT).total / GIB


def test_the_peak_measured_on_a_gpu_is_predicted_within_7_percent() -> None:
    measured = [row for row in all_rows() if row.source == "one H200" and row.memory_gib]
    assert measured
    for row in measured:
        predicted = predict_memory(row.workload, row.layout, row.cluster).allocated / GIB
        assert predicted == pytest.approx(row.memory_gib, rel=0.07), row.name


def test_padded_batches_that_ran_out_of_memory_are_predicted_to() -> None:
    padded = replace(XL, lengths=replace(NLI, padding=128 / NLI.mean))
    stock = Layout("zero3", 1, max_tokens_per_micro_batch=32_768, stock=True, gradient_bytes=2)
    assert gib(padded, stock) > H200.device.memory_gib
    assert gib(replace(padded, batch_size=128), stock) < H200.device.memory_gib


def test_xxl_fits_one_h200_with_8_bit_states_and_not_with_32() -> None:
    layout = Layout("fsdp2", 1, activation_checkpointing=True)
    assert gib(replace(XXL, optimizer="adamw_8bit"), layout) < H200.device.memory_gib < gib(XXL, layout)


@pytest.mark.parametrize("engine", ["fsdp2", "zero3"])
def test_states_are_divided_by_the_devices_of_a_replica(engine: str) -> None:
    one, eight = (predict_memory(XL, Layout(engine, count, stock=True), EIGHT) for count in (1, 8))  # type: ignore[arg-type]
    assert one.optimizer == pytest.approx(8 * eight.optimizer, abs=8)
    assert one.parameters == pytest.approx(8 * eight.parameters, abs=8)
    halves = predict_memory(XL, Layout("fsdp2", 8, replicas=2), EIGHT)
    assert halves.optimizer == pytest.approx(one.optimizer / 4, abs=8)


def test_8_bit_states_take_two_bytes_of_matrices_and_eight_of_embeddings() -> None:
    found = moment_bytes(replace(XL, optimizer="adamw_8bit"))
    shape = XL.shape
    expected = 8 * shape.num_embedding_parameters + 2 * shape.num_non_embedding_parameters
    assert found == pytest.approx(expected, rel=0.02)
    assert found > expected


def test_activations_grow_with_the_budget_until_a_step_is_one_micro_batch() -> None:
    sizes = [
        predict_memory(XL, Layout("fsdp2", 1, max_tokens_per_micro_batch=budget), H200).activations
        for budget in (2048, 4096, 16_384, 32_768)
    ]
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.01)
    assert sizes[2] == sizes[3]


def test_gradients_meet_the_activations_only_when_several_micro_batches_are_summed() -> None:
    one, several = (
        predict_memory(XL, Layout("fsdp2", 1, max_tokens_per_micro_batch=budget), H200) for budget in (16_384, 8192)
    )
    assert one.moment == several.moment == "backward begins"
    assert (one.gradients, several.gradients) == (0, 4 * XL.shape.num_parameters)


def test_offloaded_states_lie_in_host_memory() -> None:
    here, there = (predict_memory(XL, Layout("zero3", 1, offload=place), H200) for place in ("none", "optimizer"))
    assert there.optimizer == 0
    assert there.host == 16 * XL.shape.num_parameters
    assert here.total - there.total > 12 * XL.shape.num_parameters


def test_adapters_leave_frozen_weights_and_little_else() -> None:
    adapters = replace(XXL, trained_share=0.004, trains_embeddings=False, four_bit=True)
    found = predict_memory(adapters, Layout("zero3", 1, activation_checkpointing=True), H200)
    assert 0.5 * XXL.shape.num_parameters < found.parameters < 0.75 * XXL.shape.num_parameters
    assert found.total / GIB < 15


@pytest.mark.parametrize("engine", ["zero3", "fsdp2"])
def test_four_bit_weights_lie_whole_on_every_device_and_are_not_gathered(engine: Any) -> None:
    adapters = replace(XXL, trained_share=0.004, trains_embeddings=False)
    shared, whole = (
        predict_memory(workload, Layout(engine, 8, keep_gathered=True), H200)
        for workload in (adapters, replace(adapters, four_bit=True))
    )
    assert whole.parameters > 0.5 * XXL.shape.num_non_embedding_parameters > 1.5 * shared.parameters
    assert shared.buffers - whole.buffers > 1.9 * XXL.shape.num_non_embedding_parameters


def test_rules_are_those_of_the_engines(root: Path) -> None:
    from xlt_scale.engines import working_copy
    from xlt_scale.modeling import vocabulary_loss

    zero = json.loads((root / "ds_configs" / "zero3.json").read_text())["zero_optimization"]
    assert zero["reduce_bucket_size"] == memory.ZERO3_BUCKET
    assert zero["stage3_max_live_parameters"] == memory.ZERO3_LIVE
    assert zero["stage3_max_reuse_distance"] == memory.ZERO3_REUSE_DISTANCE
    assert zero["sub_group_size"] == memory.ZERO3_SUB_GROUP
    assert residence.SHARE_OF_MEMORY == working_copy._SHARE_OF_MEMORY
    assert activations.CHUNK_ELEMENTS == vocabulary_loss.CHUNK_ELEMENTS

"""Seconds of a step: what they are made of, and how near they come to what was measured."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xlt_scale.data.plan import BatchPlan
from xlt_scale.planning.communication import HOP_SECONDS, LINK_SHARE, collective_seconds
from xlt_scale.planning.hardware import Cluster
from xlt_scale.planning.known_hardware import find_cluster
from xlt_scale.planning.layer_time import layer_time, product_seconds
from xlt_scale.planning.micro_batches import split_step
from xlt_scale.planning.prediction import TimePrediction
from xlt_scale.planning.shapes import shape_of
from xlt_scale.planning.step_time import predict_step
from xlt_scale.planning.workload import Layout, Lengths, Workload
from xlt_scale.sizes import find_size, training_flops

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from planner_accuracy_rows import Row, all_rows

NLI = Lengths(mean=42.9, mean_square=2300.0, longest=128)
XL = Workload(shape_of(find_size("xlmr-xl")), NLI, 256)
H200, EIGHT = find_cluster("h200"), find_cluster("hgx-h200")
WIDE = Layout("fsdp2", 1, max_tokens_per_micro_batch=16_384)


def step(workload: Workload, layout: Layout, cluster: Cluster = H200) -> TimePrediction:
    return predict_step(workload, layout, cluster)


def error(row: Row) -> float:
    found = step(row.workload, row.layout, row.cluster).tokens_per_second / row.layout.num_devices
    return found / row.tokens_per_second - 1


@pytest.mark.parametrize("row", [row for row in all_rows() if row.source == "one H200"], ids=lambda row: row.name)
def test_speeds_measured_on_one_h200_are_predicted_within_15_percent(row: Row) -> None:
    assert abs(error(row)) < 0.15


def test_published_speeds_on_a100_clusters_are_predicted_within_15_percent_on_average() -> None:
    errors = [abs(error(row)) for row in all_rows() if "A100" in row.source]
    assert np.mean(errors) < 0.06
    assert np.mean(np.array(errors) < 0.15) > 0.9


def test_parts_add_up_and_mfu_counts_what_the_loop_counts() -> None:
    found = step(XL, WIDE)
    parts = found.compute + found.optimizer + found.exposed_communication + found.overhead
    assert found.seconds == pytest.approx(parts)
    shape = XL.shape
    flops = training_flops(
        shape.num_non_embedding_parameters,
        shape.num_layers,
        shape.hidden_size,
        round(256 * NLI.mean),
        round(256 * NLI.mean_square),
    )
    assert found.mfu == pytest.approx(flops / found.seconds / 989e12, rel=1e-3)


def test_one_device_exchanges_nothing_and_several_do() -> None:
    assert step(XL, WIDE).exposed_communication == 0
    assert step(XL, Layout("fsdp2", 8), EIGHT).exposed_communication > 0


def test_small_batches_are_bound_by_the_optimiser() -> None:
    small, large = step(replace(XL, batch_size=8), WIDE), step(XL, WIDE)
    assert small.optimizer == large.optimizer
    assert small.optimizer > 0.3 * small.seconds
    assert large.optimizer < 0.15 * large.seconds


def test_checkpointing_costs_about_a_forward_pass_and_selective_much_less() -> None:
    plain, selective, whole = (
        step(XL, replace(WIDE, activation_checkpointing=policy)).compute for policy in (False, "selective", True)
    )
    assert 1.25 < whole / plain < 1.36
    assert 1.0 < selective / plain < 1.1
    every_second = step(XL, replace(WIDE, activation_checkpointing=True, checkpoint_every=2)).compute
    assert every_second == pytest.approx((plain + whole) / 2, rel=0.001)


def test_compiled_layers_and_float8_are_faster() -> None:
    plain = step(XL, WIDE).compute
    assert step(XL, replace(WIDE, compile=True)).compute < plain
    assert step(XL, replace(WIDE, float8=True)).compute < 0.85 * plain


def test_frozen_weights_need_no_products_of_their_own() -> None:
    adapters = replace(XL, trained_share=0.005, trains_embeddings=False)
    assert 0.6 < step(adapters, WIDE).compute / step(XL, WIDE).compute < 0.75
    frozen_embeddings = replace(XL, trained_share=0.81, trains_embeddings=False)
    assert step(frozen_embeddings, WIDE).compute == pytest.approx(step(XL, WIDE).compute, rel=0.03)


def test_a_product_that_fills_its_last_wave_of_tiles_badly_is_slower_per_operation() -> None:
    # 132 processors: 12 x 11 tiles of 128 x 256 are one wave, one row of tiles more takes a second one.
    full = product_seconds(H200.device, 12 * 128, 11 * 256, 4096, 2)
    over = product_seconds(H200.device, 13 * 128, 11 * 256, 4096, 2)
    assert over > 1.3 * full


def test_the_host_decides_where_a_layer_has_few_tokens() -> None:
    few = replace(XL, batch_size=1)
    found = step(few, Layout("zero3", 1, stock=True))
    time = layer_time(few, Layout("zero3", 1, stock=True), H200.device, 43.0)
    assert time.host_forward > time.forward
    assert found.overhead > 0.5 * found.seconds


def test_a_ring_sends_all_but_its_own_part_over_the_slowest_link() -> None:
    cluster = replace(EIGHT, num_nodes=2)
    num_bytes = 1e9
    inside = collective_seconds(cluster, Layout("fsdp2", 16, 2), 8, num_bytes)
    across = collective_seconds(cluster, Layout("fsdp2", 16, 2), 16, num_bytes)
    assert inside == pytest.approx(20e-6 + 7 * HOP_SECONDS + 7 / 8 * num_bytes / (LINK_SHARE * 450e9))
    # Eight ports of 50 GB/s carry eight rings.
    assert across == pytest.approx(20e-6 + 15 * HOP_SECONDS + 15 / 16 * num_bytes / (LINK_SHARE * 400e9))


def test_hybrid_sharding_sends_less_over_the_network_than_gathering_twice() -> None:
    slow = replace(EIGHT, num_nodes=4, network_bandwidth=1.5e9)
    layout = Layout("fsdp2", 32, 4, max_tokens_per_micro_batch=16_384, keep_gathered=False)
    one, hybrid = (
        step(replace(XL, batch_size=1024), replace(layout, replicas=replicas), slow).exposed_communication
        for replicas in (1, 4)
    )
    # Over each port: weights twice and gradients once in 31 of 32 parts, against an all-reduce of an eighth.
    assert 0.7 < hybrid / one < 0.85


@pytest.mark.parametrize(("batch_size", "num_devices", "budget"), [(64, 1, 1024), (512, 4, 2048), (256, 8, 8192)])
def test_steps_are_split_as_the_batch_plan_does(batch_size: int, num_devices: int, budget: int) -> None:
    random = np.random.default_rng(3)
    tokens = np.clip(random.lognormal(np.log(38), 0.5, 20_000).astype(int), 4, 128)
    lengths = Lengths(float(tokens.mean()), float((tokens.astype(float) ** 2).mean()), 128)
    workload = replace(XL, lengths=lengths, batch_size=batch_size)
    expected = split_step(workload, Layout("fsdp2", num_devices, max_tokens_per_micro_batch=budget))
    plan = BatchPlan(tokens, batch_size, key=(1,))
    shares = [plan.split(number, 0, num_devices, budget).micro_batches for number in range(20)]
    counts = [len(share) for share in shares]
    largest = max(int(tokens[batch].sum()) for share in shares for batch in share)
    assert expected.number == pytest.approx(np.mean(counts), abs=0.51)
    assert largest <= expected.largest <= 1.4 * largest

"""Which layouts are offered, which of them fit, and what is said where none does."""

from dataclasses import replace

import pytest

from xlt_scale.config import EngineOptions
from xlt_scale.errors import UserError
from xlt_scale.planning.choice import (
    candidates,
    fastest_first,
    fewest_devices,
    num_settings,
    plan_layouts,
    smaller_states,
    why_not,
)
from xlt_scale.planning.hardware import GIB
from xlt_scale.planning.known_hardware import find_cluster, find_device
from xlt_scale.planning.shapes import shape_of
from xlt_scale.planning.workload import Layout, Lengths, Workload
from xlt_scale.sizes import find_size

NLI = Lengths(mean=42.9, mean_square=2300.0, longest=128)
LARGE, XL, XXL = (Workload(shape_of(find_size(name)), NLI, 256) for name in ("xlmr-large", "xlmr-xl", "xlmr-xxl"))
H200, EIGHT, H100 = (find_cluster(name) for name in ("h200", "hgx-h200", "dgx-h100"))


def test_every_candidate_is_an_engine_table() -> None:
    found = candidates(replace(XXL, optimizer="adamw_8bit"), replace(EIGHT, num_nodes=2), 16)
    assert {layout.engine for layout in found} == {"fsdp2", "zero3"}
    assert {layout.replicas for layout in found} == {1, 2}
    for layout in found:
        EngineOptions(**layout.engine_settings())  # type: ignore[arg-type]


def test_without_masters_deepspeed_is_not_asked_to_offload() -> None:
    found = candidates(replace(XXL, precision="bf16_stochastic"), H200, 1)
    assert {layout.engine for layout in found if layout.offload == "optimizer"} == {"fsdp2"}


def test_no_candidate_asks_an_engine_for_what_it_cannot_do() -> None:
    found = candidates(XXL, replace(EIGHT, num_nodes=2), 16)
    assert not [layout for layout in found if layout.engine == "zero3" and layout.replicas > 1]
    assert not [layout for layout in found if layout.offload == "paged"]


@pytest.mark.parametrize(
    "fixed",
    [
        {"name": "zero3"},
        {"activation_checkpointing": True, "checkpoint_every": 6},
        {"max_tokens_per_micro_batch": 3000, "compile": False},
        {"offload": "optimizer", "float8": True},
        {"keep_gathered": True},
    ],
    ids=str,
)
def test_what_the_user_has_set_stays(fixed: dict[str, object]) -> None:
    found = candidates(XL, H200, 1, fixed)
    assert found
    for layout in found:
        assert fixed.items() <= layout.engine_settings().items()


def test_plans_fit_and_the_first_is_nearly_the_fastest() -> None:
    plans = plan_layouts(replace(XXL, optimizer="adamw_8bit"), H200)
    assert all(plan.memory.total <= H200.device.memory_gib * GIB for plan in plans)
    seconds = [plan.time.seconds for plan in plans]
    assert seconds[0] <= 1.02 * min(seconds)
    assert seconds[1:] == sorted(seconds[1:])


def test_of_nearly_equal_layouts_the_simplest_is_taken() -> None:
    simple = Layout("fsdp2", 1)
    complicated = replace(simple, compile=True, activation_checkpointing=True)
    times = {simple: 1.01, complicated: 1.0}
    assert num_settings(simple) < num_settings(complicated)
    assert fastest_first(times, times.__getitem__, lambda layout: layout) == [simple, complicated]
    times[simple] = 1.1
    assert fastest_first(times, times.__getitem__, lambda layout: layout) == [complicated, simple]


def test_a_model_that_fits_anyhow_is_neither_computed_again_nor_offloaded() -> None:
    layout = plan_layouts(LARGE, H200)[0].layout
    assert (layout.activation_checkpointing, layout.offload, layout.keep_gathered) == (False, "none", "auto")


def test_the_fewest_devices_that_a_run_fits_on_are_found() -> None:
    few = fewest_devices(XXL, H100)
    assert few is not None
    assert few.layout.num_devices == 4
    assert few.layout.offload == "none"
    assert not plan_layouts(XXL, replace(H100, devices_per_node=2), {"offload": "none"})


def test_where_nothing_fits_the_part_and_the_mend_are_named() -> None:
    said = why_not(XXL, H200, {"name": "fsdp2", "offload": "none"})
    assert said.startswith("xlmr-xxl needs ")
    assert "h200 has 139.8" in said
    assert said.endswith("it fits with optimizer = 'adamw_8bit', which is another experimental condition")


def test_states_without_masters_are_a_mend_where_8_bits_are_not_enough() -> None:
    a100 = replace(H200, device=replace(H200.device, name="a100", memory_gib=79.1))
    said = why_not(replace(XXL, batch_size=32), a100, {"name": "fsdp2", "offload": "none"})
    assert "it fits with optimizer = 'adamw_8bit' and engine.precision = 'bf16_stochastic'" in said


def test_they_are_none_beside_adapters_or_in_fp32() -> None:
    adapters = replace(XXL, trained_share=0.001, trains_embeddings=False)
    assert [settings for _, settings in smaller_states([adapters])] == ["optimizer = 'adamw_8bit'"]
    assert not list(smaller_states([replace(XXL, precision="fp32")]))


def test_the_mend_of_a_fixed_option_is_that_option() -> None:
    fixed: dict[str, object] = {
        "name": "fsdp2",
        "activation_checkpointing": False,
        "max_tokens_per_micro_batch": 32_768,
    }
    said = why_not(replace(XXL, optimizer="adamw_8bit"), H200, fixed | {"offload": "none"})
    mend = said.split("it fits with ")[1]
    assert "engine.activation_checkpointing = " in mend or "engine.max_tokens_per_micro_batch = " in mend


def test_more_devices_are_advised_where_there_are_nodes_of_several() -> None:
    huge = Workload(shape_of(find_size("planned-40b")), NLI, 1024, optimizer="adamw_8bit")
    said = why_not(huge, replace(H100, devices_per_node=2), {"offload": "none"})
    assert said.endswith("it fits on 8 devices")


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="h200"):
        find_device("h20")
    with pytest.raises(UserError, match="dgx-h100"):
        find_cluster("dgx-h10")

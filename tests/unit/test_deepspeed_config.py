"""DeepSpeed's settings: what the run says is filled in, and where file and run contradict each other both are named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt_scale.config import EngineOptions, PhaseOptions
from xlt_scale.engines import cluster_settings
from xlt_scale.engines.cluster_settings import fit_to_cluster
from xlt_scale.engines.deepspeed_config import DEFAULT_FILE, deepspeed_settings, quantised_communication
from xlt_scale.engines.node_layout import NodeLayout
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError

PHASE = PhaseOptions(name="target", task="pairs", steps=10, batch_size=32, gradient_clipping=0.5)


def settings_of(tmp_path: Path, table: Any, precision: str = "bf16", world_size: int = 4) -> dict[str, Any]:
    """The settings from a file with these keys and ZeRO stage 3."""
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}} | table if isinstance(table, dict) else table))
    return deepspeed_settings(EngineOptions(deepspeed_config=str(path)), PHASE, precision, world_size)


def refusal(tmp_path: Path, table: Any, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        settings_of(tmp_path, table, **arguments)
    message = str(error.value)
    assert str(tmp_path / "own.json") in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("precision", "is_bf16"), [("bf16", True), ("fp32", False)])
def test_the_default_file_gets_everything_that_the_run_says(precision: str, is_bf16: bool) -> None:
    settings = deepspeed_settings(EngineOptions(), PHASE, precision, 4)
    assert settings["gradient_clipping"] == 0.5
    assert settings["bf16"] == {"enabled": is_bf16}
    assert "fp16" not in settings
    assert settings["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize("file", sorted(DEFAULT_FILE.parent.glob("*.json")), ids=lambda file: file.name)
def test_the_named_files_fit_any_run(file: Path) -> None:
    for precision in ("fp32", "bf16"):
        deepspeed_settings(EngineOptions(deepspeed_config=str(file)), PHASE, precision, 3)


def test_without_masters_deepspeed_keeps_its_partition_in_bf16() -> None:
    settings = deepspeed_settings(EngineOptions(), PHASE, "bf16_stochastic", 4)
    assert settings["bf16"] == {
        "enabled": True,
        "bf16_master_weights_and_grads": True,
        "bf16_optimizer_states": True,
    }


def test_a_file_may_say_bf16_where_the_run_is_without_masters(tmp_path: Path) -> None:
    assert settings_of(tmp_path, {"bf16": {"enabled": True}}, precision="bf16_stochastic")["bf16"]["enabled"]


@pytest.mark.parametrize("device", ["cpu", "nvme"])
def test_what_is_offloaded_needs_masters(tmp_path: Path, device: str) -> None:
    table = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": device}}}
    with pytest.raises(UserError, match=f"offloaded to '{device}'.*; use engine.name = 'fsdp2', or do not offload"):
        settings_of(tmp_path, table, precision="bf16_stochastic")
    with pytest.raises(UserError, match="offloaded to 'cpu'"):
        deepspeed_settings(EngineOptions(offload="optimizer"), PHASE, "bf16_stochastic", 4)


@pytest.mark.parametrize("key", ["bf16_master_weights_and_grads", "bf16_optimizer_states"])
def test_deepspeeds_own_way_without_masters_is_refused(tmp_path: Path, key: str) -> None:
    message = refusal(tmp_path, {"bf16": {"enabled": True, key: True}})
    assert f"bf16.{key} would lose every update that is small beside its weight" in message
    assert "engine.precision = 'bf16_stochastic'" in message


def test_deepspeeds_own_batch_counts_agree_with_each_other(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {}, world_size=6)
    product = settings["train_micro_batch_size_per_gpu"] * settings["gradient_accumulation_steps"] * 6
    assert settings["train_batch_size"] == product


def test_gradients_are_reduced_and_accumulated_in_fp32_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {})
    assert settings["communication_data_type"] == "fp32"
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}
    own = {"communication_data_type": "bf16", "data_types": {"grad_accum_dtype": "bf16"}}
    settings = settings_of(tmp_path, own)
    assert settings["communication_data_type"] == "bf16"
    assert settings["data_types"] == {"grad_accum_dtype": "bf16"}


def test_offloading_works_with_the_runs_own_optimiser(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}})
    assert settings["zero_force_ds_cpu_optimizer"] is False
    assert settings["zero_allow_untested_optimizer"] is True


@pytest.mark.parametrize(
    ("zero", "complaint"),
    [
        ({"mics_shard_size": 2}, "mics_shard_size is not supported"),
        ({"offload_param": {"device": "nvme"}}, 'offload_param.device = "nvme" is not supported'),
        ({"zero_quantized_nontrainable_weights": True}, "a checkpoint could not follow"),
    ],
    ids=["mics", "parameters_on_nvme", "quantised_frozen_weights"],
)
def test_partitions_that_no_checkpoint_could_follow_are_refused(
    tmp_path: Path, zero: dict[str, Any], complaint: str
) -> None:
    assert complaint in refusal(tmp_path, {"zero_optimization": {"stage": 3} | zero})


def test_eight_bit_states_are_not_swapped_to_nvme(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}))
    phase = PHASE.model_copy(update={"optimizer": "adamw_8bit"})
    with pytest.raises(UserError, match="cannot swap 8-bit states to NVMe; use optimizer = 'adamw'"):
        deepspeed_settings(EngineOptions(deepspeed_config=str(path)), phase, "fp32", 2)


def test_a_repeatable_run_takes_pytorchs_own_linear_layers() -> None:
    settings = deepspeed_settings(EngineOptions(repeatable=True), PHASE, "bf16", 2)
    assert settings["zero_optimization"]["memory_efficient_linear"] is False
    assert "memory_efficient_linear" not in deepspeed_settings(EngineOptions(), PHASE, "bf16", 2)["zero_optimization"]


def test_compiled_layers_take_pytorchs_own_linear_layers(tmp_path: Path) -> None:
    settings = deepspeed_settings(EngineOptions(compile=True), PHASE, "bf16", 2)
    assert settings["zero_optimization"]["memory_efficient_linear"] is False
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, "memory_efficient_linear": True}}))
    with pytest.raises(UserError, match=r"own\.json: .*memory_efficient_linear = true cannot be compiled.*remove"):
        deepspeed_settings(EngineOptions(deepspeed_config=str(path), compile=True), PHASE, "bf16", 2)


def test_other_keys_of_the_file_stay(tmp_path: Path) -> None:
    table = {"comms_logger": {"enabled": True}, "zero_optimization": {"stage": 3, "reduce_bucket_size": 7}}
    settings = settings_of(tmp_path, table)
    assert settings["comms_logger"] == {"enabled": True}
    assert settings["zero_optimization"]["reduce_bucket_size"] == 7


def test_what_agrees_with_the_run_is_no_contradiction(tmp_path: Path) -> None:
    table = {"train_batch_size": 32, "gradient_clipping": 0.5, "bf16": {"enabled": True}, "fp16": {"enabled": False}}
    assert settings_of(tmp_path, table)["bf16"] == {"enabled": True}


def test_auto_means_that_the_run_or_the_library_decides(tmp_path: Path) -> None:
    table = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"},
    }
    settings = settings_of(tmp_path, table)
    assert settings["gradient_clipping"] == 0.5
    assert settings["bf16"] == {"enabled": True}
    assert settings["zero_optimization"] == {"stage": 3}


@pytest.mark.parametrize(
    ("table", "both_sides"),
    [
        ({"train_batch_size": 64}, ("train_batch_size = 64", "batch_size = 32 in phase 'target'")),
        (
            {"train_micro_batch_size_per_gpu": 8},
            ("train_micro_batch_size_per_gpu = 8", "engine.max_tokens_per_micro_batch"),
        ),
        ({"gradient_accumulation_steps": 2}, ("gradient_accumulation_steps = 2", "engine.max_tokens_per_micro_batch")),
        ({"gradient_clipping": 1.0}, ("gradient_clipping = 1.0", "gradient_clipping = 0.5 in phase 'target'")),
        ({"bf16": {"enabled": False}}, ("bf16.enabled = false", "engine.precision = 'bf16'")),
        ({"fp16": {"enabled": True}}, ("fp16.enabled = true", "engine.precision = 'bf16'")),
        ({"torch_autocast": {"enabled": True}}, ("torch_autocast.enabled = true", "engine.precision = 'bf16'")),
        ({"zero_optimization": {"stage": 2}}, ("zero_optimization.stage = 2", "engine.name = 'zero3'")),
        ({"zero_optimization": {}}, ("zero_optimization.stage = null", "engine.name = 'zero3'")),
        ({"optimizer": {"type": "Adam"}}, ("optimizer is set there", "the run's phases set it")),
        ({"scheduler": {"type": "WarmupLR"}}, ("scheduler is set there", "the run's phases set it")),
        ({"zero_force_ds_cpu_optimizer": True}, ("zero_force_ds_cpu_optimizer = true", "the run has PyTorch's AdamW")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_contradiction_names_both_sides(table: Any, both_sides: tuple[str, str], tmp_path: Path) -> None:
    message = refusal(tmp_path, table)
    for side in both_sides:
        assert side in message


def test_bf16_in_the_file_contradicts_fp32_in_the_run(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"bf16": {"enabled": True}}, precision="fp32")
    assert "bf16.enabled = true" in message
    assert "engine.precision = 'fp32'" in message


def test_batch_sizes_for_another_world_size_are_named_with_it(tmp_path: Path) -> None:
    table = {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2}
    message = refusal(tmp_path, table, world_size=4)
    assert "its batch sizes are for 8 processes, but 4 are running" in message


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"train_batch_size": "many"}, 'train_batch_size = "many" is not a number'),
        ({"gradient_clipping": True}, "gradient_clipping = true is not a number"),
        ({"bf16": True}, "bf16 = true is not a table"),
        ({"zero_optimization": 3}, "zero_optimization = 3 is not a table"),
        ({"data_types": "fp32"}, 'data_types = "fp32" is not a table'),
        (["zero3"], "a DeepSpeed configuration is a JSON object"),
    ],
)
def test_values_of_the_wrong_kind_are_named(table: Any, complaint: str, tmp_path: Path) -> None:
    assert complaint in refusal(tmp_path, table)


def test_a_missing_file_a_folder_and_no_json_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for name, complaint in (("absent.json", "no such"), (".", "Is a directory"), ("broken.json", "not JSON")):
        options = EngineOptions(deepspeed_config=str(tmp_path / name))
        with pytest.raises(UserError, match=complaint) as error:
            deepspeed_settings(options, PHASE, "bf16", 1)
        assert str(tmp_path) in str(error.value)


def fitted(
    tmp_path: Path, zero: dict[str, Any], nodes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, device: str = "cpu"
) -> dict[str, Any]:
    """ZeRO's settings on nodes with so many processes each, from a file with these keys."""
    communication = zero.pop("communication_data_type", "auto")
    table = {"zero_optimization": {"stage": 3} | zero, "communication_data_type": communication}
    settings = settings_of(tmp_path, table, world_size=sum(nodes))
    monkeypatch.setattr(cluster_settings, "find_nodes", lambda world: NodeLayout(nodes))
    fit_to_cluster(settings, tmp_path / "own.json", World(0, sum(nodes), 0, torch.device(device)))
    return dict(settings["zero_optimization"])


@pytest.mark.parametrize("automatic", ["auto", 0])
@pytest.mark.parametrize(
    ("nodes", "size"), [((8, 8), 8), ((4, 4, 4), 4), ((8,), 1), ((1, 1), 1)], ids=["two", "three", "one", "one_each"]
)
def test_the_hierarchical_partition_is_as_large_as_a_node(
    tmp_path: Path, automatic: Any, nodes: tuple[int, ...], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fitted(tmp_path, {"zero_hpz_partition_size": automatic}, nodes, monkeypatch)
    assert found["zero_hpz_partition_size"] == size


def test_a_part_of_a_node_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted(tmp_path, {"zero_hpz_partition_size": 2}, (4, 2), monkeypatch)["zero_hpz_partition_size"] == 2


@pytest.mark.parametrize(
    ("zero", "nodes", "complaint"),
    [
        ({"zero_hpz_partition_size": 8}, (4, 4), "= 8, but a node has 4 processes: the partition would cross nodes"),
        ({"zero_hpz_partition_size": 3}, (4, 4), "= 3, but a node has 4 processes"),
        ({"zero_hpz_partition_size": "auto"}, (4, 2), '= "auto", but the nodes have 4, 2 processes'),
        ({"zero_hpz_partition_size": "node"}, (4, 4), 'write "auto" (processes per node) or a count'),
        ({"zero_hpz_partition_size": "auto", "offload_param": {"device": "cpu"}}, (2, 2), "remove one of them"),
        ({"zero_quantized_weights": True}, (2, 2), "zero_quantized_weights needs DeepSpeed's CUDA quantiser"),
        ({"zero_quantized_gradients": True}, (2, 2), "zero_quantized_gradients needs DeepSpeed's CUDA quantiser"),
    ],
)
def test_what_does_not_fit_the_cluster_is_refused_in_one_line(
    tmp_path: Path, zero: dict[str, Any], nodes: tuple[int, ...], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as error:
        fitted(tmp_path, dict(zero), nodes, monkeypatch)
    assert complaint in str(error.value)
    assert "own.json" in str(error.value) and "\n" not in str(error.value)


def test_gradients_are_quantised_from_fp16_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's kernel reads whatever it gets as fp16."""
    quantised = {"zero_quantized_gradients": True}
    with pytest.raises(UserError, match='but communication_data_type = "fp32"; set that to "fp16"'):
        fitted(tmp_path, dict(quantised), (2, 2), monkeypatch, "cuda")
    found = fitted(tmp_path, quantised | {"communication_data_type": "fp16"}, (2, 2), monkeypatch, "cuda")
    assert found["zero_quantized_gradients"] is True


def test_quantised_communication_is_announced_as_unmeasured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="xlt_scale"):
        fitted(tmp_path, {"zero_quantized_weights": True}, (2, 2), monkeypatch, "cuda")
    (line,) = caplog.messages
    assert line.startswith("own.json: zero_quantized_weights: unmeasured here; results change by more than rounding")


def test_quantised_communication_is_known_before_the_engine_is_built(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}))
    assert quantised_communication(EngineOptions(deepspeed_config=str(path))) == ["zero_quantized_weights"]
    assert quantised_communication(EngineOptions()) == []
    hpz = DEFAULT_FILE.parent / "zero3_hpz.json"
    assert quantised_communication(EngineOptions(deepspeed_config=str(hpz))) == []

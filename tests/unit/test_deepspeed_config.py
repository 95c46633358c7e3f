"""DeepSpeed's settings: what the run says is filled in, and where file and run contradict each other both are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from xlt_scale.config import EngineOptions, PhaseOptions
from xlt_scale.engines.deepspeed_config import DEFAULT_FILE, deepspeed_settings
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
    ],
    ids=["mics", "parameters_on_nvme"],
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

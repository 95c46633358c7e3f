"""The DeepSpeed configuration of a phase: a JSON file, with everything the run already says filled in.

What both say must agree; a contradiction is an error that names both.
"""

import json
from pathlib import Path
from typing import Any

from xlt_scale.config import EngineOptions, PhaseOptions
from xlt_scale.errors import UserError

DEFAULT_FILE = Path(__file__).resolve().parents[2] / "ds_configs" / "zero3.json"

QUANTISED = ("zero_quantized_weights", "zero_quantized_gradients")
"""Keys of `zero_optimization` that change results by more than rounding."""


def quantised_communication(options: EngineOptions) -> list[str]:
    """What the run's engine quantises on its way between processes, by DeepSpeed's keys; [] where nothing is.

    Raises:
        UserError: the DeepSpeed file is missing or not JSON.
    """
    if options.name != "zero3" or not options.deepspeed_config:
        return []
    path = Path(options.deepspeed_config)
    zero = _table(_read(path), "zero_optimization", path)
    return [key for key in QUANTISED if zero.get(key)]


def deepspeed_settings(options: EngineOptions, phase: PhaseOptions, precision: str, world_size: int) -> dict[str, Any]:
    """The settings that DeepSpeed gets; the same on every rank.

    DeepSpeed's own batch counts are set to one example per rank: the batch plan decides what a step is, and tells
    DeepSpeed where each one ends.

    Raises:
        UserError: the file is missing, not JSON, or contradicts the run.
    """
    path = Path(options.deepspeed_config) if options.deepspeed_config else DEFAULT_FILE
    settings = _read(path)
    if options.deepspeed_config and options.keep_gathered is True:
        raise UserError(
            f"{path} says how long gathered weights are kept, and so does engine.keep_gathered = true; remove one "
            "(stage3_max_live_parameters and stage3_max_reuse_distance are the file's)"
        )
    _refuse_contradictions(settings, path, phase, precision, world_size)
    settings["train_micro_batch_size_per_gpu"] = 1
    settings["gradient_accumulation_steps"] = 1
    settings["train_batch_size"] = world_size
    settings["gradient_clipping"] = phase.gradient_clipping
    settings["bf16"] = _table(settings, "bf16", path) | {"enabled": precision != "fp32"}
    if precision == "bf16_stochastic":
        settings["bf16"] |= dict.fromkeys(_WITHOUT_MASTERS, True)
    # The run's optimiser is PyTorch's AdamW, also where DeepSpeed would like its own.
    settings.setdefault("zero_allow_untested_optimizer", True)
    settings.setdefault("zero_force_ds_cpu_optimizer", False)
    # Gradients are reduced and accumulated in fp32: in bf16 the result would depend on the order of the ranks, and the
    # two engines would differ.
    settings.setdefault("communication_data_type", "fp32")
    settings["data_types"] = {"grad_accum_dtype": "fp32"} | _table(settings, "data_types", path)
    if options.offload == "optimizer":
        offload = settings["zero_optimization"].setdefault("offload_optimizer", {"device": "cpu", "pin_memory": True})
        if offload.get("device") == "nvme":
            raise UserError(
                f"{path}: offload_optimizer.device = \"nvme\", but the run has engine.offload = 'optimizer' (host "
                "memory); remove one of the two"
            )
    where = settings["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
    if precision == "bf16_stochastic" and where != "none":
        raise UserError(
            f"the optimiser is offloaded to {where!r}, but DeepSpeed leaves weights without fp32 masters "
            "(engine.precision = 'bf16_stochastic') where they are; use engine.name = 'fsdp2', or do not offload"
        )
    settings.setdefault("steps_per_print", 10**9)
    is_selective = options.activation_checkpointing == "selective"
    if is_selective and settings["zero_optimization"].get("memory_efficient_linear"):
        raise UserError(
            f"{path}: zero_optimization.memory_efficient_linear = true adds biases to the products that "
            "engine.activation_checkpointing = 'selective' keeps, so they would count twice; remove the key"
        )
    if options.compile and settings["zero_optimization"].get("memory_efficient_linear"):
        raise UserError(
            f"{path}: zero_optimization.memory_efficient_linear = true cannot be compiled, but the run has "
            "engine.compile = true; remove the key"
        )
    if options.repeatable or is_selective or options.compile:
        # DeepSpeed's linear layers round the product before they add the bias, so that in bf16 the engines would
        # differ; they add it in place, to what selective recomputation has kept; compiled, each layer would be compiled
        # by itself, and with PyTorch 2.11 gradients come out wrong. They exist to save memory: PyTorch's own, where
        # they are not compiled, keep every gathered weight until the backward pass, where activations are kept too.
        settings["zero_optimization"] = {"memory_efficient_linear": False} | settings["zero_optimization"]
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such DeepSpeed configuration; set engine.deepspeed_config") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; set engine.deepspeed_config to a JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path}: a DeepSpeed configuration is a JSON object")
    return _without_auto(settings)


def _without_auto(table: dict[str, Any]) -> dict[str, Any]:
    """The table without the values 'auto': they come from the run, or are the library's defaults.

    Two are left for later, when the processes know each other: the size of the hierarchical partition becomes 0, and a
    path for NVMe stays.
    """
    kept = {key: 0 if key == "zero_hpz_partition_size" and value == "auto" else value for key, value in table.items()}
    return {
        key: _without_auto(value) if isinstance(value, dict) else value
        for key, value in kept.items()
        if value != "auto" or key == "nvme_path"
    }


def _refuse_contradictions(
    settings: dict[str, Any], path: Path, phase: PhaseOptions, precision: str, world_size: int
) -> None:
    def differ(key: str, theirs: object, run: str) -> UserError:
        return UserError(
            f"{path}: {key} = {json.dumps(theirs)}, but the run has {run}; remove the key, or change the run"
        )

    for key in ("optimizer", "scheduler"):
        if key in settings:
            raise UserError(f"{path}: {key} is set there, but the run's phases set it; remove the key")
    zero = _table(settings, "zero_optimization", path)
    if zero.get("stage") != 3:
        raise differ("zero_optimization.stage", zero.get("stage"), "engine.name = 'zero3'")
    if zero.get("elastic_checkpoint"):
        raise UserError(f"{path}: zero_optimization.elastic_checkpoint is not supported by ZeRO-3; remove the key")
    if zero.get("zero_quantized_nontrainable_weights"):
        raise UserError(
            f"{path}: zero_optimization.zero_quantized_nontrainable_weights would replace frozen weights by their "
            "rounded values, and a checkpoint could not follow; remove the key"
        )
    if (zero.get("mics_shard_size") or -1) > 0:
        raise UserError(
            f"{path}: zero_optimization.mics_shard_size is not supported; "
            "for groups of processes that each hold the model use engine.name = 'fsdp2' with engine.replicas"
        )
    if _table(zero, "offload_param", path).get("device") == "nvme":
        raise UserError(
            f'{path}: zero_optimization.offload_param.device = "nvme" is not supported; '
            'use "cpu", or offload_optimizer to NVMe'
        )
    if _table(zero, "offload_optimizer", path).get("device") == "nvme" and phase.optimizer == "adamw_8bit":
        raise UserError(
            f"{path}: DeepSpeed cannot swap 8-bit states to NVMe; "
            f"use optimizer = 'adamw' in phase {phase.name!r}, or offload to \"cpu\""
        )

    batch = {key: _number(settings, key, path) for key in _BATCH_KEYS}
    total, micro, accumulation = (batch[key] for key in _BATCH_KEYS)
    if total and micro and accumulation and total != micro * accumulation * world_size:
        expected = total / (micro * accumulation)
        raise UserError(
            f"{path}: its batch sizes are for {expected:g} processes, but {world_size} are running; "
            f"remove {', '.join(_BATCH_KEYS)} (the run's batch_size holds at any number of processes)"
        )
    if total and total != phase.batch_size:
        raise differ("train_batch_size", total, f"batch_size = {phase.batch_size} in phase {phase.name!r}")
    for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        if batch[key]:
            raise UserError(
                f"{path}: {key} = {batch[key]}, but micro-batches are cut by engine.max_tokens_per_micro_batch; "
                "remove the key"
            )
    clipping = _number(settings, "gradient_clipping", path)
    if clipping is not None and clipping != phase.gradient_clipping:
        run = f"gradient_clipping = {phase.gradient_clipping} in phase {phase.name!r}"
        raise differ("gradient_clipping", clipping, run)
    for key in ("bf16", "fp16", "torch_autocast"):
        enabled = _table(settings, key, path).get("enabled")
        if enabled is not None and bool(enabled) != (key == "bf16" and precision != "fp32"):
            raise differ(f"{key}.enabled", enabled, f"engine.precision = {precision!r}")
    for key in _WITHOUT_MASTERS:
        if _table(settings, "bf16", path).get(key):
            raise UserError(
                f"{path}: bf16.{key} would lose every update that is small beside its weight; remove the key, and set "
                "engine.precision = 'bf16_stochastic' to train without fp32 masters"
            )
    if settings.get("zero_force_ds_cpu_optimizer"):
        raise differ("zero_force_ds_cpu_optimizer", True, "PyTorch's AdamW as its optimiser")
    settings.pop("fp16", None)


# The second one does nothing to the run's own optimiser; without it DeepSpeed would want its own, on the host.
_WITHOUT_MASTERS = ("bf16_master_weights_and_grads", "bf16_optimizer_states")
_BATCH_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def _table(settings: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """A table of settings that the file has; {} when it is absent."""
    table = settings.get(key, {})
    if not isinstance(table, dict):
        raise UserError(f"{path}: {key} = {json.dumps(table)} is not a table; write it as a JSON object")
    return table


def _number(settings: dict[str, Any], key: str, path: Path) -> float | None:
    """A number that the file sets; None when it is absent."""
    value = settings.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{path}: {key} = {json.dumps(value)} is not a number")
    return value

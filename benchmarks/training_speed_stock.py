"""The other side: Hugging Face's sequence classifier, padded, as people train it.

Under DeepSpeed ZeRO-3 with the configuration that `transformers` documents, under `accelerate`'s FSDP2, under the
Trainer, and in a plain PyTorch loop. All take AdamW, rates, decay and clipping of our side and no dropout; batches are
padded beforehand and lie in memory, so that no time goes into making them (the Trainer collates its own).
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from training_speed_cases import Case
from training_speed_clock import StepClock, summary, timed_passes
from training_speed_lengths import NUM_LABELS, Amount, PaddedStep, make_data, pad, padded_steps
from training_speed_ours import CLIPPING, LEARNING_RATE, WEIGHT_DECAY
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig

from xlt_scale.engines.world import World, join_world
from xlt_scale.errors import UserError
from xlt_scale.training.throughput import peak_memory_gib


def model_config(case: Case, num_labels: int = NUM_LABELS, dropout: float = 0.0) -> PretrainedConfig:
    """The shape's configuration; attention goes through PyTorch's scaled dot products, the library's default."""
    fields = case.shape.architecture()
    config = AutoConfig.for_model(fields.pop("model_type"), **fields, num_labels=num_labels)
    config.hidden_dropout_prob = config.classifier_dropout = dropout
    # Our unpadded kernel has no dropout on attention weights: it is off on both sides.
    config.attention_probs_dropout_prob = 0.0
    config._attn_implementation = "sdpa"
    config.use_cache = False
    return config


def make_model(case: Case, device: torch.device, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    """A classifier with the library's own random weights, drawn on the device."""
    with torch.device(device):
        model = AutoModelForSequenceClassification.from_config(model_config(case, **options), dtype=dtype)
    if case.checkpointing != "none":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def optimizer_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Decay on matrices, none on biases and norms, as on our side."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]


def make_optimizer(case: Case, model: nn.Module) -> torch.optim.Optimizer:
    if case.optimizer == "adamw_8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(optimizer_groups(model), lr=LEARNING_RATE)
    return torch.optim.AdamW(optimizer_groups(model), lr=LEARNING_RATE, fused=True)


RunStep = Callable[[PaddedStep], None]


@contextmanager
def _torch(case: Case, world: World) -> Iterator[RunStep]:
    """A plain loop: in bf16 the weights themselves are, with fp32 masters beside them, as DeepSpeed has it."""
    model = make_model(case, world.device, torch.bfloat16 if case.precision == "bf16" else torch.float32)
    masters = MasterWeights(model) if case.precision == "bf16" else None
    stepped = masters.module if masters else model
    optimizer = make_optimizer(case, stepped)

    def run(step: PaddedStep) -> None:
        for batch in step.micro_batches:
            loss = model(**_on(batch, world)).loss / len(step.micro_batches)
            loss.backward()
            if masters:
                masters.take_gradients()
        nn.utils.clip_grad_norm_(stepped.parameters(), CLIPPING)
        optimizer.step()
        optimizer.zero_grad()
        if masters:
            masters.give_weights()

    yield run


class MasterWeights:
    """fp32 copies of a bf16 model's parameters, which an optimiser steps."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = list(model.parameters())
        self.module = nn.ParameterList([weight.detach().float() for weight in self._weights])

    def copy_from(self, model: nn.Module) -> None:
        """Exact values in place of rounded ones."""
        with torch.no_grad():
            for master, exact in zip(self.module, model.parameters(), strict=True):
                master.copy_(exact)

    def take_gradients(self) -> None:
        """Add the model's gradients to the copies'."""
        for weight, master in zip(self._weights, self.module, strict=True):
            if weight.grad is not None:
                gradient = weight.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                weight.grad = None

    def give_weights(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_([weight.data for weight in self._weights], [master.data for master in self.module])


@contextmanager
def _deepspeed(case: Case, world: World) -> Iterator[RunStep]:
    engine = deepspeed_engine(case, world, model_config(case))

    def run(step: PaddedStep) -> None:
        for batch in step.micro_batches:
            engine.backward(engine(**_on(batch, world)).loss)
            engine.step()

    yield run
    engine.destroy()


def deepspeed_engine(case: Case, world: World, config: PretrainedConfig, weights: Any = None) -> Any:
    """The classifier under ZeRO-3, configured as `transformers`' guide does with its "auto" values filled in."""
    deepspeed = import_deepspeed(world)
    from transformers.integrations import HfDeepSpeedConfig

    width = config.hidden_size
    num_micro_batches = max(1, case.batch // case.micro_batch)
    settings = {
        "train_micro_batch_size_per_gpu": case.micro_batch,
        "gradient_accumulation_steps": num_micro_batches,
        "gradient_clipping": CLIPPING,
        "bf16": {"enabled": case.precision == "bf16"},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": True,
            "contiguous_gradients": True,
            "sub_group_size": 1_000_000_000,
            "reduce_bucket_size": width * width,
            "stage3_prefetch_bucket_size": int(0.9 * width * width),
            "stage3_param_persistence_threshold": 10 * width,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    kept_alive = HfDeepSpeedConfig(settings)  # while it lives, models are made partitioned
    model = AutoModelForSequenceClassification.from_config(config)
    if weights is not None:
        for name, parameter in model.named_parameters():
            with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0):
                parameter.data.copy_(weights[name])
    if case.checkpointing != "none":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    engine, *_ = deepspeed.initialize(model=model, optimizer=make_optimizer(case, model), config=settings)
    engine.kept_alive = kept_alive
    engine.train()
    return engine


def import_deepspeed(world: World) -> Any:
    """DeepSpeed, joined to the process group that PyTorch has."""
    if world.device.type == "cpu":
        from xlt_scale.engines.compiled_ops import build_compiled_ops

        build_compiled_ops()
    import deepspeed

    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend="gloo" if world.device.type == "cpu" else "nccl", verbose=False)
    return deepspeed


@contextmanager
def _accelerate(case: Case, world: World) -> Iterator[RunStep]:
    if world.device.type != "cuda":
        raise UserError("accelerate shards with FSDP2 on GPUs only")
    from accelerate import Accelerator, FullyShardedDataParallelPlugin

    num_micro_batches = max(1, case.batch // case.micro_batch)
    model = make_model(case, world.device)
    layer = type(next(m for m in model.modules() if isinstance(m, nn.ModuleList))[0]).__name__
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[layer],
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    accelerator = Accelerator(
        mixed_precision="bf16" if case.precision == "bf16" else "no",
        fsdp_plugin=plugin,
        gradient_accumulation_steps=num_micro_batches,
    )
    if str(accelerator.distributed_type.value) != "FSDP":
        raise UserError(f"accelerate runs this process as {accelerator.distributed_type}, not under FSDP2")
    model, optimizer = accelerator.prepare(model, make_optimizer(case, model))

    def run(step: PaddedStep) -> None:
        for batch in step.micro_batches:
            with accelerator.accumulate(model):
                accelerator.backward(model(**_on(batch, world)).loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIPPING)
                optimizer.step()
                optimizer.zero_grad()

    yield run


_STACKS = {"torch": _torch, "deepspeed": _deepspeed, "accelerate": _accelerate}


def _on(batch: dict[str, torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    return {name: value.to(world.device, non_blocking=True) for name, value in batch.items()}


def measure_training(case: Case) -> dict[str, Any]:
    """Steps of the stack's loop."""
    world = join_world(case.device)
    if case.batch % case.micro_batch:
        raise UserError(f"batch={case.batch} is no multiple of micro_batch={case.micro_batch}")
    clock = StepClock(case, world.device)
    data = make_data(case, num_examples(case, clock.num_steps))
    if case.stack == "trainer":
        return _measure_trainer(case, world, clock, data)
    steps = padded_steps(case, data, clock.num_steps)
    if world.device.type == "cuda":
        pinned = [[_pinned(batch) for batch in step.micro_batches] for step in steps]
        steps = [PaddedStep(batches, step.amount) for batches, step in zip(pinned, steps, strict=True)]
    with _STACKS[case.stack](case, world) as run:
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for step in steps:
            run(step)
            clock.step_ended()
        return summary(
            case,
            clock,
            [step.amount for step in steps],
            memory_gib=peak_memory_gib(world.device),
            data_wait=0.0,
            num_micro_batches=case.batch // case.micro_batch,
        )


def _pinned(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.pin_memory() for name, value in batch.items()}


def num_examples(case: Case, num_steps: int) -> int:
    """As many as the steps take, and enough that grouping by length sorts 50 batches at a time, as in practice."""
    return max(num_steps, 200 if case.batch <= 128 else 50) * case.batch


class _Examples(torch.utils.data.Dataset):
    """Data as the Trainer wants them: unpadded examples by number."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, number: int) -> dict[str, Any]:
        start, stop = self._data.offsets[number], self._data.offsets[number + 1]
        return {"input_ids": self._data.input_ids[start:stop], "number": number}


def _measure_trainer(case: Case, world: World, clock: StepClock, data: Any) -> dict[str, Any]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    num_micro_batches = case.batch // case.micro_batch
    collated: list[tuple[np.ndarray, int]] = []

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        numbers = np.array([example["number"] for example in examples])
        longest = max(len(example["input_ids"]) for example in examples)
        batch = pad(data, numbers, longest if case.batching == "grouped" else case.max_length)
        collated.append((data.lengths[numbers], batch["input_ids"].numel()))
        return batch

    class Timer(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            clock.step_ended()

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=clock.num_steps,
            per_device_train_batch_size=case.micro_batch,
            gradient_accumulation_steps=num_micro_batches,
            bf16=case.precision == "bf16",
            optim="adamw_bnb_8bit" if case.optimizer == "adamw_8bit" else "adamw_torch_fused",
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=CLIPPING,
            train_sampling_strategy="group_by_length" if case.batching == "grouped" else "random",
            remove_unused_columns=False,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=world.device.type == "cpu",
            seed=case.seed,
        )
        trainer = Trainer(
            model=make_model(case, world.device),
            args=settings,
            train_dataset=_Examples(data),
            data_collator=collate,
            callbacks=[Timer()],
        )
        trainer.train()
    amounts = []
    for start in range(0, clock.num_steps * num_micro_batches, num_micro_batches):
        parts = collated[start : start + num_micro_batches]
        amounts.append(Amount.of(np.concatenate([lengths for lengths, _ in parts]), sum(size for _, size in parts)))
    return summary(case, clock, amounts, memory_gib=peak_memory_gib(world.device), num_micro_batches=num_micro_batches)


def measure_evaluation(case: Case) -> dict[str, Any]:
    """Forward passes of the model over a data set sorted by length, padded batch by batch: a pass counts as a step."""
    world = join_world(case.device)
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    model = make_model(case, world.device, dtype).eval()
    data = make_data(case, max(16 * case.micro_batch, 64))
    order = np.argsort(-data.lengths, kind="stable") if case.batching == "grouped" else np.arange(len(data))
    batches = []
    for start in range(0, len(data), case.micro_batch):
        numbers = order[start : start + case.micro_batch]
        longest = int(data.lengths[numbers].max()) if case.batching == "grouped" else case.max_length
        batches.append({name: value for name, value in pad(data, numbers, longest).items() if name != "labels"})

    def run() -> None:
        for batch in batches:
            model(**_on(batch, world)).logits.argmax(-1).cpu()

    amount = Amount.of(data.lengths, sum(batch["input_ids"].numel() for batch in batches))
    with torch.no_grad():
        times = timed_passes(case, amount, run)
    return times | {
        "memory_gib": peak_memory_gib(world.device),
        "num_micro_batches": len(batches),
    }

"""The training loop: one phase's steps. It does not know which engine it drives."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from xlt_scale.config import LoggingOptions, PhaseOptions
from xlt_scale.data.assembly import Masking, Prefetcher, assemble
from xlt_scale.data.counter_random import key_of
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.data.plan import BatchPlan, MixturePlan
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.interface import Engine
from xlt_scale.errors import TrainingError
from xlt_scale.sizes import training_flops
from xlt_scale.tasks.spec import TaskSpec
from xlt_scale.training.metrics import MetricsWriter, ProgressView
from xlt_scale.training.schedule import learning_rate_at
from xlt_scale.training.throughput import peak_flops, peak_memory_gib


@dataclass(frozen=True)
class TaskTraining:
    """One task as it is trained: its examples, their plan, and masking where the task is masked language modelling."""

    spec: TaskSpec
    data: TokenizedData
    plan: BatchPlan
    masking: Masking | None


@dataclass(frozen=True)
class ModelCost:
    """What a step costs: for floating-point operations per step."""

    num_non_embedding_parameters: int
    num_layers: int
    hidden_size: int


@dataclass(frozen=True)
class Training:
    """Everything that the loop is given.

    Attributes:
        seed: of data order, mixture and dropout.
        token_budget: tokens of one micro-batch at most; padded ones when `padded`.
        evaluate: called on every rank every `phase.evaluate_every` steps and after the last, with the number of steps
            done.
    """

    engine: Engine
    phase: PhaseOptions
    tasks: Mapping[str, TaskTraining]
    num_steps: int
    seed: int
    token_budget: int
    padded: bool
    cost: ModelCost
    logging: LoggingOptions
    metrics: MetricsWriter
    evaluate: Callable[[int], None]


@dataclass
class _Interval:
    """What has happened on this rank since the last row."""

    losses: list[torch.Tensor]
    num_tokens: int = 0
    squared_lengths: int = 0
    data_wait: float = 0.0
    started: float = 0.0

    @classmethod
    def begin(cls) -> "_Interval":
        return cls(losses=[], started=time.perf_counter())


def train(training: Training) -> None:
    """Run all steps of a phase; collective.

    Raises:
        TrainingError: a loss or gradient was not finite (found at the next logged step, on every rank).
    """
    phase, engine = training.phase, training.engine
    world = engine.world
    mixture = MixturePlan(
        phase.mixture or {phase.task: 1.0}, training.num_steps, key=(training.seed, *sorted(training.tasks))
    )
    totals = {"examples": 0, "tokens": 0}
    phase_started = time.perf_counter()
    interval = _Interval.begin()
    peak = peak_flops(world.device)
    engine.train(True)

    def make(step: int) -> Sequence[MicroBatch]:
        name, step_of_task = mixture.at(step)
        return _micro_batches(training, training.tasks[name], step_of_task)

    with (
        Prefetcher(make, 0, training.num_steps) as batches,
        ProgressView(phase.name, training.num_steps, training.logging, world.is_main) as view,
    ):
        waiting_since = time.perf_counter()
        for step, micro_batches in enumerate(batches):
            interval.data_wait += time.perf_counter() - waiting_since
            rate = learning_rate_at(step, training.num_steps, phase)
            loss, norm = _step(training, step, micro_batches, rate)
            interval.losses.append(loss)
            for batch in micro_batches:
                interval.num_tokens += batch.num_real_tokens
                interval.squared_lengths += int(batch.weight) * sum(length * length for length in batch.lengths)
            done = step + 1
            view.advance(done)
            is_last = done == training.num_steps
            evaluates = is_last or (phase.evaluate_every and done % phase.evaluate_every == 0)
            if done % training.logging.every == 0 or evaluates:
                totals["examples"] = done * phase.batch_size
                row = _row(training, interval, totals, peak, done, rate, norm)
                row |= {"task": mixture.at(step)[0], "seconds": time.perf_counter() - phase_started}
                training.metrics.write(row)
                view.show(row)
                if evaluates:
                    training.evaluate(done)
                    engine.train(True)
                interval = _Interval.begin()
            waiting_since = time.perf_counter()


def _micro_batches(training: Training, task: TaskTraining, step: int) -> list[MicroBatch]:
    world = training.engine.world
    split = task.plan.split(step, world.rank, world.size, training.token_budget, training.padded)
    return [
        assemble(task.spec, task.data, numbers, task.masking, epochs)
        for numbers, epochs in zip(split.micro_batches, split.epochs, strict=True)
    ]


def _step(
    training: Training, step: int, micro_batches: Sequence[MicroBatch], learning_rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimiser step; this rank's part of the global loss and the gradient norm, both still on the device.

    Loss = sum over targets / number of targets in the global batch. Engines average gradients over ranks, so the world
    size cancels that.
    """
    engine, world = training.engine, training.engine.world
    num_targets = torch.tensor(float(sum(batch.num_targets for batch in micro_batches)))
    num_targets = world.sum(num_targets.to(world.device)).clamp_(min=1.0)
    total = torch.zeros((), device=world.device)
    for number, batch in enumerate(micro_batches):
        engine.start_micro_batch(key_of("dropout", training.seed, step, world.rank, number))
        loss = engine.forward(batch.to(world.device)) / num_targets
        engine.backward(loss * world.size, is_last=number == len(micro_batches) - 1)
        total += loss.detach().float()
    return total, engine.step(learning_rate)


def _row(
    training: Training,
    interval: _Interval,
    totals: dict[str, int],
    peak: float | None,
    step: int,
    learning_rate: float,
    norm: torch.Tensor,
) -> dict[str, object]:
    """One row of metrics over the steps since the last row; collective. Stops the run when a loss was not finite."""
    world, cost = training.engine.world, training.cost
    losses = world.sum(torch.stack(interval.losses)).tolist()
    first_step = step - len(losses) + 1
    for number, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise TrainingError(
                f"phase {training.phase.name!r}: the loss of step {first_step + number} is {loss}; "
                "lower learning_rate, raise warmup, or set gradient_clipping"
            )
    if not math.isfinite(float(norm)):
        raise TrainingError(
            f"phase {training.phase.name!r}: the gradient norm of step {step} is {float(norm)}; "
            "lower learning_rate or raise warmup"
        )
    counts = torch.tensor([interval.num_tokens, interval.squared_lengths], dtype=torch.float64)
    num_tokens, squared_lengths = (int(x) for x in world.sum(counts.to(world.device)).tolist())
    seconds = time.perf_counter() - interval.started
    totals["tokens"] += num_tokens
    flops = training_flops(
        cost.num_non_embedding_parameters, cost.num_layers, cost.hidden_size, num_tokens, squared_lengths
    )
    return {
        "phase": training.phase.name,
        "step": step,
        "loss": sum(losses) / len(losses),
        "learning_rate": learning_rate,
        "grad_norm": float(norm),
        "examples": totals["examples"],
        "tokens": totals["tokens"],
        "tokens_per_second": num_tokens / seconds,
        "tflops_per_second": flops / seconds / 1e12,
        "mfu": None if peak is None else flops / seconds / (peak * world.size),
        "memory_gib": peak_memory_gib(world.device),
        "data_wait": interval.data_wait / seconds,
    }

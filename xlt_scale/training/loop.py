"""The training loop: one phase's steps. It does not know which engine it drives."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch

from xlt_scale.cluster.ending import StoppedError
from xlt_scale.cluster.stop_request import StopRequest
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
from xlt_scale.training.contrast import accumulate_contrast
from xlt_scale.training.metrics import MetricsWriter, ProgressView
from xlt_scale.training.schedule import learning_rate_at
from xlt_scale.training.stop_vote import StopVote, wants_to_stop
from xlt_scale.training.throughput import peak_flops, peak_memory_gib


@dataclass(frozen=True)
class Stream:
    """Examples of one task as they are trained: their plan, and masking where the task is masked language modelling."""

    spec: TaskSpec
    data: TokenizedData
    plan: BatchPlan
    masking: Masking | None


@dataclass(frozen=True)
class ModelCost:
    """What a step costs: for floating-point operations per step."""

    num_non_embedding_parameters: int
    num_layers: int
    attention_width: int


@dataclass(frozen=True)
class Progress:
    """How far a phase is.

    Attributes:
        step: optimiser steps done.
        tokens: real tokens seen, over all ranks.
        seconds: spent on these steps, over all starts.
        device_seconds: the same times the world size of each start.
        flops: floating-point operations of these steps (`training_flops`).
        steps_of_tasks: of the steps, those that each task, or stream of one, was trained in.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    device_seconds: float = 0.0
    flops: float = 0.0
    steps_of_tasks: Mapping[str, int] = field(default_factory=dict)


class Keeper(Protocol):
    """What happens between steps. Called on every rank, in the same order, with the same step."""

    def poll(self) -> None:
        """After every step: tell of what has ended in the background. Does not communicate."""

    def evaluate(self, step: int) -> None:
        """Every `phase.evaluate_every` steps and after the last. Collective."""

    def saves_at(self, step: int) -> bool:
        """Whether the state is to be saved after this step; the same on every rank."""
        ...

    def is_overdue(self) -> bool:
        """Whether it should be saved soon, by this rank's clock."""
        ...

    def save(self, progress: Progress) -> None:
        """Save the state. Collective."""

    def finish_saving(self) -> str:
        """Wait until what is being saved is whole; where the newest state lies, in words. Collective."""
        ...


@dataclass(frozen=True)
class Training:
    """Everything that the loop is given.

    Attributes:
        weights: the share of the steps that each stream gets.
        seed: of data order, mixture and dropout.
        token_budget: tokens of one micro-batch at most; padded ones when `padded`.
        keeper: scores and saves between steps.
        start: what was done before; the state that goes with it lies in the engine.
        stop: whether this rank wants to stop early.
    """

    engine: Engine
    phase: PhaseOptions
    streams: Mapping[str, Stream]
    weights: Mapping[str, float]
    num_steps: int
    seed: int
    token_budget: int
    padded: bool
    cost: ModelCost
    logging: LoggingOptions
    metrics: MetricsWriter
    keeper: Keeper
    start: Progress = Progress()
    stop: StopRequest = field(default_factory=StopRequest)

    @cached_property
    def mixture(self) -> MixturePlan:
        """Which stream each step trains."""
        return MixturePlan(self.weights, self.num_steps, key=(self.seed, *sorted(self.streams)))


@dataclass
class _Interval:
    """What has happened on this rank since the last row; `num_tokens_of_all` is known when the row is made."""

    losses: list[torch.Tensor]
    num_tokens: int = 0
    squared_lengths: int = 0
    data_wait: float = 0.0
    started: float = 0.0
    num_tokens_of_all: int = 0

    @classmethod
    def begin(cls) -> "_Interval":
        return cls(losses=[], started=time.perf_counter())


def train(training: Training) -> Progress:
    """Run the steps of a phase that are left; how far it then is. Collective.

    Raises:
        TrainingError: a loss or gradient was not finite (found at the next logged step, on every rank).
        StoppedError: a rank wanted to stop; the state is saved. On every rank.
    """
    phase, engine = training.phase, training.engine
    world = engine.world
    mixture, keeper = training.mixture, training.keeper
    progress = training.start
    began = time.perf_counter() - training.start.seconds
    interval = _Interval.begin()
    peak = peak_flops(world.device)
    vote = StopVote(world.device)
    engine.train(True)

    def make(step: int) -> Sequence[MicroBatch]:
        name, step_of_task = mixture.at(step)
        return _micro_batches(training, training.streams[name], step_of_task)

    with (
        Prefetcher(make, training.start.step, training.num_steps) as batches,
        ProgressView(phase.name, training.num_steps, training.logging, world.is_main) as view,
    ):
        waiting_since = time.perf_counter()
        for step, micro_batches in enumerate(batches, training.start.step):
            interval.data_wait += time.perf_counter() - waiting_since
            rate = learning_rate_at(step, training.num_steps, phase)
            is_carried = vote.is_carried()
            loss, norm = _step(training, step, micro_batches, rate, vote)
            interval.losses.append(loss)
            for batch in micro_batches:
                interval.num_tokens += batch.num_real_tokens
                interval.squared_lengths += int(batch.weight) * sum(length * length for length in batch.lengths)
            done = step + 1
            world.mark.at("step", phase=phase.name, step=done, is_stepping=True)
            view.advance(done)
            keeper.poll()
            is_last = done == training.num_steps
            evaluates = is_last or (phase.evaluate_every and done % phase.evaluate_every == 0)
            stops = is_carried and not is_last
            saves = keeper.saves_at(done) or stops
            if done % training.logging.every == 0 or evaluates or saves:
                row, flops, is_overdue = _row(training, interval, peak, done, rate, norm, keeper.is_overdue())
                num_tokens, seconds = progress.tokens + interval.num_tokens_of_all, time.perf_counter() - began
                progress = Progress(
                    step=done,
                    tokens=num_tokens,
                    seconds=seconds,
                    device_seconds=progress.device_seconds + (seconds - progress.seconds) * world.size,
                    flops=progress.flops + flops,
                    steps_of_tasks=mixture.steps_before(done),
                )
                row |= {"tokens": num_tokens, "task": mixture.at(step)[0], "seconds": seconds}
                training.metrics.write(row)
                view.show(row)
                if evaluates:
                    world.mark.at("scoring after step")
                    keeper.evaluate(done)
                    engine.train(True)
                if not is_last and (saves or is_overdue or keeper.saves_at(done)):
                    world.mark.at("saving after step")
                    keeper.save(progress)
                if stops:
                    why = wants_to_stop(world, training.stop.why())
                    raise StoppedError(f"{why}; {keeper.finish_saving()}", phase.name, done)
                world.mark.at("step", is_stepping=True)
                interval = _Interval.begin()
            waiting_since = time.perf_counter()
    return progress


def _micro_batches(training: Training, stream: Stream, step: int) -> list[MicroBatch]:
    world = training.engine.world
    split = stream.plan.split(step, world.rank, world.size, training.token_budget, training.padded)
    return [
        assemble(stream.spec, stream.data, numbers, stream.masking, epochs).ready_for(world.device)
        for numbers, epochs in zip(split.micro_batches, split.epochs, strict=True)
    ]


def _step(
    training: Training, step: int, micro_batches: Sequence[MicroBatch], learning_rate: float, vote: StopVote
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimiser step; this rank's part of the global loss and the gradient norm, both still on the device.

    Loss = sum over targets / number of targets in the global batch. Engines average gradients over ranks, so the world
    size cancels that. Whether a rank wants to stop goes along with the number of targets.
    """
    engine, world = training.engine, training.engine.world

    def start(number: int) -> None:
        engine.start_micro_batch(key_of("dropout", training.seed, step, world.rank, number))

    counts = torch.tensor([sum(batch.num_targets for batch in micro_batches), float(bool(training.stop.why()))])
    if world.device.type == "cuda":
        # From memory that is not pinned the copy would wait for the whole step before.
        counts = counts.pin_memory().to(world.device, non_blocking=True)
    num_targets, num_votes = world.sum(counts)
    vote.note(num_votes)
    if micro_batches[0].kind == "dual_encoding":
        return accumulate_contrast(engine, micro_batches, start), engine.step(learning_rate)
    num_targets = num_targets.clamp(min=1.0)
    total = torch.zeros((), device=world.device)
    for number, batch in enumerate(micro_batches):
        start(number)
        loss = engine.forward(batch.to(world.device)) / num_targets
        engine.backward(loss * world.size, is_last=number == len(micro_batches) - 1)
        total += loss.detach().float()
    return total, engine.step(learning_rate)


def _row(
    training: Training,
    interval: _Interval,
    peak: float | None,
    step: int,
    learning_rate: float,
    norm: torch.Tensor,
    is_overdue: bool,
) -> tuple[dict[str, object], int, bool]:
    """One row of metrics over the steps since the last row, their floating-point operations, and whether rank 0 finds a
    checkpoint overdue; collective.

    Stops the run when a loss was not finite: so no such state is ever saved.
    """
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
    overdue = float(is_overdue and world.is_main)
    counts = torch.tensor([interval.num_tokens, interval.squared_lengths, overdue], dtype=torch.float64)
    num_tokens, squared_lengths, num_overdue = (int(x) for x in world.sum(counts.to(world.device)).tolist())
    interval.num_tokens_of_all = num_tokens
    seconds = time.perf_counter() - interval.started
    flops = training_flops(
        cost.num_non_embedding_parameters, cost.num_layers, cost.attention_width, num_tokens, squared_lengths
    )
    row = {
        "phase": training.phase.name,
        "step": step,
        "loss": sum(losses) / len(losses),
        "learning_rate": learning_rate,
        "grad_norm": float(norm),
        "examples": step * training.phase.batch_size,
        "tokens_per_second": num_tokens / seconds,
        "tflops_per_second": flops / seconds / 1e12,
        "mfu": None if peak is None else flops / seconds / (peak * world.size),
        "memory_gib": peak_memory_gib(world.device),
        "data_wait": interval.data_wait / seconds,
    }
    return row, flops, num_overdue > 0

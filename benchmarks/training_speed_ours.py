"""Our side: the product's own engine, driven by its own training loop or its own prediction."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from training_speed_cases import Case
from training_speed_clock import StepClock, summary, timed_passes
from training_speed_lengths import NUM_LABELS, Amount, make_data

from xlt_scale.config import EngineOptions, LoggingOptions, ModelOptions, PhaseOptions
from xlt_scale.data.assembly import assemble
from xlt_scale.data.counter_random import key_of
from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.data.plan import BatchPlan, evaluation_shares
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.engines.world import World, join_world
from xlt_scale.evaluation.predict import predict
from xlt_scale.modeling.encoder import plan_encoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import ParameterSpec, describe_parameters
from xlt_scale.modeling.weights import WeightSource
from xlt_scale.tasks.spec import TaskSpec
from xlt_scale.training.loop import ModelCost, Progress, Stream, Training, train
from xlt_scale.training.throughput import peak_memory_gib

HEAD = "speed"
LEARNING_RATE, WEIGHT_DECAY, CLIPPING = 1e-5, 0.01, 1.0
_LABELS = ["entailment", "neutral", "contradiction"]


def task_spec(labels: list[str] | None = None) -> TaskSpec:
    return TaskSpec(name=HEAD, kind="classification", labels=labels or _LABELS, head=HEAD)


def make_request(
    case: Case, world: World, num_labels: int = NUM_LABELS, dropout: float = 0.0, **phase: Any
) -> EngineRequest:
    """What the engine is built from: the case's options, AdamW as a run has it by default."""
    options = ModelOptions(
        architecture=case.shape.architecture(), tokenizer="micro", max_length=case.max_length, dropout=dropout
    )
    plan = plan_encoder(options)
    heads = (HeadSpec(HEAD, "classification", num_labels),)
    adapter = None if case.adapter == "none" else {"base": "nf4" if case.adapter == "nf4" else "full"}
    settings: dict[str, Any] = {
        "adapter": adapter,
        "name": HEAD,
        "task": HEAD,
        "steps": 1,
        "batch_size": case.batch,
        "optimizer": case.optimizer,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "gradient_clipping": CLIPPING,
    }
    options = PhaseOptions(**settings | phase)
    return EngineRequest(
        world=world,
        plan=plan,
        heads=heads,
        parameters=describe_parameters(plan, heads, options.adapter),
        options=engine_options(case),
        phase=options,
        precision=case.precision,
        only_scores=case.work == "evaluate",
    )


def engine_options(case: Case) -> EngineOptions:
    checkpointing: Any = {"none": False, "full": True, "selective": "selective"}[case.checkpointing]
    keeps: Any = {"auto": "auto", "true": True, "false": False}[case.keep_gathered]
    return EngineOptions(
        name=case.engine,  # type: ignore[arg-type]
        precision=case.precision,  # type: ignore[arg-type]
        max_tokens_per_micro_batch=case.budget,
        compile=case.compile,
        activation_checkpointing=checkpointing,
        checkpoint_every=case.checkpoint_every,
        keep_gathered=keeps,
        float8=case.float8,
        offload=case.offload,  # type: ignore[arg-type]
        device=case.device,  # type: ignore[arg-type]
    )


class DrawnWeights(WeightSource):
    """Random weights drawn on the device that they lie on, so that billions of them take seconds on a GPU."""

    def __init__(self, specs: Mapping[str, ParameterSpec], seed: int) -> None:
        self._specs, self._seed = specs, seed

    def has(self, name: str) -> bool:
        return name in self._specs

    def read_into(self, destination: torch.Tensor, name: str, start: int) -> None:
        spec = self._specs[name]
        if spec.fill != "normal":
            destination.fill_(1.0 if spec.fill == "ones" else 0.0)
            return
        generator = torch.Generator(destination.device).manual_seed(key_of("speed", self._seed, name, start) >> 1)
        destination.normal_(0.0, spec.deviation, generator=generator)


def build(request: EngineRequest, seed: int = 1, source: WeightSource | None = None) -> Engine:
    """The request's engine with random weights, or those of a source."""
    engine = build_engine(request)
    engine.load_parameters(source or DrawnWeights(request.parameters, seed))
    return engine


class TimedKeeper:
    """A keeper that saves and scores nothing, and tells a clock of each step."""

    def __init__(self, step_ended: Any) -> None:
        self._step_ended = step_ended

    def poll(self) -> None:
        self._step_ended()

    def evaluate(self, step: int) -> None:
        pass

    def saves_at(self, step: int) -> bool:
        return False

    def is_overdue(self) -> bool:
        return False

    def save(self, progress: Progress) -> None:
        raise AssertionError("it never asks for that")

    def finish_saving(self) -> str:
        raise AssertionError("nothing is saved")


class Rows:
    """Keeps the loop's rows of metrics."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def make_training(
    engine: Engine,
    request: EngineRequest,
    case: Case,
    data: TokenizedData,
    num_steps: int,
    step_ended: Any = lambda: None,
    spec: TaskSpec | None = None,
    every: int = 10,
) -> tuple[Training, Rows]:
    """The product's loop over these data, and where its rows go."""
    plan = BatchPlan(data.lengths, case.batch, key=(case.seed, "speed"))
    rows, shape = Rows(), case.shape
    training = Training(
        engine=engine,
        phase=request.phase,
        streams={HEAD: Stream(spec or task_spec(), data, plan, None)},
        weights={HEAD: 1.0},
        num_steps=num_steps,
        seed=case.seed,
        token_budget=case.budget,
        padded=not request.plan.unpadded,
        cost=ModelCost(shape.num_non_embedding_parameters, shape.num_layers, shape.hidden_size),
        logging=LoggingOptions(every=every, tensorboard=False, progress="none"),
        metrics=rows,  # type: ignore[arg-type]
        keeper=TimedKeeper(step_ended),
    )
    return training, rows


def measure_training(case: Case) -> dict[str, Any]:
    """Steps of the training loop."""
    world = join_world(case.device)
    request = make_request(case, world)
    engine = build(request, case.seed)
    clock = StepClock(case, world.device)
    data = make_data(case, max(clock.num_steps * case.batch, 2_000))
    training, rows = make_training(engine, request, case, data, clock.num_steps, clock.step_ended)
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    train(training)
    plan = training.streams[HEAD].plan
    numbers = [plan.examples(step) for step in range(clock.num_steps)]
    amounts = [Amount.of(data.lengths[chosen], int(data.lengths[chosen].sum())) for chosen in numbers]
    split = plan.split(case.warmup, 0, 1, case.budget)
    waits = [row["data_wait"] for row in rows.rows if row["step"] > case.warmup] or [rows.rows[-1]["data_wait"]]
    return summary(
        case,
        clock,
        amounts,
        memory_gib=peak_memory_gib(world.device),
        data_wait=sum(waits) / len(waits),
        num_micro_batches=len(split.micro_batches),
        final_loss=rows.rows[-1]["loss"],
    )


def measure_evaluation(case: Case) -> dict[str, Any]:
    """Passes of the product's prediction over a data set of 8 token budgets: a pass counts as a step."""
    world = join_world(case.device)
    request = make_request(case, world)
    engine = build(request, case.seed)
    data = make_data(case, max(8 * case.budget // 40, 64))
    num_batches = len(evaluation_shares(data.lengths, 0, 1, case.budget))
    amount = Amount.of(data.lengths, int(data.lengths.sum()))
    spec = task_spec()
    times = timed_passes(case, amount, lambda: predict(engine, spec, data, case.budget, padded=False))
    return times | {
        "memory_gib": peak_memory_gib(world.device),
        "num_micro_batches": num_batches,
    }


def micro_batches_of(case: Case, data: TokenizedData, step: int) -> list[MicroBatch]:
    """The micro-batches that the loop makes of a step, in one process."""
    plan = BatchPlan(data.lengths, case.batch, key=(case.seed, "speed"))
    split = plan.split(step, 0, 1, case.budget)
    return [assemble(task_spec(), data, numbers) for numbers in split.micro_batches]


@contextmanager
def one_engine(request: EngineRequest, source: WeightSource) -> Iterator[Engine]:
    """An engine that is destroyed in the end, whatever happened."""
    engine = build(request, source=source)
    try:
        yield engine
    finally:
        engine.destroy()
        if request.world.device.type == "cuda":
            torch.cuda.empty_cache()

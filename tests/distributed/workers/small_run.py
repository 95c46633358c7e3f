"""A small model, small tasks and a real engine: what the worker programs of the distributed tests have in common."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xlt_scale.checkpoint.training_state import state_checksums
from xlt_scale.config import EngineOptions, LoggingOptions, ModelOptions, PhaseOptions
from xlt_scale.data.assembly import Masking, assemble
from xlt_scale.data.plan import BatchPlan, MixturePlan, StepPlan
from xlt_scale.data.tokens import TokenizedData
from xlt_scale.engines.build import build_engine
from xlt_scale.engines.interface import Engine, EngineRequest
from xlt_scale.engines.world import World, join_world
from xlt_scale.modeling.encoder import EncoderPlan, plan_encoder
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.modeling.weights import FreshWeights
from xlt_scale.tasks.spec import TaskSpec
from xlt_scale.training.loop import ModelCost, Progress, Stream, Training, train

VOCABULARY = 120
NUM_LABELS = 3
BATCH_SIZE = 12
SEED = 7
ARCHITECTURE = {
    "model_type": "xlm-roberta",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "initializer_range": 0.05,
}
HEADS = (HeadSpec("mlm", "masked_language_modeling"), HeadSpec("pairs", "classification", NUM_LABELS))
TASKS = {
    "text": TaskSpec(name="text", kind="masked_language_modeling"),
    "pairs": TaskSpec(name="pairs", kind="classification", labels=["a", "b", "c"]),
    "numbers": TaskSpec(name="numbers", kind="regression"),
    "choices": TaskSpec(name="choices", kind="multiple_choice"),
    "spans": TaskSpec(name="spans", kind="span"),
    "tags": TaskSpec(name="tags", kind="tagging", labels=["x", "y", "z"]),
    "rankings": TaskSpec(name="rankings", kind="dual_encoding"),
}
ALL_HEADS = tuple(
    HeadSpec("mlm" if name == "text" else name, spec.kind, spec.num_classes) for name, spec in TASKS.items()
)
ALL_FORMATS = {"mixture": dict.fromkeys(TASKS, 1.0)}
PHASE: dict[str, Any] = {
    "name": "small",
    "mixture": {"text": 1.0, "pairs": 1.0},
    "steps": 20,
    "batch_size": BATCH_SIZE,
    "learning_rate": 3e-3,
    "schedule": "constant",  # so that a shorter run is the beginning of a longer one
    "warmup": 0.0,
    "weight_decay": 0.1,
    "gradient_clipping": 0.5,
}


GEMMA = ARCHITECTURE | {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
# Encoders that differ where engines may stumble: other layer lists, parameters shared inside the encoder, parameters
# that get no gradient, layers that share their parameters.
FAMILIES: dict[str, dict[str, Any]] = {
    "xlm-roberta": ARCHITECTURE,
    "xlm-roberta-xl": ARCHITECTURE | {"model_type": "xlm-roberta-xl"},
    "modernbert": ARCHITECTURE
    | {"model_type": "modernbert", "local_attention": 8, "bos_token_id": 0, "eos_token_id": 2}
    | {"cls_token_id": 0, "sep_token_id": 2},
    "t5": {"model_type": "t5", "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4}
    | {"num_layers": 2},
    "mt5": {"model_type": "mt5", "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4}
    | {"num_layers": 2},
    "umt5": {"model_type": "umt5", "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4}
    | {"num_layers": 2},
    "eurobert": ARCHITECTURE | {"model_type": "eurobert", "num_key_value_heads": 2, "head_dim": 8},
    "rembert": ARCHITECTURE | {"model_type": "rembert", "input_embedding_size": 16, "output_embedding_size": 40},
    "deberta-v2": ARCHITECTURE
    | {"model_type": "deberta-v2", "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"}
    | {"share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0},
    "t5gemma": {"model_type": "t5gemma", "vocab_size": VOCABULARY}
    | {part: {"model_type": "t5_gemma_module"} | GEMMA for part in ("encoder", "decoder")},
    "qwen3": ARCHITECTURE
    | {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False},
    "gemma3_text": GEMMA | {"model_type": "gemma3_text"},
    "xlnet": {"model_type": "xlnet", "vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "albert": ARCHITECTURE | {"model_type": "albert", "embedding_size": 16},
}


def make_plan(architecture: dict[str, Any], dropout: float = 0.0) -> EncoderPlan:
    return plan_encoder(ModelOptions(architecture=architecture, tokenizer="micro", max_length=64, dropout=dropout))


def make_data(task: str) -> TokenizedData:
    """Random sentences, many short and few long, with random labels: hard enough to learn that gradients stay large."""
    kind = TASKS[task].kind
    random = np.random.default_rng(len(task))
    lengths = np.clip(random.gamma(2.0, 8.0, size=60).astype(np.int64), 4, 60)
    tokens = random.integers(4, VOCABULARY, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    count = len(lengths)
    labels: np.ndarray | None = None
    arrays: dict[str, np.ndarray] = {}
    if kind == "classification":
        labels = random.integers(0, NUM_LABELS, count)
    elif kind == "regression":
        labels = random.standard_normal(count).astype(np.float32)
    elif kind == "multiple_choice":
        sizes = np.tile([2, 4, 3, 3], 5)  # 60 sequences, of 20 questions with different numbers of choices
        labels = random.integers(0, sizes)
        arrays["groups"] = np.concatenate([[0], np.cumsum(sizes)])
    elif kind == "span":
        labels = np.sort(random.integers(0, lengths[:, None], (count, 2)), axis=1)
        arrays["owners"] = np.arange(count)
        arrays["char_offsets"] = np.zeros((len(tokens), 2), dtype=np.int32)
    elif kind == "tagging":
        is_first = np.arange(len(tokens)) % 3 == 0
        is_first[offsets[:-1]] = True
        arrays["token_labels"] = np.where(is_first, random.integers(0, 3, len(tokens)), -100).astype(np.int16)
        arrays["owners"] = np.arange(count)
    elif kind == "dual_encoding":
        labels = random.integers(0, 20, count // 2)  # some pairs share their candidate's number
        arrays["groups"] = np.arange(0, count + 1, 2)
    return TokenizedData.from_arrays(tokens, None, offsets, labels, **arrays)


class _Tokenizer:
    """What masking asks of a tokenizer."""

    mask_token_id = 3
    all_special_ids = (0, 1, 2, 3)

    def __len__(self) -> int:
        return VOCABULARY


class LopsidedPlan(BatchPlan):
    """Gives rank 0 all examples but one, an example per micro-batch: the others fill up with spare ones."""

    def split(self, step: int, rank: int, world_size: int, token_budget: int, padded: bool = False) -> StepPlan:
        examples, epochs = self.examples(step), self.epochs(step)
        if world_size == 1:
            return StepPlan([examples], [epochs])
        count = len(examples) - 1
        mine = {0: np.arange(count), 1: np.array([count])}.get(rank, np.arange(0))
        places = [mine[number : number + 1] for number in range(count)]
        return StepPlan([examples[place] for place in places], [epochs[place] for place in places])


def make_streams(phase: PhaseOptions, plan_class: Callable[..., BatchPlan] = BatchPlan) -> dict[str, Stream]:
    streams = {}
    for name in phase.tasks:
        data = make_data(name)
        plan = plan_class(data.lengths, phase.batch_size, key=(1, name))
        is_masked = TASKS[name].kind == "masked_language_modeling"
        masking = Masking.for_tokenizer(_Tokenizer(), share=0.3, key=5) if is_masked else None
        streams[name] = Stream(TASKS[name], data, plan, masking)
    return streams


def make_request(
    world: World,
    engine: dict[str, Any],
    phase: dict[str, Any] | None = None,
    plan: EncoderPlan | None = None,
    heads: Sequence[HeadSpec] = HEADS,
) -> EngineRequest:
    plan = plan or make_plan(ARCHITECTURE)
    options = EngineOptions(**engine)
    return EngineRequest(
        world=world,
        plan=plan,
        heads=heads,
        parameters=describe_parameters(plan, heads),
        options=options,
        phase=PhaseOptions(**PHASE | (phase or {})),
        precision="fp32" if options.precision == "auto" else options.precision,
    )


def make_engine(request: EngineRequest, seed: int = 1) -> Engine:
    """The engine with fresh weights of that seed."""
    engine = build_engine(request)
    engine.load_parameters(FreshWeights(request.parameters, seed))
    return engine


def run_loop(
    engine: Engine, request: EngineRequest, num_steps: int, lopsided: bool = False, start: int = 0
) -> list[dict[str, Any]]:
    """Train with the product's own loop up to `num_steps`, of which `start` are done; each step's row of metrics."""
    rows = _Rows()
    train(
        Training(
            engine=engine,
            phase=request.phase,
            streams=make_streams(request.phase, LopsidedPlan if lopsided else BatchPlan),
            weights=dict(request.phase.mixture),  # type: ignore[arg-type]
            num_steps=num_steps,
            seed=SEED,
            token_budget=request.options.max_tokens_per_micro_batch,
            padded=not request.plan.unpadded,
            cost=ModelCost(1, 1, 1),
            logging=LoggingOptions(every=1, tensorboard=False, progress="none"),
            metrics=rows,  # type: ignore[arg-type]
            keeper=_NothingBetweenSteps(),
            start=Progress(start),
        )
    )
    return rows.rows


class _NothingBetweenSteps:
    """A keeper that neither scores nor saves."""

    def poll(self) -> None:
        pass

    def evaluate(self, step: int) -> None:
        pass

    def saves_at(self, step: int) -> bool:
        return False

    def is_overdue(self) -> bool:
        return False

    def save(self, progress: Progress) -> None:
        raise AssertionError("it never asks for that")


class _Rows:
    """Keeps rows in memory instead of writing them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def digests(engine: Engine, request: EngineRequest) -> dict[str, int]:
    found = state_checksums(engine, [f"param/{name}" for name in request.parameters])
    return {key.removeprefix("param/"): checksum for key, checksum in found.items()}


def plain_losses(num_steps: int) -> list[float]:
    """The losses of the same run in plain PyTorch: one process, the whole batch at once, no engine."""
    request = make_request(World(0, 1, 0, torch.device("cpu")), {"name": "fsdp2"})
    model, source = HeadedEncoder(request.plan, request.heads), FreshWeights(request.parameters, 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.view(-1).copy_(source.read(name, 0, parameter.numel()))
    phase = request.phase
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": phase.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=phase.learning_rate, betas=phase.betas, eps=phase.epsilon)
    streams = make_streams(phase)
    mixture = MixturePlan(dict(phase.mixture), num_steps, key=(SEED, *sorted(streams)))  # type: ignore[arg-type]
    losses = []
    for step in range(num_steps):
        name, step_of_task = mixture.at(step)
        stream = streams[name]
        examples = stream.plan.examples(step_of_task)
        batch = assemble(stream.spec, stream.data, examples, stream.masking, stream.plan.epochs(step_of_task))
        loss = model(batch) / batch.num_targets
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), phase.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def run_worker(work: Callable[[World, Any], Any]) -> None:
    """Join the ranks, do the work of the job file, write its answer. A rank that fails ends with a traceback."""
    job, answer = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    found = work(join_world("cpu"), job)
    temporary = answer.with_suffix(".unfinished")
    temporary.write_text(json.dumps(found))
    temporary.rename(answer)


def run_actions(actions: Mapping[str, Callable[..., Any]]) -> None:
    """Do the named actions of the job file one after another; the answer has what each returned under its name."""

    def work(world: World, job: dict[str, dict[str, Any]]) -> dict[str, Any]:
        answers = {}
        for name, action in job.items():
            arguments = dict(action)
            started = time.perf_counter()
            answers[name] = actions[arguments.pop("do")](world, **arguments)
            print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)
        return answers

    run_worker(work)

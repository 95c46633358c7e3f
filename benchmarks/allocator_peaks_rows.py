"""Which cases of training_speed.py show what memory takes, and what the planner predicts for each of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from planner_accuracy import error
from training_speed_cases import Case, read_cases, suite
from training_speed_lengths import lengths_of

from xlt_scale.config import AdapterOptions, ModelOptions
from xlt_scale.data.plan import BatchPlan
from xlt_scale.modeling.adapters import is_adapter
from xlt_scale.modeling.encoder import plan_encoder
from xlt_scale.modeling.heads import HeadSpec
from xlt_scale.modeling.parameters import describe_parameters
from xlt_scale.planning.hardware import GIB, Cluster
from xlt_scale.planning.known_hardware import find_cluster
from xlt_scale.planning.memory import predict_memory
from xlt_scale.planning.prediction import MemoryPrediction
from xlt_scale.planning.shapes import shape_of
from xlt_scale.planning.workload import Layout, Lengths, Workload

SUITES = ("gpu-xl", "gpu-xxl", "gpu-beyond", "gpu-large")  # gpu-xl begins with all of gpu-quick

# Beside those of the suites: one size at every budget, compiled and not, under both engines.
BUDGETS = (
    "size=xlmr-xl batch=1024 compile=true budget=8192",
    "size=xlmr-xl batch=1024 budget=8192,16384,24576",
    "size=xlmr-xl batch=1024 budget=16384,24576 engine=zero3",
    "size=xlmr-xl batch=1024 budget=16384 checkpointing=selective,full",
    "size=xlmr-xl batch=1024 budget=16384,32768 checkpointing=full compile=true",
)

# Two steps: states of the optimiser appear in the first one, and the second finds them there.
_FEW = {"warmup": 1, "steps": 1, "trace": False}


def memory_cases() -> list[Case]:
    """Our own training in the suites, each configuration once, cut down to as many steps as its peak takes."""
    of_suites = [case for name in SUITES for case in suite(name, Case()) if case.is_ours and case.work == "train"]
    cases = of_suites[:4] + [case for text in BUDGETS for case in read_cases(text, Case())] + of_suites
    return list(dict.fromkeys(shortened(case) for case in cases))


def shortened(case: Case) -> Case:
    """The same configuration for two steps."""
    return replace(case, **_FEW)


@dataclass(frozen=True)
class Row:
    """One case, what PyTorch's allocator saw of it, and what the planner says.

    Attributes:
        answer: of the case's process: `status`, and where it trained `allocated_gib` and `reserved_gib`.
        capacity_gib: what a run can have of the device, its context left out.
    """

    case: Case
    answer: Mapping[str, Any]
    prediction: MemoryPrediction
    capacity_gib: float

    @property
    def trained(self) -> bool:
        return bool(self.answer["status"] == "measured")

    @property
    def is_known(self) -> bool:
        """Whether the case ended as memory decides: trained, or out of memory."""
        return self.trained or bool(self.answer["status"] == "out of memory")

    @property
    def predicted_gib(self) -> float:
        """Without margins, as PyTorch's allocator counts."""
        return self.prediction.allocated / GIB

    @property
    def error(self) -> float | None:
        """Of the predicted peak, in percent of the allocated one; None where there is none to compare with."""
        return error(self.predicted_gib, self.answer["allocated_gib"]) if self.trained else None

    @property
    def is_predicted_to_fit(self) -> bool:
        """With margins, as the planner decides."""
        return self.prediction.total / GIB <= self.capacity_gib

    def as_json(self) -> dict[str, Any]:
        figures = {"error_percent": self.error, "is_predicted_to_fit": self.is_predicted_to_fit}
        answer = {
            name: self.answer.get(name)
            for name in ("status", "reason", "allocated_gib", "reserved_gib", "num_micro_batches")
        }
        return {"label": self.case.label, **answer, **figures, "predicted_bytes": asdict(self.prediction)} | {
            "case": self.case.as_json()
        }


def device_of(capacity_mib: int) -> Cluster:
    """An H200 with so much memory, as the planner describes it."""
    cluster = find_cluster("h200")
    memory = capacity_mib / 1024 - cluster.device.reserved_gib
    return replace(cluster, device=replace(cluster.device, memory_gib=memory))


def predict(case: Case, cluster: Cluster) -> MemoryPrediction:
    """The planner's bytes for a case, with the largest micro-batch that its steps have: not the expected one."""
    tokens_of_step, largest = _tokens(case)
    mean = tokens_of_step / case.batch
    workload = Workload(
        shape_of(case.shape),
        Lengths(mean, mean**2, min(case.max_length, largest)),
        case.batch,
        precision=case.precision,  # type: ignore[arg-type]
        optimizer=case.optimizer,  # type: ignore[arg-type]
        dropout=0.0,
        trained_share=trained_share(case),
        trains_embeddings=case.adapter == "none",
        four_bit=case.adapter == "nf4",
    )
    layout = Layout(
        case.engine,  # type: ignore[arg-type]
        1,
        max_tokens_per_micro_batch=largest,
        activation_checkpointing={"none": False, "full": True}.get(case.checkpointing, "selective"),  # type: ignore[arg-type]
        checkpoint_every=case.checkpoint_every,
        compile=case.compile,
        float8=case.float8,
        offload=case.offload,  # type: ignore[arg-type]
        keep_gathered={"true": True, "false": False}.get(case.keep_gathered, "auto"),  # type: ignore[arg-type]
    )
    return predict_memory(workload, layout, cluster)


def _tokens(case: Case) -> tuple[int, int]:
    """Of the fullest of the case's steps, and of their largest micro-batch: the data that its process draws."""
    num_steps = case.warmup + case.steps
    lengths = lengths_of(case, max(num_steps * case.batch, 2_000))
    plan = BatchPlan(lengths, case.batch, key=(case.seed, "speed"))
    steps = [plan.split(step, 0, 1, case.budget).micro_batches for step in range(num_steps)]
    sums = [[int(lengths[numbers].sum()) for numbers in micro_batches] for micro_batches in steps]
    return max(map(sum, sums)), max(map(max, sums))


def trained_share(case: Case) -> float:
    """Parameters that are stepped, of the encoder's: with adapters theirs alone."""
    if case.adapter == "none":
        return 1.0
    options = ModelOptions(architecture=case.shape.architecture(), tokenizer="micro", max_length=case.max_length)
    adapter = AdapterOptions(base="nf4" if case.adapter == "nf4" else "full")
    specs = describe_parameters(plan_encoder(options), (HeadSpec("speed", "classification", 3),), adapter)
    trained = sum(spec.numel for name, spec in specs.items() if is_adapter(name))
    return trained / case.shape.num_parameters

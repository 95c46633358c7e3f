"""A run's plan: one layout for all its phases, what it takes, and what else there would be."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from xlt_scale.config import EngineOptions
from xlt_scale.errors import UserError
from xlt_scale.planning.choice import candidates, fastest_first, missing_bytes, smaller_states, why_not
from xlt_scale.planning.describe import PhaseWork, RunDescription
from xlt_scale.planning.hardware import GIB, Cluster
from xlt_scale.planning.layouts import describe_layout, layout_of
from xlt_scale.planning.memory import predict_memory
from xlt_scale.planning.prediction import MemoryPrediction, TimePrediction
from xlt_scale.planning.step_time import predict_step
from xlt_scale.planning.workload import Layout, Lengths, Workload

_NUM_SLOWER = 4
_NUM_TOO_LARGE = 3
_SCORING_BATCH = 64
_SCORING_BUDGET = 16_384


@dataclass(frozen=True)
class PhasePlan:
    """A phase under a layout.

    Attributes:
        memory, time: of its training; None where it only scores.
        training_seconds: of all its steps.
        scoring_seconds: of all forward passes that only score.
    """

    work: PhaseWork
    memory: MemoryPrediction | None
    time: TimePrediction | None
    training_seconds: float
    scoring_seconds: float


@dataclass(frozen=True)
class LayoutPlan:
    """A layout for all phases of a run."""

    layout: Layout
    phases: tuple[PhasePlan, ...]

    @property
    def memory(self) -> MemoryPrediction | None:
        """Of the tightest phase."""
        found = [phase.memory for phase in self.phases if phase.memory is not None]
        return max(found, key=lambda memory: memory.total, default=None)

    @property
    def bytes_needed(self) -> int:
        return self.memory.total if self.memory is not None else 0

    @property
    def seconds(self) -> float:
        return sum(phase.training_seconds + phase.scoring_seconds for phase in self.phases)

    def missing(self, cluster: Cluster) -> float:
        """GiB that a device, or a host for what is offloaded to it, has too few; 0 where it fits."""
        found = [phase.memory for phase in self.phases if phase.memory is not None]
        return max((missing_bytes(memory, self.layout, cluster) for memory in found), default=0.0) / GIB


@dataclass(frozen=True)
class RunPlan:
    """What a run is advised to do.

    Attributes:
        engine: the run file's own table.
        best: the fastest layout that fits all phases.
        written: what the run file itself says, where the planner was free to say another.
        advice: what would help and is not the planner's to choose, as it changes results by more than rounding.
        slower, too_large: other layouts, the most different ones: that fit, and that would be faster but do not fit.
    """

    cluster: Cluster
    engine: EngineOptions
    best: LayoutPlan
    written: LayoutPlan | None
    slower: tuple[LayoutPlan, ...]
    too_large: tuple[LayoutPlan, ...]
    notes: tuple[str, ...]
    advice: str = ""


def plan_run(description: RunDescription, cluster: Cluster, fixed: Mapping[str, object]) -> RunPlan:
    """The fastest layout of a run on all devices of a cluster that keeps the engine options in `fixed`.

    Raises:
        UserError: nothing fits, or a batch has fewer examples than there are devices.
    """
    works = [description.work(phase) for phase in description.run.phases]
    check_batches(works, cluster)
    written = plan_layout(layout_of(description.run.engine, cluster), works, description, cluster)
    workloads = _workloads(works)
    if not workloads:
        return RunPlan(cluster, description.run.engine, written, None, (), (), tuple(description.facts.notes))
    plans = plans_of(works, description, cluster, fixed)
    fitting = [plan for plan in plans if not plan.missing(cluster)]
    if not fitting:
        raise NothingFitsError(f"{cluster.name}: {why_nothing_fits(works, cluster, fixed)}")
    best = fitting[0]
    too_large = [plan for plan in plans if plan.missing(cluster) and plan.seconds < best.seconds]
    return RunPlan(
        cluster=cluster,
        engine=description.run.engine,
        best=best,
        written=written,
        slower=_different(fitting[1:], [best], _NUM_SLOWER),
        too_large=_different(too_large, [best], _NUM_TOO_LARGE),
        notes=tuple(description.facts.notes),
        advice=_advice(best, works, description, cluster, fixed),
    )


def plans_of(
    works: Sequence[PhaseWork], description: RunDescription, cluster: Cluster, fixed: Mapping[str, object]
) -> list[LayoutPlan]:
    """Every layout of all phases on all devices of the cluster that keeps what is fixed: those that fit, the best one
    first (`fastest_first`), then those that do not, fastest first.
    """
    layouts = dict.fromkeys(
        layout for workload in _workloads(works) for layout in candidates(workload, cluster, cluster.num_devices, fixed)
    )
    plans = [plan_layout(layout, works, description, cluster) for layout in layouts]
    fitting = [plan for plan in plans if not plan.missing(cluster)]
    too_large = sorted((plan for plan in plans if plan.missing(cluster)), key=lambda plan: plan.seconds)
    return [*fastest_first(fitting, lambda plan: plan.seconds, lambda plan: plan.layout), *too_large]


def why_nothing_fits(works: Sequence[PhaseWork], cluster: Cluster, fixed: Mapping[str, object]) -> str:
    """What is in the way of the phase that takes the most, and the mend."""

    def least_memory(workload: Workload) -> int:
        layouts = candidates(workload, cluster, cluster.num_devices, fixed)
        return min((predict_memory(workload, layout, cluster).total for layout in layouts), default=0)

    return why_not(max(_workloads(works), key=least_memory), cluster, fixed)


class NothingFitsError(UserError):
    """No layout fits the devices: one line with what is in the way and the mend."""


def check_batches(works: Iterable[PhaseWork], cluster: Cluster) -> None:
    """Every device must have an example of each batch.

    Raises:
        UserError: one has none.
    """
    for work in works:
        if work.workload is not None and work.workload.batch_size < cluster.num_devices:
            size = work.workload.batch_size
            raise UserError(
                f"phase {work.name!r}: batch_size = {size} leaves some of {cluster.num_devices} devices without an "
                f"example; give --devices {size} or fewer, or raise batch_size"
            )


def plan_layout(
    layout: Layout, works: Sequence[PhaseWork], description: RunDescription, cluster: Cluster
) -> LayoutPlan:
    """What a layout takes, phase by phase, whether it fits or not."""
    per_token = seconds_per_scored_token(description, cluster)
    return LayoutPlan(layout, tuple(plan_phase(work, layout, cluster, per_token) for work in works))


def seconds_per_scored_token(description: RunDescription, cluster: Cluster) -> float:
    """Of a forward pass, each device with a share of the items: a third of what a training step computes."""
    lengths = Lengths(mean=64.0, mean_square=64.0**2 * 1.3, longest=128)
    workload = Workload(
        shape=description.shape,
        lengths=lengths,
        batch_size=_SCORING_BATCH * cluster.num_devices,
        precision=description.precision,
        unpadded=description.unpadded,
        dropout=0.0,
    )
    layout = Layout("fsdp2", cluster.num_devices, cluster.num_nodes, max_tokens_per_micro_batch=_SCORING_BUDGET)
    step = predict_step(workload, layout, cluster)
    return (step.compute + step.overhead) / 3 / step.tokens


def plan_phase(work: PhaseWork, layout: Layout, cluster: Cluster, per_scored_token: float) -> PhasePlan:
    """What one phase takes under a layout.

    Args:
        per_scored_token: seconds (`seconds_per_scored_token`).
    """
    scoring = work.scored_tokens * per_scored_token
    if work.workload is None:
        return PhasePlan(work, None, None, 0.0, scoring)
    time = predict_step(work.workload, layout, cluster)
    memory = predict_memory(work.workload, layout, cluster)
    return PhasePlan(work, memory, time, work.num_steps * time.seconds, scoring)


def _advice(
    best: LayoutPlan,
    works: Sequence[PhaseWork],
    description: RunDescription,
    cluster: Cluster,
    fixed: Mapping[str, object],
) -> str:
    """Smaller states, where a run otherwise waits for the host."""
    if best.layout.offload == "none":
        return ""
    for changes, settings in smaller_states(_workloads(works)):
        smaller = [replace(work, workload=work.workload and replace(work.workload, **changes)) for work in works]
        plan = plans_of(smaller, description, cluster, {"offload": "none"} | dict(fixed))[0]
        if not plan.missing(cluster) and plan.seconds <= best.seconds / 2:
            return (
                f"with {settings} in every phase, which is another experimental condition, all of it takes "
                f"{duration(plan.seconds)} in place of {duration(best.seconds)} ({describe_layout(plan.layout)})"
            )
    return ""


def _workloads(works: Iterable[PhaseWork]) -> list[Workload]:
    return list(dict.fromkeys(work.workload for work in works if work.workload is not None))


def _different(plans: Sequence[LayoutPlan], known: Sequence[LayoutPlan], most: int) -> tuple[LayoutPlan, ...]:
    """The first of each kind: those that differ in more than a number."""
    seen = {_kind(plan.layout) for plan in known}
    found: list[LayoutPlan] = []
    for plan in plans:
        if _kind(plan.layout) not in seen and len(found) < most:
            seen.add(_kind(plan.layout))
            found.append(plan)
    return tuple(found)


def _kind(layout: Layout) -> Layout:
    return replace(layout, max_tokens_per_micro_batch=0, checkpoint_every=1)


def duration(seconds: float) -> str:
    """In the largest unit that leaves a number above 1, rounded as a prediction should be."""
    for unit, length in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= length:
            return f"{seconds / length:,.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"

"""What a study will take, predicted before anything has run: devices, seconds and bytes, by the planner.

As soon as phases of a kind have run, their measured seconds take the prediction's place.
"""

import os
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from xlt_scale.planning.describe import PhaseWork, RunDescription
from xlt_scale.planning.gpus import gpus
from xlt_scale.planning.hardware import GIB, Cluster
from xlt_scale.planning.known_hardware import find_cluster
from xlt_scale.planning.layouts import doubled, fixed_settings, layout_of, part_of
from xlt_scale.planning.run_plan import (
    LayoutPlan,
    PhasePlan,
    plan_layout,
    plan_phase,
    plans_of,
    seconds_per_scored_token,
)
from xlt_scale.planning.shapes import size_of_model
from xlt_scale.planning.task_data import DataFacts, Reads
from xlt_scale.planning.this_machine import is_processor, this_machine
from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid
from xlt_scale.scaling.grid.jobs import Placement
from xlt_scale.sizes import ModelSize, training_flops
from xlt_scale.study_config import ResourceOptions, StudyOptions

_MOST_PER_DEVICE = 4
_MOST_DEVICES = 64
_ASSUMED_DEVICES_PER_NODE = 8
_SECONDS_PER_PHASE = 1.0
# Assumed of a shared disk or its cache; every phase reads its parent's weights.
_BYTES_READ_PER_SECOND = 2e9
_MEMORY_WITHOUT_GPU_GIB = 80.0
_ASSUMED_GPUS = "a100-80g"


@dataclass
class CostModel:
    """Predicted costs of a grid's phases.

    Attributes:
        measured: seconds of phases that have run, by `kind_of`; taken where there are any.
        guesses: what had to be assumed, once each.
        cluster: what the study is counted on; default: GPUs or processor cores like this machine's.
        reads: how the tasks' data are looked at (`DataFacts`).
        is_assumed: there may be more of its nodes, as nobody has said where the study runs.
    """

    grid: StudyGrid
    measured: Mapping[str, list[float]] = field(default_factory=dict)
    guesses: list[str] = field(default_factory=list)
    cluster: Cluster | None = None
    is_assumed: bool = False
    reads: Reads = "counts"

    def __post_init__(self) -> None:
        resources = self.grid.study.resources
        if self.cluster is None:
            self.cluster, notes = counted_on(self.grid.study)
            self.guesses.extend(notes)
            self.is_assumed = True
        self._cluster: Cluster = self.cluster
        self._is_processor = is_processor(self._cluster.device)
        self._speed = 1e12 * resources.teraflops_per_device
        self._sizes = {name: size_of_model(run.model) for name, run in self.grid.runs.items()}
        self._descriptions: dict[str, RunDescription] = {}
        for name, size in self._sizes.items():
            if size is None:
                self._guess(f"{name}: the model's shape is not known here; counted as free, on one device")
            else:
                run = self.grid.runs[name]
                facts = DataFacts(run, reads=self.reads, notes=self.guesses)
                self._descriptions[name] = RunDescription(run, facts, self._is_processor)
        self._works: dict[str, list[PhaseWork]] = {}
        self._plans: dict[tuple[str, int], LayoutPlan] = {}
        self._scoring: dict[tuple[str, int], float] = {}
        # Thousands of phases differ in their seeds alone.
        self._phases: dict[tuple[object, ...], PhasePlan] = {}

    @property
    def basis(self) -> str:
        """What the seconds come from where nothing of the kind has run."""
        if self._speed:
            return f"{self._speed / 1e12:g} TFLOP/s a device (resources.teraflops_per_device)"
        device = self._cluster.device
        return f"times predicted for {device.name} with {device.memory_gib:.0f} GiB (docs/planning.md), not measured"

    def num_parameters(self) -> list[int]:
        """Of each size whose shape is known."""
        return [size.num_parameters for size in self._sizes.values() if size is not None]

    def placements(self) -> dict[str, Placement]:
        """Devices and bytes of each size's runs."""
        return {name: self.placement(name, self._wanted(name)) for name in self._sizes}

    def placement(self, name: str, devices: int = 0) -> Placement:
        """What the runs of a size take.

        Args:
            devices: of a run; 0 = the fewest that its training fits on.
        """
        size, resources = self._sizes[name], self.grid.study.resources
        if size is None:
            return Placement(max(devices, 1), 1, 0, 0)
        chosen = devices or self.fewest(name) or self.numbers_of_devices()[-1]
        missing = 0.0 if self._is_processor else self.plan(name, chosen).missing(self._part(chosen))
        if missing:
            self._guess(f"{name}: predicted not to fit {chosen} devices, by {missing:.1f} GiB on each")
        together = (resources.jobs_per_device or self._side_by_side(name)) if chosen == 1 else 1
        # Weights are kept in fp32, a training checkpoint has two moments beside them.
        return Placement(chosen, together, 4 * size.num_parameters, 12 * size.num_parameters)

    def seconds(self, phase: PlannedPhase, devices: int = 1, per_device: int = 1) -> float:
        """Of training and scoring, by one process start that is already there.

        Args:
            per_device: runs that share its device: what the device itself does, they do one after another.
        """
        known = self.measured.get(kind_of(phase))
        if known:
            return statistics.median(known)
        size = self._sizes[phase.size]
        if size is None:
            return _SECONDS_PER_PHASE
        fixed = _SECONDS_PER_PHASE + 4 * size.num_parameters / _BYTES_READ_PER_SECOND / devices
        work = self._descriptions[phase.size].work(phase.options)
        if self._speed:
            return fixed + _flops(work, size) / (devices * self._speed)
        planned = self._plan_phase(phase.size, work, devices)
        if per_device == 1:
            return fixed + planned.training_seconds + planned.scoring_seconds
        busy = planned.scoring_seconds
        if planned.time is not None:
            busy += work.num_steps * (planned.time.compute + planned.time.optimizer)
        return fixed + max(planned.training_seconds + planned.scoring_seconds, per_device * busy)

    def all_seconds(self, placements: Mapping[str, Placement]) -> dict[str, float]:
        """Of every phase of the grid, by name."""
        return {
            name: self.seconds(phase, placements[phase.size].devices, placements[phase.size].per_device)
            for name, phase in self.grid.phases.items()
        }

    def works(self, size: str) -> list[PhaseWork]:
        """What a size's phases do, each kind once."""
        if size not in self._works:
            options = (phase.options for phase in self.grid.phases.values() if phase.size == size)
            found = {(work.workload, work.num_steps): work for work in map(self._descriptions[size].work, options)}
            self._works[size] = list(found.values())
        return self._works[size]

    def plan(self, size: str, devices: int) -> LayoutPlan:
        """The layout of a size's runs on so many devices: the study file's or, with `engine.auto`, the fastest that
        fits all its phases; the one that takes the least where none does.
        """
        if (size, devices) not in self._plans:
            self._plans[size, devices] = self._choose(size, devices)
        return self._plans[size, devices]

    def fits(self, size: str, devices: int) -> bool:
        """Whether so many devices have the memory for all phases of a size, and an example of every batch each."""
        return self.has_examples(size, devices) and not self.plan(size, devices).missing(self._part(devices))

    def has_examples(self, size: str, devices: int) -> bool:
        """Whether every batch of a size has an example for each of so many devices."""
        return all(work.workload.batch_size >= devices for work in self.works(size) if work.workload)

    def is_known(self, size: str) -> bool:
        """Whether the shape of the size's model is known here."""
        return self._sizes[size] is not None

    def fewest(self, size: str) -> int:
        """The fewest devices that all phases of a size fit on, with nothing offloaded if the study does not ask for it;
        where that is never so, with offloading; 0 where they fit on none that there are.
        """
        asked, with_offloading = self.grid.runs[size].engine.offload, 0
        for devices in self.numbers_of_devices():
            if self.fits(size, devices):
                if self.plan(size, devices).layout.offload == asked:
                    return devices
                with_offloading = with_offloading or devices
        return with_offloading

    def numbers_of_devices(self) -> list[int]:
        """That a run may have: any up to a node, then whole nodes, doubled."""
        node = _ASSUMED_DEVICES_PER_NODE if self.is_assumed else self._cluster.devices_per_node
        most = _MOST_DEVICES if self.is_assumed else self._cluster.num_devices
        return [*range(1, min(node, most) + 1), *doubled(2 * node, most)]

    def _choose(self, size: str, devices: int) -> LayoutPlan:
        description, works, part = self._descriptions[size], self.works(size), self._part(devices)
        engine = description.run.engine
        if not engine.auto:
            return plan_layout(layout_of(engine, part), works, description, part)
        fixed = fixed_settings(engine, part)
        # Waiting for the host is for those who have no more devices.
        for settings in ({"offload": "none"} | fixed, fixed):
            plans = plans_of(works, description, part, settings)
            if not plans[0].missing(part):
                return plans[0]
        return min(plans, key=lambda plan: plan.bytes_needed)

    def _plan_phase(self, size: str, work: PhaseWork, devices: int) -> PhasePlan:
        part = self._part(devices)
        if (size, devices) not in self._scoring:
            self._scoring[size, devices] = seconds_per_scored_token(self._descriptions[size], part)
        key = (size, devices, work.workload, work.num_steps, work.scored_tokens)
        if key not in self._phases:
            layout = self.plan(size, devices).layout
            self._phases[key] = plan_phase(work, layout, part, self._scoring[size, devices])
        return self._phases[key]

    def _part(self, devices: int) -> Cluster:
        whole = self._cluster
        if self.is_assumed:
            whole = replace(whole, devices_per_node=_ASSUMED_DEVICES_PER_NODE, num_nodes=_MOST_DEVICES)
        return part_of(whole, devices)

    def _wanted(self, name: str) -> int:
        return next(size.devices for size in self.grid.study.sizes if size.name == name)

    def _side_by_side(self, size: str) -> int:
        """Runs that one device has the memory for; those that wait for the host would wait for each other there."""
        if self._is_processor or self.plan(size, 1).layout.offload != "none":
            return 1
        needed = max(1, self.plan(size, 1).bytes_needed)
        return max(1, min(_MOST_PER_DEVICE, int(self._cluster.device.memory_gib * GIB // needed)))

    def _guess(self, text: str) -> None:
        if text not in self.guesses:
            self.guesses.append(text)


def counted_on(study: StudyOptions, elsewhere: bool = False) -> tuple[Cluster, list[str]]:
    """Nodes that a study is counted on before anybody says where it runs: GPUs or cores like this machine's.

    Args:
        elsewhere: jobs run on a cluster's nodes: without a GPU here, on GPUs all the same.
    """
    device = study.run.get("engine", {}).get("device", "auto")
    on_processors = device == "cpu" or os.environ.get("DS_ACCELERATOR") == "cpu"
    notes: list[str] = []
    if elsewhere and not on_processors and not gpus():
        cluster = find_cluster(_ASSUMED_GPUS)
        notes.append(f"no GPU here: counted on nodes of {_ASSUMED_GPUS}")
    else:
        cluster, _ = this_machine(on_processors)
    return _with_memory(cluster, study.resources), notes


def _with_memory(cluster: Cluster, resources: ResourceOptions) -> Cluster:
    memory = resources.device_memory_gib
    if not memory:
        memory = _MEMORY_WITHOUT_GPU_GIB if is_processor(cluster.device) else cluster.device.memory_gib
    return replace(cluster, device=replace(cluster.device, memory_gib=memory))


def kind_of(phase: PlannedPhase) -> str:
    """Phases of one kind cost alike: the same size, trained tasks, steps and scored tasks."""
    options = phase.options
    parts = [phase.size, *options.tasks, "|", *sorted(options.evaluate), options.steps, options.epochs]
    return " ".join(str(part) for part in [*parts, options.max_examples, *options.languages])


def measured_seconds(grid: StudyGrid, seconds: Mapping[str, float]) -> dict[str, list[float]]:
    """Seconds of phases that have run (by name) as `CostModel.measured` wants them."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in seconds.items():
        if name in grid.phases:
            found[kind_of(grid.phases[name])].append(value)
    return found


def _flops(work: PhaseWork, size: ModelSize) -> float:
    parameters = size.num_non_embedding_parameters
    total = 2.0 * parameters * work.scored_tokens
    if work.workload is None:
        return total
    examples = work.num_steps * work.workload.batch_size
    lengths = work.workload.lengths
    tokens, squares = round(examples * lengths.mean), round(examples * lengths.mean_square)
    return total + training_flops(parameters, size.num_layers, size.hidden_size, tokens, squares)

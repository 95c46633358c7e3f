"""What a study takes on a cluster: devices of a run by size, device hours, wall time with runs side by side, disk."""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count

from xlt_scale.planning.choice import why_not
from xlt_scale.planning.hardware import GIB, Cluster
from xlt_scale.planning.layouts import describe_layout, fixed_settings, part_of
from xlt_scale.planning.run_plan import NothingFitsError
from xlt_scale.planning.task_data import Reads
from xlt_scale.scaling.grid.costs import CostModel
from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid, design
from xlt_scale.scaling.grid.disk import DiskOfSize, disk_budget, peak_bytes
from xlt_scale.scaling.grid.jobs import Placement, StudyJob, pack
from xlt_scale.scaling.grid.search import Choice, SearchCell
from xlt_scale.study_config import StudyOptions

# More devices for a run than the cheapest number are sensible while four fifths of them are put to use.
_SENSIBLE = 1.25


@dataclass(frozen=True)
class SizeOnDevices:
    """A size's runs with so many devices each.

    Attributes:
        per_device: runs that share a device.
        memory_gib: of the fullest device, in the phase that takes the most.
        device_hours: of all phases of the size.
        longest_hours: of the longest phase.
    """

    size: str
    devices: int
    per_device: int
    layout: str
    memory_gib: float
    device_hours: float
    longest_hours: float


@dataclass(frozen=True)
class Strategy:
    """A number of devices for each size.

    Attributes:
        jobs: chains of phases that a process start carries out.
        disk: of each size.
    """

    sizes: tuple[SizeOnDevices, ...]
    jobs: tuple[StudyJob, ...]
    disk: tuple[DiskOfSize, ...]
    keeps_encoders: bool

    @property
    def device_hours(self) -> float:
        return sum(size.device_hours for size in self.sizes)

    def wall_hours(self, num_devices: int) -> float:
        """From the first job to the last, side by side on so many devices."""
        return wall_seconds(self.jobs, num_devices) / 3600

    def disk_bytes(self, num_devices: int) -> int:
        """At the fullest moment, at most."""
        per_job = sum(job.devices / job.per_device for job in self.jobs) / len(self.jobs)
        at_once = max(1, min(len(self.jobs), int(num_devices / per_job)))
        return peak_bytes(self.disk, at_once, self.keeps_encoders)


@dataclass(frozen=True)
class StudyPlan:
    """What a study takes.

    Attributes:
        fewest: by size the fewest devices that a run fits on.
        tried: by size every number of devices that fits and is a power of two or the fewest.
        cheapest: the number that takes the fewest device hours, for every size.
        fastest: the most devices that are sensible: at most a quarter more device hours than the cheapest.
        by_arm, by_target: device hours of the cheapest; phases that several share count for the first of them.
        num_phases: by size.
        costs: that all of it was counted with.
    """

    study: StudyOptions
    cluster: Cluster
    fewest: Mapping[str, int]
    tried: Mapping[str, tuple[SizeOnDevices, ...]]
    cheapest: Strategy
    fastest: Strategy
    by_arm: Mapping[str, float]
    by_target: Mapping[str, float]
    num_phases: Mapping[str, int]
    notes: tuple[str, ...]
    costs: CostModel

    def cheapest_in_jobs_of(self, hours: float) -> Strategy:
        """The cheapest with jobs of so many hours at most, in place of the study file's."""
        return _strategy(self.costs, {one.size: one for one in self.cheapest.sizes}, hours)


def plan_study(study: StudyOptions, cluster: Cluster, notes: Sequence[str] = (), reads: Reads = "counts") -> StudyPlan:
    """Plan all of a study, as if nothing of it had run; of a learning-rate search every target too.

    Args:
        notes: what is assumed of the cluster.
        reads: how the tasks' data are looked at (`DataFacts`).

    Raises:
        UserError: the study cannot work as it is written.
        NothingFitsError: a size fits on no number of the cluster's devices.
    """
    grid = _whole_grid(study)
    costs = CostModel(grid, guesses=list(notes), cluster=cluster, reads=reads)
    fewest, tried = {}, {}
    for size in grid.runs:
        # One whose shape is not known counts as free, on one device.
        fewest[size] = costs.fewest(size) if costs.is_known(size) else 1
        if not fewest[size]:
            raise NothingFitsError(f"size {size!r} on {cluster.name}: {_why_not(costs, size, cluster)}")
        asked = next(entry.devices for entry in study.sizes if entry.name == size)
        counts = [n for n in costs.numbers_of_devices() if n == fewest[size] or (n > fewest[size] and _is_round(n))]
        counts = [n for n in counts if n == 1 or (costs.is_known(size) and costs.fits(size, n))]
        tried[size] = tuple(_on_devices(grid, costs, size, n) for n in ([asked] if asked else counts))
    cheapest = {size: min(found, key=lambda one: (one.device_hours, one.devices)) for size, found in tried.items()}
    fastest = {
        size: max(
            (one for one in found if one.device_hours <= _SENSIBLE * cheapest[size].device_hours),
            key=lambda one: one.devices / one.per_device,
        )
        for size, found in tried.items()
    }
    by_arm, by_target = _shares(grid, costs, cheapest)
    return StudyPlan(
        study=study,
        cluster=cluster,
        fewest=fewest,
        tried=tried,
        cheapest=_strategy(costs, cheapest),
        fastest=_strategy(costs, fastest),
        by_arm=by_arm,
        by_target=by_target,
        num_phases={size: sum(phase.size == size for phase in grid.phases.values()) for size in grid.runs},
        notes=tuple(costs.guesses),
        costs=costs,
    )


def wall_seconds(jobs: Sequence[StudyJob], num_devices: int) -> float:
    """How long jobs take on so many devices, each started as soon as what it needs is done and devices are free, in the
    order given.
    """
    free = Fraction(num_devices)
    waiting, done = list(jobs), set[str]()
    running: list[tuple[float, int, StudyJob]] = []
    inside = {phase for job in jobs for phase in job.phases}
    now, number = 0.0, count()
    while waiting or running:
        for job in list(waiting):
            share = Fraction(job.devices, job.per_device)
            if share <= free and (job.needs & inside) <= done:
                free -= share
                heapq.heappush(running, (now + job.seconds, next(number), job))
                waiting.remove(job)
            if not free:
                break
        assert running, "a job needs more devices than there are, or what no job makes"
        now, _, ended = heapq.heappop(running)
        free += Fraction(ended.devices, ended.per_device)
        done |= set(ended.phases)
    return now


def _whole_grid(study: StudyOptions) -> StudyGrid:
    rates = study.search.learning_rates
    if not rates:
        return design(study)
    names = [""] if study.search.per == "size" else [arm.name for arm in study.arms]
    cells = [
        SearchCell(size.name, arm, target.name) for size in study.sizes for arm in names for target in study.targets
    ]
    return design(study, {cell: Choice(rates[0], {rates[0]: 0.0}, 1) for cell in cells})


def _why_not(costs: CostModel, size: str, cluster: Cluster) -> str:
    devices = next((n for n in reversed(costs.numbers_of_devices()) if costs.has_examples(size, n)), 1)
    part = part_of(cluster, devices)
    workloads = [work.workload for work in costs.works(size) if work.workload is not None]
    plan = costs.plan(size, devices)
    memory = {phase.work.workload: phase.memory.total for phase in plan.phases if phase.memory is not None}
    tightest = max(workloads, key=lambda workload: memory.get(workload, 0))
    return why_not(tightest, part, fixed_settings(costs.grid.runs[size].engine, part))


def _is_round(number: int) -> bool:
    return number & (number - 1) == 0


def _on_devices(grid: StudyGrid, costs: CostModel, size: str, devices: int) -> SizeOnDevices:
    placement = costs.placement(size, devices)
    phases = [phase for phase in grid.phases.values() if phase.size == size]
    seconds = [costs.seconds(phase, placement.devices, placement.per_device) for phase in phases]
    plan = costs.plan(size, devices) if costs.is_known(size) else None
    return SizeOnDevices(
        size=size,
        devices=placement.devices,
        per_device=placement.per_device,
        layout=describe_layout(plan.layout) if plan else "not known",
        memory_gib=plan.bytes_needed / GIB if plan else 0.0,
        device_hours=sum(seconds) * placement.devices / placement.per_device / 3600,
        longest_hours=max(seconds, default=0.0) / 3600,
    )


def _placements(costs: CostModel, sizes: Mapping[str, SizeOnDevices]) -> dict[str, Placement]:
    return {size: costs.placement(size, one.devices) for size, one in sizes.items()}


def _strategy(costs: CostModel, sizes: Mapping[str, SizeOnDevices], hours_per_job: float = 0.0) -> Strategy:
    grid, placements = costs.grid, _placements(costs, sizes)
    keep_last = max(run.checkpoints.keep_last for run in grid.runs.values())
    resources = grid.study.resources
    seconds = costs.all_seconds(placements)
    jobs = pack(grid, list(grid.phases), placements, seconds, hours_per_job or resources.hours_per_job, keep_last)
    return Strategy(
        sizes=tuple(sizes.values()),
        jobs=tuple(jobs),
        disk=tuple(disk_budget(grid, placements, jobs)),
        keeps_encoders=resources.keep_encoders == "always",
    )


def _shares(
    grid: StudyGrid, costs: CostModel, sizes: Mapping[str, SizeOnDevices]
) -> tuple[dict[str, float], dict[str, float]]:
    """Device hours by arm, and by target: what is trained before targets stands beside these."""
    placements = _placements(costs, sizes)
    by_arm: dict[str, float] = defaultdict(float)
    by_target: dict[str, float] = defaultdict(float)
    for phase in grid.phases.values():
        placement = placements[phase.size]
        seconds = costs.seconds(phase, placement.devices, placement.per_device)
        hours = seconds * placement.devices / placement.per_device / 3600
        by_arm[phase.arm or "pre-training"] += hours
        by_target[_target(phase)] += hours
    return dict(by_arm), dict(by_target)


def _target(phase: PlannedPhase) -> str:
    if phase.role == "search":
        return "learning-rate search"
    return phase.target or f"{phase.role} phases"

"""Which layouts there are for a workload on a cluster, which of them fit, and which is fastest."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from math import ceil
from typing import Any, TypeVar

from xlt_scale.config import EngineOptions
from xlt_scale.planning.hardware import GIB, Cluster, Device
from xlt_scale.planning.memory import predict_memory
from xlt_scale.planning.micro_batches import split_step
from xlt_scale.planning.prediction import MemoryPrediction, TimePrediction
from xlt_scale.planning.residence import keeps_gathered
from xlt_scale.planning.step_time import predict_step
from xlt_scale.planning.workload import Layout, Workload

_BUDGETS = (2048, 4096, 8192, 16_384, 32_768, 65_536)
_CHECKPOINTING: tuple[tuple[bool | str, int], ...] = (
    (False, 1),
    *(("selective", every) for every in (4, 3, 2, 1)),
    *((True, every) for every in (4, 3, 2, 1)),
)
_NEAR = 0.02
_MOST_DEVICES = 4096

Item = TypeVar("Item")


@dataclass(frozen=True)
class Plan:
    """A layout with what it is predicted to take."""

    layout: Layout
    memory: MemoryPrediction
    time: TimePrediction

    def fits(self, cluster: Cluster) -> bool:
        """Whether the fullest device has room for it, and each host for what is offloaded."""
        return not missing_bytes(self.memory, self.layout, cluster)


def candidates(
    workload: Workload, cluster: Cluster, num_devices: int, fixed: Mapping[str, object] | None = None
) -> list[Layout]:
    """Layouts of so many devices that keep the engine options in `fixed`, those nearest to the defaults first.

    `fixed` has keys of the run's `engine` table; others than a layout's are of no matter. A number of nodes is that of
    the cluster, or as few as hold the devices.
    """
    fixed = fixed or {}
    num_nodes = cluster.num_nodes
    if num_devices != cluster.num_devices:
        num_nodes = ceil(num_devices / cluster.devices_per_node)
    found = []
    for engine, replicas, (policy, every), compiled, offload, kept in product(
        _values(fixed, "name", ("fsdp2", "zero3")),
        _replicas(fixed, num_devices, num_nodes),
        _checkpointing(fixed),
        _values(fixed, "compile", (False, True)),
        _values(fixed, "offload", ("none", "optimizer", "paged")),
        _values(fixed, "keep_gathered", ("auto", _other_than_auto(workload, cluster.device))),
    ):
        if (engine == "zero3" and replicas > 1) or (offload == "paged" and workload.optimizer != "adamw_8bit"):
            continue
        if engine == "zero3" and offload == "optimizer" and workload.without_masters:
            continue
        layout = Layout(
            engine,
            num_devices,
            num_nodes,
            replicas,
            activation_checkpointing=policy,
            checkpoint_every=every,
            compile=compiled,
            float8=bool(fixed.get("float8", False)),
            offload=offload,
            keep_gathered=kept,
        )
        found += [replace(layout, max_tokens_per_micro_batch=budget) for budget in _budgets(fixed, workload, layout)]
    return sorted(found, key=num_settings)


def plan_layouts(workload: Workload, cluster: Cluster, fixed: Mapping[str, object] | None = None) -> list[Plan]:
    """All layouts on all of the cluster's devices that fit, fastest first; of nearly equal ones the simplest."""
    return _fitting(workload, cluster, cluster.num_devices, fixed)


def fewest_devices(workload: Workload, cluster: Cluster, fixed: Mapping[str, object] | None = None) -> Plan | None:
    """The best plan on as few of the cluster's devices as it fits on; None where it does not fit on all.

    Offloading is slower by so much that more devices cost less: it comes last.
    """
    counts = [count for count in _numbers_of_devices(cluster) if count <= min(cluster.num_devices, workload.batch_size)]
    for settings in ({"offload": "none"} | dict(fixed or {}), dict(fixed or {})):
        for count in counts:
            if plans := _fitting(workload, cluster, count, settings):
                return plans[0]
    return None


def fastest_first(
    plans: Iterable[Item], seconds: Callable[[Item], float], layout: Callable[[Item], Layout]
) -> list[Item]:
    """Plans by time, the best one first: the simplest of those within 2 % of the fastest, which is less than a
    prediction can tell apart.
    """
    by_time = sorted(plans, key=lambda plan: (seconds(plan), num_settings(layout(plan))))
    if not by_time:
        return []
    near = [plan for plan in by_time if seconds(plan) <= (1 + _NEAR) * seconds(by_time[0])]
    best = min(near, key=lambda plan: num_settings(layout(plan)))
    return [best, *(plan for plan in by_time if plan is not best)]


def num_settings(layout: Layout) -> int:
    """Engine options that differ from their defaults: the more, the harder to understand."""
    settings, defaults = layout.engine_settings(), EngineOptions()
    return sum(getattr(defaults, name) != value for name, value in settings.items())


def missing_bytes(memory: MemoryPrediction, layout: Layout, cluster: Cluster) -> float:
    """What the fullest device has too few, or a device's share of its host; 0 where it fits."""
    per_node = layout.num_devices / layout.num_nodes
    on_host = memory.host - cluster.host_memory_gib * GIB / per_node
    return max(memory.total - cluster.device.memory_gib * GIB, on_host if memory.host else 0.0, 0.0)


def why_not(workload: Workload, cluster: Cluster, fixed: Mapping[str, object] | None = None) -> str:
    """What is in the way where nothing fits, and the nearest mend, as one line."""
    count = cluster.num_devices
    plans = [_plan(workload, layout, cluster) for layout in candidates(workload, cluster, count, fixed)]
    nearest = min(plans, key=lambda plan: missing_bytes(plan.memory, plan.layout, cluster))
    memory = nearest.memory
    parts = {part.name: getattr(memory, part.name) for part in fields(memory) if part.name not in ("host", "moment")}
    largest = max(parts, key=lambda name: parts[name])
    devices = f"{count} devices" if count > 1 else "1 device"
    needed = (
        f"{workload.shape.name} needs {memory.total / GIB:.1f} GiB per device on {devices} at least "
        f"({largest} {parts[largest] / GIB:.1f}), and {cluster.device.name} has {cluster.device.memory_gib:.1f}"
    )
    if memory.total <= cluster.device.memory_gib * GIB:
        needed = (
            f"{workload.shape.name} needs {memory.host / GIB:.1f} GiB of host memory per device, and a host has "
            f"{cluster.host_memory_gib:.0f}"
        )
    return f"{needed}; {_mend(workload, cluster, fixed)}"


def _mend(workload: Workload, cluster: Cluster, fixed: Mapping[str, object] | None) -> str:
    """Other options, then 8-bit states, then no masters, then more devices, and last of all, since it is slow,
    offloading.
    """
    fixed = fixed or {}
    free = {name: value for name, value in fixed.items() if name in ("name", "float8")}
    on_device = free | {"offload": "none"}
    if plans := plan_layouts(workload, cluster, on_device):
        return _with_settings(plans[0].layout, fixed)
    for changes, settings in smaller_states([workload]):
        if _fitting(replace(workload, **changes), cluster, cluster.num_devices, on_device):
            return f"it fits with {settings}, which is another experimental condition"
    largest = replace(cluster, num_nodes=ceil(_MOST_DEVICES / cluster.devices_per_node))
    more = [count for count in _numbers_of_devices(largest) if cluster.num_devices < count <= workload.batch_size]
    if cluster.devices_per_node > 1:
        for count in more:
            if _fitting(workload, cluster, count, on_device):
                return f"it fits on {count} devices"
    if plans := plan_layouts(workload, cluster, free):
        return _with_settings(plans[0].layout, fixed)
    return (
        "use several devices, or one with more memory" if cluster.num_devices == 1 else "use more, or larger, devices"
    )


def smaller_states(workloads: Sequence[Workload]) -> Iterator[tuple[dict[str, Any], str]]:
    """What takes less memory at another numeric result, the nearest to AdamW with fp32 masters first: changes of all
    the workloads of a run, and what its file would say.
    """
    if any(workload.precision != "bf16" for workload in workloads):
        return
    is_in_full = any(workload.optimizer == "adamw" for workload in workloads)
    if is_in_full:
        yield {"optimizer": "adamw_8bit"}, "optimizer = 'adamw_8bit'"
    if any(workload.trained_share_of_layers < 1.0 for workload in workloads):
        return  # beside adapters there are hardly any masters
    yield {"precision": "bf16_stochastic"}, "engine.precision = 'bf16_stochastic'"
    if is_in_full:
        both = {"optimizer": "adamw_8bit", "precision": "bf16_stochastic"}
        yield both, "optimizer = 'adamw_8bit' and engine.precision = 'bf16_stochastic'"


def _with_settings(layout: Layout, fixed: Mapping[str, object]) -> str:
    """The engine options in which a layout differs from what is set."""
    settings, defaults = layout.engine_settings(), EngineOptions()
    changed = [
        f"engine.{name} = {_toml(value)}"
        for name, value in settings.items()
        if value != fixed.get(name, getattr(defaults, name)) and name != "name"
    ]
    return f"it fits with {', '.join(changed)}"


def _fitting(workload: Workload, cluster: Cluster, num_devices: int, fixed: Mapping[str, object] | None) -> list[Plan]:
    plans = (_plan(workload, layout, cluster) for layout in candidates(workload, cluster, num_devices, fixed))
    fitting = [plan for plan in plans if plan.fits(cluster)]
    return fastest_first(fitting, lambda plan: plan.time.seconds, lambda plan: plan.layout)


def _plan(workload: Workload, layout: Layout, cluster: Cluster) -> Plan:
    return Plan(layout, predict_memory(workload, layout, cluster), predict_step(workload, layout, cluster))


def _values(fixed: Mapping[str, object], name: str, otherwise: tuple[Any, ...]) -> tuple[Any, ...]:
    return (fixed[name],) if name in fixed else otherwise


def _other_than_auto(workload: Workload, device: Device) -> bool:
    """The value of `keep_gathered` that the engines' rule would not take."""
    return not keeps_gathered(workload, Layout("fsdp2", 1), device)


def _replicas(fixed: Mapping[str, object], num_devices: int, num_nodes: int) -> list[int]:
    if "replicas" in fixed:
        asked = fixed["replicas"]
        count = num_nodes if asked == "nodes" else int(str(asked))
        return [count] if num_devices % count == 0 else []
    return [1] if num_nodes == 1 or num_devices % num_nodes else [1, num_nodes]


def _checkpointing(fixed: Mapping[str, object]) -> Iterator[tuple[Any, int]]:
    for policy, every in _CHECKPOINTING:
        if policy == fixed.get("activation_checkpointing", policy):
            wanted = fixed.get("checkpoint_every", every)
            if every == wanted or not policy:
                yield policy, every
    given = fixed.get("checkpoint_every")
    if isinstance(given, int) and given > max(every for _, every in _CHECKPOINTING):
        yield from ((policy, given) for policy in _values(fixed, "activation_checkpointing", ("selective", True)))


def _budgets(fixed: Mapping[str, object], workload: Workload, layout: Layout) -> Iterator[int]:
    """Token budgets that make a difference: up to the first that holds all that a device has of a step."""
    if "max_tokens_per_micro_batch" in fixed:
        yield int(str(fixed["max_tokens_per_micro_batch"]))
        return
    for budget in _BUDGETS:
        if budget >= workload.lengths.longest or budget == _BUDGETS[-1]:
            yield budget
            if split_step(workload, replace(layout, max_tokens_per_micro_batch=budget)).number == 1:
                return


def _numbers_of_devices(cluster: Cluster) -> Iterator[int]:
    """Powers of two within a node, then whole nodes, doubled."""
    count = 1
    while count < cluster.devices_per_node:
        yield count
        count *= 2
    nodes = 1
    while nodes <= cluster.num_nodes:
        yield nodes * cluster.devices_per_node
        nodes *= 2


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)

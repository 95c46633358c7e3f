"""A run's plan as tables for a person, and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import tomli_w
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from xlt_scale.planning.hardware import GIB, Cluster
from xlt_scale.planning.layouts import describe_layout, settings_to_paste
from xlt_scale.planning.prediction import MemoryPrediction
from xlt_scale.planning.run_plan import LayoutPlan, PhasePlan, RunPlan, duration

MEMORY_PARTS = ("parameters", "gradients", "optimizer", "activations", "buffers", "margin")


def show_run_plan(plan: RunPlan, title: str) -> RenderableType:
    """The tables: memory and time by phase, the settings to paste, what else there would be, what was assumed."""
    parts: list[RenderableType] = [
        Text(f"{title} on {describe_cluster_in_words(plan.cluster)}: predictions, not measurements (docs/planning.md)"),
        Text(""),
    ]
    trained = [phase for phase in plan.best.phases if phase.memory is not None]
    if trained:
        parts += [_memory_table(plan, trained), _time_table(trained)]
    scored = [phase for phase in plan.best.phases if phase.scoring_seconds]
    if scored:
        listed = ", ".join(f"{phase.work.name} {duration(phase.scoring_seconds)}" for phase in scored)
        parts.append(Text(f"scoring, beside these: {listed}"))
    parts.append(Text(f"all phases: {duration(plan.best.seconds)}, {_device_hours(plan.best, plan.cluster)}"))
    if trained:
        parts += [Text(""), Text("Settings of this plan, for the run file:"), Text(as_lines(plan), style="bold")]
        parts.append(_alternatives(plan))
    if plan.advice:
        parts.append(Text(plan.advice))
    parts += [Text(f"assumed: {note}") for note in plan.notes]
    return Group(*parts)


def run_plan_json(plan: RunPlan) -> dict[str, Any]:
    """The same for a program."""
    return {
        "cluster": asdict(plan.cluster),
        "plan": _layout_json(plan.best, plan.cluster),
        "written": _layout_json(plan.written, plan.cluster) if plan.written else None,
        "slower": [_layout_json(other, plan.cluster) for other in plan.slower],
        "too_large": [_layout_json(other, plan.cluster) for other in plan.too_large],
        "advice": plan.advice,
        "notes": list(plan.notes),
    }


def describe_cluster_in_words(cluster: Cluster) -> str:
    """How many of which devices."""
    count = f"{cluster.num_devices} x {cluster.device.name} ({cluster.device.memory_gib:.1f} GiB)"
    return f"{count} in {cluster.num_nodes} nodes" if cluster.num_nodes > 1 else count


def as_lines(plan: RunPlan) -> str:
    """The `engine` table of the best layout, as TOML."""
    return tomli_w.dumps({"engine": settings_to_paste(plan.best.layout, plan.engine)})


def gib(num_bytes: float) -> str:
    """Bytes as GiB, with the digits that a prediction has."""
    value = num_bytes / GIB
    return f"{value:.1f}" if value >= 1 or not value else f"{value:.2g}"


def memory_cells(memory: MemoryPrediction) -> list[str]:
    """GiB of each part and of all."""
    return [gib(getattr(memory, part)) for part in (*MEMORY_PARTS, "total")]


def _memory_table(plan: RunPlan, trained: list[PhasePlan]) -> Table:
    table = Table(title=f"Memory of a device, GiB of {plan.cluster.device.memory_gib:.1f}", title_justify="left")
    table.add_column("phase", overflow="fold")
    offloads = any(phase.memory and phase.memory.host for phase in trained)
    for name in (*MEMORY_PARTS, "total", *(("on the host",) if offloads else ())):
        table.add_column(name, justify="right")
    for phase in trained:
        assert phase.memory is not None
        host = [gib(phase.memory.host)] if offloads else []
        table.add_row(phase.work.name, *memory_cells(phase.memory), *host)
    return table


def _time_table(trained: list[PhasePlan]) -> Table:
    table = Table(title="Time of a step, ms", title_justify="left")
    table.add_column("phase", overflow="fold")
    heads = (
        "compute",
        "optimizer",
        "exchange",
        "overhead",
        "step",
        "micro-batches",
        "tokens/s",
        "MFU %",
        "steps",
        "takes",
    )
    for name in heads:
        table.add_column(name, justify="right")
    for phase in trained:
        time = phase.time
        assert time is not None
        parts = (time.compute, time.optimizer, time.exposed_communication, time.overhead, time.seconds)
        table.add_row(
            phase.work.name,
            *(f"{1000 * part:,.0f}" if part >= 0.01 else f"{1000 * part:.2g}" for part in parts),
            str(time.num_micro_batches),
            f"{time.tokens_per_second:,.0f}",
            f"{100 * time.mfu:.0f}",
            f"{phase.work.num_steps:,}",
            duration(phase.training_seconds),
        )
    return table


def _alternatives(plan: RunPlan) -> Table:
    table = Table(title="Other settings", title_justify="left")
    table.add_column("engine", overflow="fold")
    table.add_column("GiB", justify="right")
    table.add_column("all phases", justify="right")
    table.add_column("why not")
    rows = [(plan.written, "as written: ")] if plan.written and plan.written.layout != plan.best.layout else []
    rows += [(other, "") for other in (*plan.slower, *plan.too_large)]
    for other, what in rows:
        assert other is not None
        memory = gib(other.bytes_needed)
        why = what + why_it_loses(other, plan.best, plan.cluster)
        table.add_row(describe_layout(other.layout), memory, duration(other.seconds), why)
    return table


def why_it_loses(other: LayoutPlan, best: LayoutPlan, cluster: Cluster) -> str:
    """Against the best layout, in words."""
    missing = other.missing(cluster)
    if missing:
        return f"does not fit by {missing:.1f} GiB"
    slower = other.seconds / best.seconds - 1
    return f"{slower:.0%} slower" if slower >= 0.005 else "as fast"


def _layout_json(plan: LayoutPlan, cluster: Cluster) -> dict[str, Any]:
    return {
        "engine": plan.layout.engine_settings(),
        "fits": not plan.missing(cluster),
        "missing_gib": plan.missing(cluster),
        "seconds": plan.seconds,
        "device_hours": plan.seconds * cluster.num_devices / 3600,
        "phases": [_phase_json(phase) for phase in plan.phases],
    }


def _phase_json(phase: PhasePlan) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": phase.work.name,
        "steps": phase.work.num_steps,
        "training_seconds": phase.training_seconds,
        "scoring_seconds": phase.scoring_seconds,
        "memory_bytes": None,
        "step_seconds": None,
    }
    if phase.memory is not None and phase.time is not None:
        facts["memory_bytes"] = asdict(phase.memory) | {"total": phase.memory.total}
        times: Mapping[str, Any] = asdict(phase.time)
        derived = {name: getattr(phase.time, name) for name in ("seconds", "tokens_per_second", "mfu")}
        facts["step_seconds"] = {**times, **derived}
    return facts


def _device_hours(plan: LayoutPlan, cluster: Cluster) -> str:
    hours = plan.seconds * cluster.num_devices / 3600
    text = f"{hours:,.3g} device hours"
    price = hours * cluster.price_per_device_hour
    return f"{text}, {price:,.0f} at {cluster.price_per_device_hour:g} a device hour" if price else text

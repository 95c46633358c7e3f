"""A study's plan as tables for a person, and as JSON."""

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from xlt_scale.planning.run_tables import describe_cluster_in_words
from xlt_scale.scaling.grid.study_plan import SizeOnDevices, Strategy, StudyPlan


def show_study_plan(plan: StudyPlan) -> RenderableType:
    """The tables: devices and hours by size, all of it, shares of arms and targets, what was assumed."""
    words = describe_cluster_in_words(plan.cluster)
    lines: list[RenderableType] = [
        Text(f"{plan.study.name} on {words}: predictions, not measurements (docs/planning.md)"),
        Text(""),
        _sizes_table(plan),
        _totals_table(plan),
        _shares_table(plan),
    ]
    lines += [Text(f"assumed: {note}") for note in plan.notes]
    return Group(*lines)


def study_plan_json(plan: StudyPlan) -> dict[str, Any]:
    """The same for a program."""
    return {
        "study": plan.study.name,
        "cluster": asdict(plan.cluster),
        "sizes": [
            {
                "size": size,
                "phases": plan.num_phases[size],
                "fewest_devices": plan.fewest[size],
                "tried": [asdict(one) for one in plan.tried[size]],
            }
            for size in plan.tried
        ],
        "cheapest": _strategy_json(plan.cheapest, plan),
        "fastest": _strategy_json(plan.fastest, plan),
        "device_hours_by_arm": dict(plan.by_arm),
        "device_hours_by_target": dict(plan.by_target),
        "notes": list(plan.notes),
    }


def hours(value: float) -> str:
    """Rounded as a prediction should be."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.2g}"


def size_of(num_bytes: float) -> str:
    """Bytes for a person, in units of a thousand."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"


def devices_of(one: SizeOnDevices) -> str:
    """Devices of a run; '1/3' where three runs share one."""
    return f"1/{one.per_device}" if one.per_device > 1 else str(one.devices)


def _sizes_table(plan: StudyPlan) -> Table:
    table = Table(title="Runs by size (* fewest device hours, + fastest that is sensible)", title_justify="left")
    table.add_column("size", no_wrap=True)
    for name in ("phases", "devices a run", "GiB", "device hours", "longest phase, h"):
        table.add_column(name, justify="right")
    table.add_column("engine")
    cheapest = {one.size: one for one in plan.cheapest.sizes}
    fastest = {one.size: one for one in plan.fastest.sizes}
    for size, found in plan.tried.items():
        for one in found:
            marks = ("*" if one == cheapest[size] else "") + ("+" if one == fastest[size] else "")
            table.add_row(
                size if one is found[0] else "",
                str(plan.num_phases[size]) if one is found[0] else "",
                f"{marks} {devices_of(one)}".strip(),
                f"{one.memory_gib:.1f}",
                hours(one.device_hours),
                hours(one.longest_hours),
                one.layout,
            )
        table.add_section()
    return table


def _totals_table(plan: StudyPlan) -> Table:
    table = Table(title="All of it", title_justify="left")
    price = plan.cluster.price_per_device_hour
    heads = ("devices a run", "device hours", "wall hours", "disk at the fullest", *(("price",) if price else ()))
    table.add_column("")
    for name in heads:
        table.add_column(name, justify="right")
    rows = [("* fewest device hours", plan.cheapest), ("+ fastest", plan.fastest)]
    if plan.cheapest.sizes == plan.fastest.sizes:
        rows = [("*+ both", plan.cheapest)]
    for name, strategy in rows:
        cells = [
            ", ".join(devices_of(one) for one in strategy.sizes),
            hours(strategy.device_hours),
            hours(strategy.wall_hours(plan.cluster.num_devices)),
            size_of(strategy.disk_bytes(plan.cluster.num_devices)),
        ]
        table.add_row(name, *cells, *([f"{price * strategy.device_hours:,.0f}"] if price else []))
    return table


def _shares_table(plan: StudyPlan) -> Table:
    table = Table(title="Device hours by arm, and by target (*)", title_justify="left")
    for name in ("arm", "hours", "target", "hours"):
        table.add_column(name, justify="right" if name == "hours" else "left")
    arms, targets = list(plan.by_arm.items()), list(plan.by_target.items())
    for row in range(max(len(arms), len(targets))):
        arm = (arms[row][0], hours(arms[row][1])) if row < len(arms) else ("", "")
        target = (targets[row][0], hours(targets[row][1])) if row < len(targets) else ("", "")
        table.add_row(*arm, *target)
    return table


def _strategy_json(strategy: Strategy, plan: StudyPlan) -> dict[str, Any]:
    return {
        "devices": {one.size: one.devices for one in strategy.sizes},
        "runs_per_device": {one.size: one.per_device for one in strategy.sizes},
        "device_hours": strategy.device_hours,
        "wall_hours": strategy.wall_hours(plan.cluster.num_devices),
        "disk_bytes": strategy.disk_bytes(plan.cluster.num_devices),
        "price": strategy.device_hours * plan.cluster.price_per_device_hour or None,
    }

"""What `xlt-scale study run --dry-run` prints: the grid, what is done, and what the rest will cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from xlt_scale.scaling.grid.costs import CostModel
from xlt_scale.scaling.grid.design import StudyGrid
from xlt_scale.scaling.grid.disk import disk_budget, free_bytes, peak_bytes
from xlt_scale.scaling.grid.folder import StudyFolder
from xlt_scale.scaling.grid.jobs import Placement, StudyJob
from xlt_scale.scaling.statistics.seed_planning import planned_detectable

_ROLES = ("pretraining", "intermediate", "target", "search")


def preview(
    grid: StudyGrid,
    folder: StudyFolder,
    left: Sequence[str],
    jobs: Sequence[StudyJob],
    costs: CostModel,
    slots: int,
) -> dict[str, Any]:
    """The plan in numbers, as `--json` prints it.

    Args:
        left: phases that have to be run.
        slots: devices there are; 0 = those of a cluster, not counted.
    """
    placements = costs.placements()
    seconds = costs.all_seconds(placements)
    budget = disk_budget(grid, placements, jobs)
    at_once = _jobs_at_once(jobs, slots)
    hours = _device_hours(left, grid, seconds, placements)
    keeps = grid.study.resources.keep_encoders == "always"
    return {
        "study": grid.study.name,
        "question": grid.study.question,
        "sizes": [_size_row(size, grid, left, seconds, placements) for size in grid.runs],
        "phases": len(grid.phases),
        "waiting_for_search": grid.waiting,
        "shared": sum(uses > 1 for uses in grid.num_uses.values()),
        "uses": sum(grid.num_uses.values()),
        "done": len(grid.phases) - len(left),
        "left": len(left),
        "jobs": len(jobs),
        "device_hours": hours,
        "hours": hours / slots if slots else None,
        "guesses": [
            f"{costs.basis}, where nothing of the kind has run",
            *costs.guesses,
        ],
        "detectable": detectable_slopes(grid, costs),
        "disk": [vars(size) for size in budget],
        "disk_peak_bytes": peak_bytes(budget, at_once, keeps),
        "disk_free_bytes": free_bytes(folder.pool),
    }


def detectable_slopes(grid: StudyGrid, costs: CostModel) -> list[dict[str, float | None]]:
    """By seed SD the change of the gain per tenfold parameters that the study would show in 80 % of repetitions; None
    where its seeds cannot tell.
    """
    seeds = grid.study.seeds
    rows = planned_detectable(costs.num_parameters(), len(seeds.intermediate), len(seeds.target))
    return [{name: None if math.isnan(value) else value for name, value in row.items()} for row in rows]


def _jobs_at_once(jobs: Sequence[StudyJob], slots: int) -> int:
    """How many jobs run side by side on so many devices, by their mean need; 0 devices = all of them."""
    if not jobs or not slots:
        return max(1, len(jobs))
    per_job = sum(job.devices / job.per_device for job in jobs) / len(jobs)
    return max(1, min(len(jobs), int(slots / per_job)))


def _size_row(
    size: str, grid: StudyGrid, left: Sequence[str], seconds: Mapping[str, float], placements: Mapping[str, Placement]
) -> dict[str, Any]:
    phases = [phase for phase in grid.phases.values() if phase.size == size]
    waiting = set(left)
    row: dict[str, Any] = {"size": size}
    row |= {role: sum(phase.role == role for phase in phases) for role in _ROLES}
    row["done"] = sum(phase.name not in waiting for phase in phases)
    row["devices"] = placements[size].devices
    row["per_device"] = placements[size].per_device
    row["device_hours"] = _device_hours([p.name for p in phases if p.name in waiting], grid, seconds, placements)
    return row


def _device_hours(
    names: Sequence[str], grid: StudyGrid, seconds: Mapping[str, float], placements: Mapping[str, Placement]
) -> float:
    total = 0.0
    for name in names:
        placement = placements[grid.phases[name].size]
        total += seconds[name] * placement.devices / placement.per_device
    return total / 3600.0


def show_preview(plan: Mapping[str, Any], grid: StudyGrid) -> RenderableType:
    """The same as tables for a person."""
    sizes = Table(title=f"{plan['study']}: {plan['question']}", title_justify="left")
    for name in (
        "size",
        "pre-training",
        "intermediate",
        "target",
        "search",
        "done",
        "devices a run",
        "device hours left",
    ):
        sizes.add_column(name, justify="left" if name == "size" else "right", no_wrap=name == "size")
    for row in plan["sizes"]:
        share = f"1/{row['per_device']}" if row["per_device"] > 1 else str(row["devices"])
        counts = [str(row[role] or "-") for role in _ROLES]
        sizes.add_row(row["size"], *counts, str(row["done"]), share, _hours(row["device_hours"]))
    study = grid.study
    arms = Table(title="Arms and targets", title_justify="left", show_lines=False)
    for name in ("arm", "phases before the target", "group"):
        arms.add_column(name)
    for arm in study.arms:
        chain = " → ".join(_trained(table) for table in arm.phases) or "-"
        arms.add_row(arm.name, chain, arm.group or "-")
    targets = ", ".join(f"{target.name} ({', '.join(target.evaluate)})" for target in study.targets)
    lines = [
        f"targets: {targets}",
        f"seeds: {len(study.seeds.intermediate)} intermediate x {len(study.seeds.target)} target",
        f"phases: {plan['phases']}, {plan['shared']} of them shared ({plan['uses']} places of the grid); "
        f"{plan['done']} done, {plan['left']} left in {plan['jobs']} jobs",
        f"rough cost of the rest: {_hours(plan['device_hours'])} device hours"
        + (f", about {_hours(plan['hours'])} hours on the devices here" if plan["hours"] is not None else ""),
        f"disk: at most {_size(plan['disk_peak_bytes'])} at once, {_size(plan['disk_free_bytes'])} free",
        *(
            f"  {row['size']}: a running job {_size(row['per_job'])}, {row['num_encoders']} encoders "
            f"{_size(row['encoders'])} in all, scores {_size(row['scores'])}"
            for row in plan["disk"]
        ),
    ]
    if plan["detectable"]:
        found = [
            f"{row['detectable']:.2f} at a seed SD of {row['seed_sd']:g}" if row["detectable"] else "nothing"
            for row in plan["detectable"]
        ]
        lines.append(f"detectable change of the gain, points per tenfold parameters (80 % power): {'; '.join(found)}")
    if plan["waiting_for_search"]:
        lines.append(
            f"{plan['waiting_for_search']} target phases wait for the learning-rate search and are not counted"
        )
    lines += [f"assumed: {guess}" for guess in plan["guesses"]]
    return Group(sizes, arms, *lines)


def _trained(table: Mapping[str, Any]) -> str:
    names = [table["task"]] if table.get("task") else sorted(table.get("mixture", {}))
    text = " + ".join([*names, *(f"{task} ({share:.0%})" for task, share in table.get("joint", {}).items())])
    return f"{text} [{' '.join(table['languages'])}]" if table.get("languages") else text


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _size(num_bytes: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"

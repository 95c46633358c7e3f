"""`engine.auto = true`: the planner fills in what a run's `engine` table does not set."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil

from xlt_scale.config import EngineOptions, RunOptions
from xlt_scale.errors import UserError
from xlt_scale.planning.describe import RunDescription
from xlt_scale.planning.hardware import GIB, Cluster
from xlt_scale.planning.layouts import CHOSEN, check_auto, describe_layout, fixed_settings, part_of
from xlt_scale.planning.run_plan import RunPlan, duration, plan_run
from xlt_scale.planning.task_data import DataFacts
from xlt_scale.planning.this_machine import is_processor, this_machine

Say = Callable[[str], None]


def resolve_auto(
    options: RunOptions, num_processes: int = 1, processes_per_node: int = 0, say: Say | None = None
) -> RunOptions:
    """The options with the engine's settings chosen for this machine and so many processes; as they are without
    `engine.auto`. Called on every rank, alike on all as long as nodes are alike; communicates nothing.

    What decides is the whole memory of a device, not what is free of it, published counts and typical lengths of the
    tasks: so a run that is started again plans the same, and another world size plans anew. Only settings that change
    results by no more than rounding are chosen: never float8, never another optimiser.

    Args:
        processes_per_node: 0 = all on one node.
        say: told in one line what was chosen; rank 0 passes `print`.

    Raises:
        UserError: nothing fits beside what the table sets, or its settings exclude each other.
    """
    engine = options.engine
    if not engine.auto:
        return options
    check_auto(engine)
    if not any(phase.trains for phase in options.phases):
        _tell(say, "engine.auto: nothing is trained, so there is nothing to choose")
        return _with_engine(options, {})
    cluster, notes = cluster_of_processes(engine, num_processes, processes_per_node)
    on_processors = is_processor(cluster.device)
    description = RunDescription(options, DataFacts(options, reads="nothing"), on_processors)
    try:
        plan = plan_run(description, cluster, fixed_settings(engine, cluster))
    except UserError as error:
        raise UserError(f"engine.auto = true: {error}") from None
    chosen = plan.best.layout.engine_settings()
    settings = {name: chosen[name] for name in CHOSEN if name not in engine.model_fields_set}
    _tell(say, _line(plan, engine, notes))
    return _with_engine(options, settings)


def resolve_for_this_rank(options: RunOptions) -> RunOptions:
    """The same with the number of processes that the launcher says in the environment; rank 0 prints."""
    if not options.engine.auto:
        return options
    environment = os.environ
    says = print if environment.get("RANK", "0") == "0" else None
    return resolve_auto(options, int(environment.get("WORLD_SIZE", "1")), processes_per_node(environment), says)


def processes_per_node(environment: Mapping[str, str]) -> int:
    """What the launcher says of it: torchrun and accelerate, deepspeed, srun; 0 where none does."""
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"):
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    nodes = environment.get("SLURM_NNODES", "")
    return ceil(int(environment.get("WORLD_SIZE", "1")) / int(nodes)) if nodes.isdecimal() and int(nodes) else 0


def cluster_of_processes(
    engine: EngineOptions, num_processes: int, processes_per_node: int
) -> tuple[Cluster, list[str]]:
    """Nodes like this one with a device for each process, and what of them is assumed."""
    per_node = min(processes_per_node or num_processes, num_processes)
    node, notes = this_machine(on_processors=engine.device == "cpu", num_devices=per_node)
    nodes = part_of(replace(node, num_nodes=ceil(num_processes / per_node)), num_processes)
    if nodes.num_nodes > 1:
        notes.append(f"between nodes: {nodes.network_bandwidth / 1e9:g} GB/s a device")
    return nodes, notes


def _with_engine(options: RunOptions, settings: Mapping[str, object]) -> RunOptions:
    table = options.engine.model_dump() | dict(settings) | {"auto": False}
    return options.model_copy(update={"engine": EngineOptions.model_validate(table)})


def _line(plan: RunPlan, engine: EngineOptions, notes: list[str]) -> str:
    best = plan.best
    time = max((phase.time for phase in best.phases if phase.time), key=lambda time: time.seconds)
    kept = [name for name in CHOSEN if name in engine.model_fields_set]
    parts = [
        f"engine.auto: {describe_layout(best.layout)}",
        f"predicted {best.bytes_needed / GIB:.1f} of {plan.cluster.device.memory_gib:.1f} GiB",
        f"{duration(time.seconds)} a step of the slowest phase",
        f"as the run file says: {', '.join(kept)}" if kept else "",
        *notes,
    ]
    return "; ".join(part for part in parts if part)


def _tell(say: Say | None, line: str) -> None:
    if say is not None:
        say(line)

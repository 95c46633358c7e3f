"""A run's engine options as the planner's layouts, and the other way round."""

from dataclasses import replace
from math import ceil
from typing import Any

from xlt_scale.config import EngineOptions
from xlt_scale.errors import UserError
from xlt_scale.planning.hardware import Cluster
from xlt_scale.planning.this_machine import is_processor
from xlt_scale.planning.workload import Layout

CHOSEN = (
    *("name", "replicas", "max_tokens_per_micro_batch", "activation_checkpointing", "checkpoint_every"),
    *("compile", "float8", "offload", "keep_gathered"),
)
"""Keys of a run's `engine` table that a layout has."""


def fixed_settings(engine: EngineOptions, cluster: Cluster) -> dict[str, object]:
    """What the planner must leave as it is: with `engine.auto` what the run file says, else everything.

    Never chosen: float8, which changes results by more than rounding; compilation where results are to repeat; on
    processors neither compilation nor offloading.
    """
    given = {name for name in CHOSEN if name in engine.model_fields_set} if engine.auto else set(CHOSEN)
    fixed: dict[str, object] = {name: getattr(engine, name) for name in CHOSEN if name in given}
    fixed.setdefault("float8", False)
    on_processors = is_processor(cluster.device)
    if engine.repeatable or on_processors:
        fixed.setdefault("compile", False)
    if on_processors:
        fixed.setdefault("offload", "none")
    if fixed.get("replicas") == "nodes":
        fixed["replicas"] = cluster.num_nodes
    return fixed


def free_settings(engine: EngineOptions, cluster: Cluster) -> dict[str, object]:
    """The same for advice on a run file: what it says of the engine may change, what changes results may not."""
    unset = EngineOptions(auto=True, repeatable=engine.repeatable)
    return fixed_settings(unset, cluster) | {"float8": engine.float8}


def check_auto(engine: EngineOptions) -> None:
    """Refuse what the planner cannot plan around.

    Raises:
        UserError: a DeepSpeed file of one's own, or replicas with an engine that has none.
    """
    if not engine.auto:
        return
    if engine.deepspeed_config:
        raise UserError(
            "engine.auto = true, but engine.deepspeed_config is set, which the planner does not read; remove one"
        )
    if "name" in engine.model_fields_set and engine.name == "zero3" and engine.replicas != 1:
        raise UserError(
            f"engine.replicas = {engine.replicas!r}, but engine.name = 'zero3' has no hybrid sharding; remove one of "
            "them, and engine.auto = true chooses it"
        )


def layout_of(engine: EngineOptions, cluster: Cluster) -> Layout:
    """The layout that an engine table is, on all devices of the cluster."""
    settings: dict[str, Any] = {name: getattr(engine, name) for name in CHOSEN if name != "name"}
    if settings["replicas"] == "nodes":
        settings["replicas"] = cluster.num_nodes
    return Layout(engine=engine.name, num_devices=cluster.num_devices, num_nodes=cluster.num_nodes, **settings)


def part_of(cluster: Cluster, num_devices: int) -> Cluster:
    """So many of a cluster's devices, on as few nodes as they fill evenly."""
    nodes = ceil(num_devices / cluster.devices_per_node)
    while num_devices % nodes:
        nodes += 1
    return replace(cluster, num_nodes=nodes, devices_per_node=num_devices // nodes)


def doubled(first: int, most: int) -> list[int]:
    """`first`, twice as many and so on, up to `most`."""
    found = []
    while first <= most:
        found.append(first)
        first *= 2
    return found


def describe_layout(layout: Layout) -> str:
    """In words, for a table's cell or a line."""
    parts = [layout.engine, f"{layout.max_tokens_per_micro_batch:,} tokens"]
    if layout.replicas > 1:
        parts.append(f"{layout.replicas} replicas")
    if layout.activation_checkpointing:
        kind = "selective checkpointing" if layout.activation_checkpointing == "selective" else "checkpointing"
        every = layout.checkpoint_every
        parts.append(kind if every == 1 else f"{kind} of every {_ordinal(every)} layer")
    if layout.compile:
        parts.append("compiled")
    if layout.float8:
        parts.append("float8")
    if layout.keep_gathered != "auto":
        parts.append("weights kept gathered" if layout.keep_gathered else "weights gathered anew")
    if layout.offload != "none":
        parts.append("offloaded optimizer" if layout.offload == "optimizer" else "paged optimizer")
    return ", ".join(parts)


def settings_to_paste(layout: Layout, written: EngineOptions) -> dict[str, object]:
    """The keys of an `engine` table that make a layout, without defaults that are not written there."""
    settings = layout.engine_settings()
    always = ("name", "max_tokens_per_micro_batch", "activation_checkpointing")
    defaults = EngineOptions()
    return {
        name: settings[name]
        for name in CHOSEN
        if name in always or name in written.model_fields_set or settings[name] != getattr(defaults, name)
    }


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")

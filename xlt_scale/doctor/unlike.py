"""The nodes against each other: what has to be alike, and is not. Called on rank 0 with what each node reported."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from xlt_scale.doctor.findings import Finding, State, name_nodes
from xlt_scale.doctor.machine import ABSENT

_NEEDED = ("torch", "deepspeed", "transformers")
_SHOWN = ("Python", *_NEEDED, "xlt_scale")
# What the firmware keeps for itself differs a little.
_SHARE_OF_MEMORY = 0.95


def check_versions(by_node: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Versions by node (`machine.versions`)."""
    first = next(iter(by_node.values()))
    findings = []
    for name in first:
        nodes = _by_value({node: found.get(name, ABSENT) for node, found in by_node.items()})
        if len(nodes) > 1:
            usual, *others = sorted(nodes, key=lambda value: -len(nodes[value]))
            odd = name_nodes([node for value in others for node in nodes[value]])
            mend = f"one environment on a shared disk for all; or on {odd} the {name} of the others: {usual}"
            findings.append(Finding("versions", "fail", f"{name}: {_describe(nodes)}", mend))
        elif ABSENT in nodes and name in _NEEDED:
            findings.append(Finding("versions", "fail", f"{name} is not installed", f"pip install {name}"))
    return findings or [Finding("versions", "pass", ", ".join(f"{name} {first[name]}" for name in _SHOWN))]


def check_hardware(by_node: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Processors, memory and GPUs by node (`machine.hardware`)."""
    most = max(facts["memory_gib"] for facts in by_node.values())
    questions: list[tuple[str, State, Callable[[Mapping[str, Any]], Any]]] = [
        ("architecture", "fail", lambda facts: facts["architecture"]),
        ("GPUs", "fail", lambda facts: "; ".join(facts["gpus"] or []) or "none"),
        ("driver", "warn", lambda facts: facts["driver"]),
        ("cores", "warn", lambda facts: facts["cores"]),
        ("GiB of memory", "warn", lambda facts: _nearly(facts["memory_gib"], most)),
    ]
    mend = "ask for nodes of one kind (--constraint); the slowest sets the pace"
    found = [
        (name, state, _by_value({node: value(facts) for node, facts in by_node.items()}))
        for name, state, value in questions
    ]
    findings = [
        Finding("hardware", state, f"unequal {name}: {_describe(nodes)}", mend)
        for name, state, nodes in found
        if len(nodes) > 1
    ]
    facts = next(iter(by_node.values()))
    each = " on each node" if len(by_node) > 1 else ""
    alike = f"{facts['cores']} cores ({facts['architecture']}), {most:.0f} GiB of memory{each}"
    return findings or [Finding("hardware", "pass", alike)]


def _nearly(memory: float, most: float) -> float:
    return most if memory > _SHARE_OF_MEMORY * most else memory


def _by_value(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Nodes by what they have, from what each node has."""
    nodes: dict[Any, list[str]] = {}
    for node, value in values.items():
        nodes.setdefault(value, []).append(node)
    return nodes


def _describe(nodes: Mapping[Any, Iterable[str]]) -> str:
    return "; ".join(f"{value} on {name_nodes(list(names))}" for value, names in nodes.items())

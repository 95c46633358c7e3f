"""What the doctor finds, and how the findings of many nodes become few rows."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["pass", "warn", "fail", "-"]
"""'-' is for what could not be looked at, or what nothing can be said about: never a silent pass."""

# The rows of the table, in this order.
CHECKS = (
    "nodes",
    "interface",
    "names",
    "port",
    "versions",
    "hardware",
    "GPUs",
    "PyTorch",
    "DeepSpeed",
    "compiled operations",
    "limits",
    "shared memory",
    "folder",
    "shared folder",
    "file locks",
    "disk",
    "clocks",
    "model",
    "data",
    "time left",
    "all-reduce",
)
_MOST_NAMES = 4


@dataclass(frozen=True)
class Finding:
    """What one node found in one check.

    Attributes:
        mend: what to do about it; '' where nothing is wrong.
    """

    check: str
    state: State
    found: str
    mend: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Row:
    """One finding and the nodes that share it.

    Attributes:
        nodes: () for a finding about the allocation as a whole.
    """

    check: str
    state: State
    nodes: tuple[str, ...]
    found: str
    mend: str


def merge_findings(findings: Iterable[tuple[str, Finding]]) -> list[Row]:
    """Rows in the order of the checks; nodes with the same finding share one.

    Args:
        findings: with the node that each is of, '' for one about the whole.
    """
    nodes: dict[Finding, list[str]] = {}
    for node, finding in findings:
        of_finding = nodes.setdefault(finding, [])
        if node and node not in of_finding:
            of_finding.append(node)
    rows = [Row(f.check, f.state, tuple(names), f.found, f.mend) for f, names in nodes.items()]
    return sorted(rows, key=lambda row: CHECKS.index(row.check))


def has_failed(rows: Iterable[Row]) -> bool:
    return any(row.state == "fail" for row in rows)


def name_nodes(nodes: Sequence[str]) -> str:
    """Nodes in words; of many the first few and their number."""
    if len(nodes) <= _MOST_NAMES:
        return ", ".join(nodes)
    return f"{', '.join(nodes[:_MOST_NAMES])} and {len(nodes) - _MOST_NAMES} more"

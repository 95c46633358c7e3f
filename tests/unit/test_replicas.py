"""How many groups of processes each hold the whole model."""

import pytest
import torch

from xlt_scale.engines import replicas
from xlt_scale.engines.node_layout import NodeLayout
from xlt_scale.engines.replicas import count_replicas
from xlt_scale.engines.world import World
from xlt_scale.errors import UserError


def count(asked: object, nodes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(replicas, "find_nodes", lambda world: NodeLayout(nodes))
    return count_replicas(asked, World(0, sum(nodes), 0, torch.device("cpu")))  # type: ignore[arg-type]


@pytest.mark.parametrize(("nodes", "expected"), [((8, 8), 2), ((4, 4, 4), 3), ((2,), 1)])
def test_nodes_means_one_on_each(nodes: tuple[int, ...], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count("nodes", nodes, monkeypatch) == expected


def test_nodes_of_different_size_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"engine\.replicas = 'nodes', but the nodes have 4, 2 processes"):
        count("nodes", (4, 2), monkeypatch)


@pytest.mark.parametrize(
    ("asked", "nodes", "is_announced"),
    [(2, (4, 4), False), (4, (4, 4), False), (2, (4, 4, 4, 4), True), (2, (2, 2, 2), True), (2, (4,), False)],
)
def test_groups_that_reach_over_nodes_are_announced(
    asked: int,
    nodes: tuple[int, ...],
    is_announced: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO", logger="xlt_scale"):
        assert count(asked, nodes, monkeypatch) == asked
    assert [f"engine.replicas = {asked}: each of its groups" in line for line in caplog.messages] == (
        [True] if is_announced else []
    )

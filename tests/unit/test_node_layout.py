"""Which ranks share a node is read from the ranks themselves, whatever started them."""

import pytest

from xlt_scale.engines.node_layout import NodeLayout, layout_of
from xlt_scale.errors import UserError


@pytest.mark.parametrize(
    ("places", "sizes"),
    [
        ([("a", 0)], (1,)),
        ([("a", 0), ("a", 1), ("b", 0), ("b", 1)], (2, 2)),
        ([("a", 0), ("a", 1), ("b", 0)], (2, 1)),
        ([("a", 0), ("b", 0), ("c", 0)], (1, 1, 1)),
        # A launcher that sets no LOCAL_RANK: the rank stands in for it.
        ([("a", 0), ("a", 1), ("b", 2), ("b", 3)], (2, 2)),
        # Two launchers on one machine, as two nodes.
        ([("a", 0), ("a", 1), ("a", 0), ("a", 1)], (2, 2)),
    ],
)
def test_a_node_begins_with_its_first_process_or_with_another_host(
    places: list[tuple[str, int]], sizes: tuple[int, ...]
) -> None:
    assert layout_of(places).sizes == sizes


@pytest.mark.parametrize(
    "places",
    [
        [("a", 0), ("b", 0), ("a", 1), ("b", 1)],
        [("a", 0), ("a", 0), ("a", 1), ("a", 1)],
        [("a", 0), ("a", 2), ("a", 1)],
    ],
    ids=["dealt out over hosts", "dealt out on one host", "out of order"],
)
def test_ranks_that_are_dealt_out_over_the_nodes_are_refused(places: list[tuple[str, int]]) -> None:
    with pytest.raises(UserError, match="number the ranks node by node") as error:
        layout_of(places)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sizes", "group", "together"),
    [
        ((4, 4), 4, True),
        ((4, 4), 2, True),
        ((4, 4), 8, False),
        ((4, 4), 3, False),
        ((4, 2), 2, True),
        ((4, 2), 4, False),
    ],
)
def test_groups_of_neighbours_lie_on_one_node_or_not(sizes: tuple[int, ...], group: int, together: bool) -> None:
    assert NodeLayout(sizes).keeps_together(group) is together

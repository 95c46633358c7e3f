"""Which ranks share a node."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xlt_scale.engines.world import World
from xlt_scale.errors import UserError


@dataclass(frozen=True)
class NodeLayout:
    """How many ranks each node has, in the order of the ranks: those of a node are neighbours."""

    sizes: tuple[int, ...]

    @property
    def common_size(self) -> int | None:
        """Ranks per node; None where nodes differ."""
        return self.sizes[0] if len(set(self.sizes)) == 1 else None

    def keeps_together(self, group_size: int) -> bool:
        """Whether groups of so many neighbouring ranks, counted from rank 0, each lie on one node."""
        return all(size % group_size == 0 for size in self.sizes)


def find_nodes(world: World) -> NodeLayout:
    """The nodes of a world, the same on every rank; a collective.

    It is asked of the ranks and not of a launcher's variable: torchrun and accelerate set LOCAL_WORLD_SIZE, deepspeed
    LOCAL_SIZE, srun SLURM_NTASKS_PER_NODE only where --ntasks-per-node is given. LOCAL_RANK they all lead to.

    Raises:
        UserError: the ranks of a node are no neighbours; all ranks raise.
    """
    places: list[Any] = world.gather((platform.node(), world.local_rank))
    return layout_of(places)


def layout_of(places: Sequence[tuple[str, int]]) -> NodeLayout:
    """The nodes of ranks by (host name, local rank), in rank order.

    A node begins where the local ranks do, or where the host's name changes.

    Raises:
        UserError: a host's ranks are no neighbours.
    """
    sizes: list[int] = []
    seen: set[str] = set()
    before = ("", -1)
    for rank, (host, local_rank) in enumerate(places):
        if sizes and host == before[0] and local_rank == before[1] + 1:
            sizes[-1] += 1
        elif local_rank == 0 or host not in seen:
            sizes.append(1)
        else:
            raise UserError(
                f"rank {rank} is process {local_rank} of node {host}, but rank {rank - 1} is not its neighbour there; "
                "number the ranks node by node (srun: --distribution=block)"
            )
        seen.add(host)
        before = (host, local_rank)
    return NodeLayout(tuple(sizes))

"""From what is left of a grid to jobs: chains of phases that share one process start."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xlt_scale.scaling.grid.design import PlannedPhase, StudyGrid

# A process start costs about ten seconds.
_SHORT_JOB_SECONDS = 60.0


@dataclass(frozen=True)
class StudyJob:
    """Phases that one process start carries out, one after another.

    Attributes:
        name: its folder below jobs/; the same as long as it begins with the same phase.
        phases: in the order they are run; a parent in the job comes before its children.
        needs: phases of other jobs whose weights must be there first.
        devices: processes, each with a device (or with 1 / `per_device` of one).
        per_device: how many such jobs share one device; 1 unless `devices` is 1.
        seconds: rough cost.
        space: bytes that it needs free on the disk before it starts.
    """

    name: str
    size: str
    phases: tuple[str, ...]
    needs: frozenset[str]
    devices: int
    per_device: int
    seconds: float
    space: int


@dataclass(frozen=True)
class Placement:
    """What the runs of a size need (costs.py)."""

    devices: int
    per_device: int
    bytes_per_encoder: int
    bytes_per_checkpoint: int


def phases_left(grid: StudyGrid, recorded: set[str], with_weights: set[str]) -> list[str]:
    """Phases without a record, and those above them whose weights are not there, parents first.

    Args:
        recorded: phases with a record.
        with_weights: phases that children can start from.
    """
    left: set[str] = set()

    def add(name: str) -> None:
        if name in left:
            return
        left.add(name)
        parent = grid.phases[name].parent
        if parent and parent not in with_weights:
            add(parent)

    for name in grid.phases:
        if name not in recorded:
            add(name)
    return [name for name in grid.phases if name in left]


def pack(
    grid: StudyGrid,
    left: Sequence[str],
    placements: Mapping[str, Placement],
    seconds: Mapping[str, float],
    hours_per_job: float,
    keep_last: int = 2,
) -> list[StudyJob]:
    """Jobs for the phases that are left: those that others wait for first, then the later (larger) sizes.

    An encoder phase (pre-training, intermediate) begins a job, and phases that only start from it follow it there until
    the job is long enough; further ones form jobs of their own. An encoder that other encoders start from has a job of
    its own, so that they need not wait for its targets. What takes no longer than a few process starts is put together.

    Args:
        seconds: rough cost of each phase.
    """
    packer = _Packer(grid, left, seconds, 3600.0 * hours_per_job)
    jobs = [_job(chain, placements[chain[0].size], seconds, keep_last) for chain in packer.chains()]
    sizes = {size: number for number, size in enumerate(grid.runs)}
    return sorted(jobs, key=lambda job: (not _is_encoder(grid.phases[job.phases[0]]), -sizes[job.size]))


class _Packer:
    def __init__(self, grid: StudyGrid, left: Sequence[str], seconds: Mapping[str, float], limit: float) -> None:
        self._seconds, self._limit, self._short = seconds, limit, min(_SHORT_JOB_SECONDS, limit)
        phases = [grid.phases[name] for name in left]
        inside = set(left)
        self._tops = [phase for phase in phases if _is_encoder(phase) and phase.parent not in inside]
        self._encoders: dict[str, list[PlannedPhase]] = defaultdict(list)
        self._leaves: dict[str, list[PlannedPhase]] = defaultdict(list)
        for phase in phases:
            below = self._encoders if _is_encoder(phase) else self._leaves
            # Without a parent the size's own model is it.
            below[phase.parent or f"model of {phase.size}"].append(phase)

    def chains(self) -> list[list[PlannedPhase]]:
        found = [chain for top in self._tops for chain in self._below(top)]
        found += [chain for leaves in self._leaves.values() for chain in self._cut(leaves)]
        return self._together(found)

    def _below(self, encoder: PlannedPhase) -> list[list[PlannedPhase]]:
        """The chains of an encoder and of everything that comes from it."""
        leaves = self._leaves.pop(encoder.name, [])
        children = [chain for child in self._encoders[encoder.name] for chain in self._below(child)]
        everything = [encoder, *leaves, *(phase for chain in children for phase in chain)]
        if self._cost(everything) <= self._short:
            return [everything]
        if children:
            return [[encoder], *self._cut(leaves), *children]
        return self._cut([encoder, *leaves])

    def _cut(self, chain: Sequence[PlannedPhase]) -> list[list[PlannedPhase]]:
        """A chain in pieces of about so many seconds, at least one phase each."""
        pieces: list[list[PlannedPhase]] = []
        spent = 0.0
        for phase in chain:
            spent += self._cost([phase])
            if not pieces or spent > self._limit:
                pieces.append([])
                spent = self._cost([phase])
            pieces[-1].append(phase)
        return pieces

    def _together(self, chains: Sequence[list[PlannedPhase]]) -> list[list[PlannedPhase]]:
        """Short chains that wait for the same phases, several in one."""
        found: list[list[PlannedPhase]] = []
        open_chains: dict[tuple[str, frozenset[str]], list[PlannedPhase]] = {}
        for chain in chains:
            key = (chain[0].size, _needs(chain))
            earlier = open_chains.get(key)
            if earlier is not None and self._cost([*earlier, *chain]) <= self._short:
                earlier += chain
                continue
            found.append(chain)
            open_chains[key] = chain
        return found

    def _cost(self, chain: Sequence[PlannedPhase]) -> float:
        return sum(self._seconds.get(phase.name, 0.0) for phase in chain)


def _is_encoder(phase: PlannedPhase) -> bool:
    return phase.role in ("pretraining", "intermediate")


def _needs(chain: Sequence[PlannedPhase]) -> frozenset[str]:
    """Parents outside the chain."""
    names = {phase.name for phase in chain}
    return frozenset(phase.parent for phase in chain if phase.parent and phase.parent not in names)


def _job(
    chain: Sequence[PlannedPhase],
    placement: Placement,
    seconds: Mapping[str, float],
    keep_last: int,
) -> StudyJob:
    names = [phase.name for phase in chain]
    first = chain[0]
    seeds = "-".join(str(seed) for seed in first.pair if seed >= 0)
    label = ".".join(
        part for part in (first.size, first.arm or first.role, seeds, names[0].rsplit("-", 1)[1][:8]) if part
    )
    kept = sum(_is_encoder(phase) for phase in chain)
    # While a checkpoint is written, the older ones are still there; a result follows the last of them.
    space = (keep_last + 1) * placement.bytes_per_checkpoint + (kept + 1) * placement.bytes_per_encoder
    return StudyJob(
        name=label,
        size=first.size,
        phases=tuple(names),
        needs=_needs(chain),
        devices=placement.devices,
        per_device=placement.per_device,
        seconds=sum(seconds.get(name, 0.0) for name in names),
        space=space,
    )

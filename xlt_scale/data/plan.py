"""The batch plan: which examples make up a step, and how they are split over ranks and micro-batches.

Which examples form the global batch of a step depends only on the key (seed, phase, data) and the step. How they are
split depends also on the world size and the token budget. Of the position in the data nothing is stored but the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xlt_scale.data.counter_random import generator, key_of, uniform


@dataclass(frozen=True)
class StepPlan:
    """One optimiser step of one rank.

    Attributes:
        micro_batches: example numbers of each micro-batch, from long to short. Every rank has the same number of
            micro-batches; a spare one is empty.
        epochs: for each of these examples the epoch that it is drawn in, counted from 0; a batch can span several.
    """

    micro_batches: list[np.ndarray]
    epochs: list[np.ndarray]


class BatchPlan:
    """Batches over one data set of examples with known lengths.

    The examples of all epochs form one stream, each epoch a fresh permutation; step s takes positions [s B, (s + 1) B)
    of it. So every batch is full, and no example is lost or doubled within an epoch. Runs on every rank alike, without
    communication.

    Args:
        lengths: tokens of each example, int array of shape [num_examples].
        batch_size: examples per step over all ranks.
        key: everything that the order may depend on: seed, phase, data fingerprint.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, key: Sequence[object]) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self._key = tuple(key)
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def examples(self, step: int) -> np.ndarray:
        """Example numbers of the global batch of `step`, in stream order."""
        parts = []
        position, wanted = step * self.batch_size, self.batch_size
        while wanted:
            epoch, start = divmod(position, len(self))
            part = self._order(epoch)[start : start + wanted]
            parts.append(part)
            position += len(part)
            wanted -= len(part)
        return np.concatenate(parts).astype(np.int64)

    def epochs(self, step: int) -> np.ndarray:
        """The epoch that each example of the global batch of `step` is drawn in, counted from 0, in stream order."""
        return (step * self.batch_size + np.arange(self.batch_size)) // len(self)

    def split(self, step: int, rank: int, world_size: int, token_budget: int, padded: bool = False) -> StepPlan:
        """This rank's share of a step.

        Args:
            token_budget: tokens of a micro-batch at most; an example longer than that is a micro-batch of its own.
            padded: count tokens as they stand in a padded batch (examples times the longest).
        """
        examples = self.examples(step)
        counts, ranked = _deal(self.lengths[examples], world_size)
        num_micro_batches = _num_micro_batches(self.lengths[examples], counts, ranked, token_budget, padded)
        places = ranked[: counts[rank], rank]
        mine, epochs = examples[places], self.epochs(step)[places]
        cuts = _cut(self.lengths[mine], token_budget, padded)
        # Cuts at the end leave empty pieces: the spare micro-batches.
        cuts += [len(mine)] * (num_micro_batches - 1 - len(cuts))
        return StepPlan(np.split(mine, cuts), np.split(epochs, cuts))

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # A batch spans two epochs at most when the data set is larger than a batch; no other order is needed again.
            self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) <= 1}
            order = np.arange(len(self), dtype=np.uint32)
            generator("order", *self._key, epoch).shuffle(order)
            self._orders[epoch] = order
        return self._orders[epoch]


def _deal(lengths: np.ndarray, world_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Deal examples to ranks so that token sums are near equal: longest first, each to the rank with the fewest so far.

    The longest-processing-time rule (Graham 1969), for as many examples at a time as go to different ranks.

    Returns:
        counts: examples per rank, shape [world_size].
        ranked: positions in `lengths`, shape [largest count, world_size]; rank r has the first counts[r] of column r,
            long to short, and -1 below.
    """
    by_length = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[by_length].astype(np.int64)
    loads = np.zeros(world_size, dtype=np.int64)
    owners = np.empty(len(lengths), dtype=np.int64)
    place = 0
    while place < len(lengths):
        in_line = np.argsort(loads, kind="stable")
        given = sorted_lengths[place : place + world_size]
        before = loads[in_line[: len(given)]]
        # The line holds until its next rank has more tokens than one that has just been served.
        overtaken = before[1:] > np.minimum.accumulate(before + given)[:-1]
        num_served = int(overtaken.argmax()) + 1 if overtaken.any() else len(given)
        served = in_line[:num_served]
        owners[place : place + num_served] = served
        loads[served] += given[:num_served]
        place += num_served
    counts = np.bincount(owners, minlength=world_size)
    ranked = np.full((int(counts.max()), world_size), -1, dtype=np.int64)
    by_rank = np.argsort(owners, kind="stable")
    row_in_rank = np.arange(len(lengths)) - np.repeat(np.cumsum(counts) - counts, counts)
    ranked[row_in_rank, owners[by_rank]] = by_length[by_rank]
    return counts, ranked


def _num_micro_batches(
    lengths: np.ndarray, counts: np.ndarray, ranked: np.ndarray, token_budget: int, padded: bool
) -> int:
    """Micro-batches that the rank with the most of them needs: the greedy cut of `_cut`, for all ranks at once."""
    cuts = np.ones(len(counts), dtype=np.int64)
    used = np.zeros(len(counts), dtype=np.int64)
    longest = np.zeros(len(counts), dtype=np.int64)
    for row in ranked:
        dealt = row >= 0
        size = np.where(dealt, lengths[row], 0)
        longest_now = np.maximum(longest, size)
        used_now = used + (longest_now if padded else size)
        full = dealt & (used > 0) & (used_now > token_budget)
        cuts += full
        longest = np.where(full, size, longest_now)
        used = np.where(dealt, np.where(full, size, used_now), used)
    return int(cuts.max())


def _cut(lengths: np.ndarray, token_budget: int, padded: bool) -> list[int]:
    """Where to cut examples, long to short, into micro-batches within the budget."""
    cuts: list[int] = []
    used = longest = 0
    for position, length in enumerate(lengths.tolist()):
        longest_now = max(longest, length)
        used_now = used + (longest_now if padded else length)
        if used and used_now > token_budget:
            cuts.append(position)
            used, longest = length, length
        else:
            used, longest = used_now, longest_now
    return cuts


def evaluation_shares(
    lengths: np.ndarray, rank: int, world_size: int, token_budget: int, padded: bool = False
) -> list[np.ndarray]:
    """Cut a whole data set into micro-batches, long to short, and give each rank equally many; spare ones are empty.

    Every rank does the same number of forward passes, as sharded engines need.
    """
    by_length = np.argsort(-lengths, kind="stable")
    batches = np.split(by_length, _cut(lengths[by_length], token_budget, padded))
    mine = batches[rank::world_size]
    return mine + [np.empty(0, dtype=np.int64)] * (-(-len(batches) // world_size) - len(mine))


class MixturePlan:
    """Which task each step trains, and the how-manieth step of that task it is.

    One task per step, drawn from the weights, the same on every rank: sharded engines gather parameters in the order of
    the forward pass, so ranks that differ would wait for each other for ever.

    Args:
        weights: task name to weight; they need not sum to one.
        num_steps: steps of the phase.
        key: what the draws may depend on: seed and phase.
    """

    def __init__(self, weights: Mapping[str, float], num_steps: int, key: Sequence[object]) -> None:
        self.tasks = sorted(weights)
        edges = np.cumsum([weights[task] for task in self.tasks])
        draws = uniform(key_of("mixture", *key), np.arange(num_steps)) * edges[-1]
        self._drawn = np.minimum(np.searchsorted(edges, draws, side="right"), len(self.tasks) - 1)
        self._step_of_task = np.zeros(num_steps, dtype=np.int64)
        for number in range(len(self.tasks)):
            of_this_task = self._drawn == number
            self._step_of_task[of_this_task] = np.arange(of_this_task.sum())

    def at(self, step: int) -> tuple[str, int]:
        """The task of a step, and the number of earlier steps of that task."""
        return self.tasks[self._drawn[step]], int(self._step_of_task[step])

    def steps_before(self, step: int) -> dict[str, int]:
        """How many of the first `step` steps train each task."""
        counts = np.bincount(self._drawn[:step], minlength=len(self.tasks))
        return dict(zip(self.tasks, counts.tolist(), strict=True))

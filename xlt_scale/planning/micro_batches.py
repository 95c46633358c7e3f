"""How a step's examples fall on devices and micro-batches, in expectation (`data/plan.py` is what does it)."""

from dataclasses import dataclass
from math import ceil, log, sqrt

from xlt_scale.planning.workload import Layout, Workload

_DEVIATIONS_OF_A_FULL_STEP = 3.0
_ENOUGH_TO_DEAL_EVENLY = 2
_ROUNDING = 1e-9


@dataclass(frozen=True)
class MicroBatches:
    """One step of the busiest device. Tokens are those that are computed: with padding where batches are padded.

    Attributes:
        number: forward passes of every device.
        tokens: of the whole step.
        largest: of one micro-batch, in a step among hundreds that has many; it is the first, as they are cut.
        second: of the one after it, before which gradients are there to be added to; 0.0 where there is none.
    """

    number: int
    tokens: float
    largest: float
    second: float = 0.0

    @property
    def mean(self) -> float:
        """Tokens of a micro-batch."""
        return self.tokens / self.number


def split_step(workload: Workload, layout: Layout) -> MicroBatches:
    """The expected split: examples dealt so that devices have about equally many tokens, cut longest first.

    A device cannot have less than one example, so with fewer examples than devices some only keep step.
    """
    lengths, num_devices = workload.lengths, layout.num_devices
    deviation = sqrt(max(lengths.mean_square - lengths.mean**2, 0.0)) * lengths.padding
    mean, longest = lengths.mean * lengths.padding, float(lengths.longest)
    examples = workload.batch_size / num_devices
    if examples >= _ENOUGH_TO_DEAL_EVENLY:
        tokens = examples * mean
        fullest = tokens + _DEVIATIONS_OF_A_FULL_STEP * deviation * sqrt(workload.batch_size) / num_devices
        fullest = min(fullest, ceil(examples) * longest)
    else:
        # The busiest device has the longest example: of n normal draws about sqrt(2 ln n) deviations above the mean.
        tokens = max(examples, 1.0) * min(mean + deviation * sqrt(2 * log(num_devices)), longest)
        fullest = max(examples, 1.0) * longest
    budget = max(layout.max_tokens_per_micro_batch, lengths.longest)
    if fullest <= budget:
        return MicroBatches(1, tokens, fullest)
    # A micro-batch ends before the example that would exceed it: half an example stays free on average.
    used = max(budget // mean * mean, mean) if not deviation else max(budget - mean / 2, mean)
    number = max(ceil(tokens / used - _ROUNDING), 1)
    return MicroBatches(number, tokens, float(budget), min(fullest - budget, float(budget)))

"""What a plan predicts: bytes on a device and seconds of a step, part by part."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes on the fullest device, at its fullest moment.

    Attributes:
        parameters: weights in the forward precision and fp32 masters.
        gradients: those that exist at that moment; none yet where activations are at their peak first.
        optimizer: moments.
        activations: kept for the backward pass at that moment, of the largest micro-batch.
        buffers: gathered layers, communication buckets, temporary tensors of the largest operation.
        margin: fragmentation, and what the libraries take (context, workspaces).
        host: bytes in the host's memory, per device, of what is offloaded there; not in `total`.
        moment: 'backward begins', 'backward ends' or 'step'.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    margin: int
    host: int = 0
    moment: str = ""

    @property
    def allocated(self) -> int:
        """Without the margin: what PyTorch's allocator would call its peak (`max_memory_allocated`)."""
        return self.total - self.margin

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations + self.buffers + self.margin


@dataclass(frozen=True)
class TimePrediction:
    """Seconds of one optimiser step.

    Attributes:
        compute: forward and backward on the devices: matrix products, attention, element-wise passes, recomputation.
        optimizer: clipping and the update.
        exposed_communication: gathers and reductions that computing does not hide.
        overhead: of starting kernels and hooks, where the host is slower than the device.
        num_micro_batches: of a device in one step.
        tokens: real tokens of the step, over all devices.
        flops: of the step over all devices, without recomputation (`sizes.training_flops`).
        peak_flops: of all devices together.
    """

    compute: float
    optimizer: float
    exposed_communication: float
    overhead: float
    num_micro_batches: int
    tokens: float
    flops: float
    peak_flops: float

    @property
    def seconds(self) -> float:
        return self.compute + self.optimizer + self.exposed_communication + self.overhead

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def mfu(self) -> float:
        return self.flops / self.seconds / self.peak_flops

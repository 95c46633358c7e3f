"""Speed and memory, in units that can be compared."""

import logging
import resource

import torch

logger = logging.getLogger(__name__)

# Dense bf16 peaks in FLOP/s from the vendors' data sheets; sparse ones are never used.
_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "GH200": 989e12,
}


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak, or None where it is not known (CPUs, unlisted cards): MFU is then not reported."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for known, peak in _PEAKS.items():
        if all(word in name for word in known.split()):
            return peak
    logger.warning("peak of %r is not known: mfu will be null", name)
    return None


def peak_memory_gib(device: torch.device) -> float:
    """The most memory this process has held: on its GPU, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

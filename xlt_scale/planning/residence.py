"""Which weights stay on a device, by the engines' own rule (`engines/working_copy.py`)."""

from xlt_scale.planning.activations import value_bytes
from xlt_scale.planning.hardware import GIB, Device
from xlt_scale.planning.workload import Layout, Workload

SHARE_OF_MEMORY = 0.1
"""Weights in the forward precision that take no more of a device are kept gathered."""


def keeps_gathered(workload: Workload, layout: Layout, device: Device) -> bool:
    """Whether gathered weights stay from the forward to the backward pass."""
    if layout.stock:
        return False
    if layout.keep_gathered != "auto":
        return layout.keep_gathered
    return value_bytes(workload) * workload.shape.num_parameters <= SHARE_OF_MEMORY * device.memory_gib * GIB


def is_alone(workload: Workload, layout: Layout, device: Device) -> bool:
    """Whether a single FSDP2 process does without the wrapper: masters and forward weights lie side by side, or there
    are no masters.
    """
    if layout.engine != "fsdp2" or layout.num_devices > 1 or layout.stock or layout.offload == "optimizer":
        return False
    return workload.precision != "bf16" or keeps_gathered(workload, layout, device)


def steps_in_portions(workload: Workload, layout: Layout, device: Device) -> bool:
    """Whether weights or gradients come to the optimiser in bf16 (`engines/portions.py`)."""
    return workload.without_masters or (is_alone(workload, layout, device) and workload.precision == "bf16")

"""This machine as a cluster of one node: its GPUs and their links, or its processor cores."""

import os
from dataclasses import replace

import psutil

from xlt_scale.planning.gpus import Gpu, gpus, num_nvlinks
from xlt_scale.planning.hardware import GIB, Cluster, Device
from xlt_scale.planning.known_hardware import A100_80, CPU_CORE, DEVICES

THIS_MACHINE = "this machine"
# NVLink 2 to 4 carry 25 GB/s a connection and direction (NVIDIA, H100 whitepaper 2022, table of NVLink generations).
_NVLINK_BANDWIDTH = 25e9
# PCIe 4.0 x16 has 32 GB/s a direction; copies reach about so much of it.
_PCIE_BANDWIDTH = 25e9
# One 200 Gbit/s port a device: nothing on a node tells what its network carries.
ASSUMED_NETWORK_BANDWIDTH = 25e9
# Between processes of one machine, through its memory.
_PROCESSOR_BANDWIDTH = 2e9
_HIDDEN_SHARE_OF_MEMORY = 0.005
_NEAR = 0.02


def this_machine(on_processors: bool = False, num_devices: int = 0) -> tuple[Cluster, list[str]]:
    """This machine, and what of it had to be assumed.

    Args:
        on_processors: leave its GPUs aside.
        num_devices: that are used of it; 0 = all.
    """
    host_memory = psutil.virtual_memory().total / GIB
    found = [] if on_processors else gpus()
    if not found:
        return processor_cores(num_devices or num_cores(), host_memory)
    device, notes = device_of(min(found, key=lambda gpu: gpu.memory_mib))
    if len({gpu.name for gpu in found}) > 1:
        notes.append("GPUs of several kinds: the one with the least memory stands for all")
    count, bandwidth = num_devices or len(found), _PCIE_BANDWIDTH
    if count > 1:
        num_links = num_nvlinks()
        bandwidth = _NVLINK_BANDWIDTH * num_links or _PCIE_BANDWIDTH
        by = f"{num_links} NVLinks" if num_links else "no NVLink between all pairs: PCIe"
        notes.append(f"between GPUs: {bandwidth / 1e9:g} GB/s ({by}), not measured")
    cluster = Cluster(
        THIS_MACHINE,
        device,
        1,
        count,
        node_bandwidth=bandwidth,
        network_bandwidth=ASSUMED_NETWORK_BANDWIDTH,
        host_memory_gib=host_memory,
        host_bandwidth=_PCIE_BANDWIDTH,
    )
    return cluster, notes


def processor_cores(count: int, memory_gib: float) -> tuple[Cluster, list[str]]:
    """A machine without GPUs: a process on each core, which share its memory."""
    device = replace(CPU_CORE, memory_gib=memory_gib / count)
    cluster = Cluster(
        f"{count} processor core{'s' if count > 1 else ''}",
        device,
        1,
        count,
        node_bandwidth=_PROCESSOR_BANDWIDTH,
        network_bandwidth=_PROCESSOR_BANDWIDTH / 2,
        host_memory_gib=memory_gib,
        host_bandwidth=device.bandwidth,
    )
    return cluster, [f"no GPU here: {cluster.name}, a process on each; their speed is an order of magnitude"]


def device_of(gpu: Gpu) -> tuple[Device, list[str]]:
    """The planner's numbers of a card, and what is assumed of it."""
    memory = gpu.memory_mib / 1024 * (1 - _HIDDEN_SHARE_OF_MEMORY)
    known = _known(gpu)
    if known is None:
        memory = memory or A100_80.memory_gib
        note = f"{gpu.name}: not known to the planner; counted as fast as an A100 (a cluster file says another)"
        return replace(A100_80, name=gpu.name.lower().replace(" ", "-"), memory_gib=memory), [note]
    is_usual = not memory or abs(memory / known.memory_gib - 1) < _NEAR
    return known if is_usual else replace(known, memory_gib=memory), []


def _known(gpu: Gpu) -> Device | None:
    words = gpu.name.upper().replace("-", " ").split()
    families = [device for device in DEVICES.values() if device.name.split("-")[0].upper() in words]
    # Of a family the card whose memory is nearest; a PCIe card is slower than its data sheet's namesake.
    if not families or "PCIE" in words:
        return None
    return min(families, key=lambda device: abs(device.memory_gib - gpu.memory_mib / 1024))


def is_processor(device: Device) -> bool:
    """Whether it is a processor's core and no accelerator."""
    return device.name == CPU_CORE.name


def num_cores() -> int:
    """Processor cores that this process may use: of a shared node, those that SLURM has given it."""
    return len(os.sched_getaffinity(0))

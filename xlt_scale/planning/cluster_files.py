"""The cluster that a plan is for: by name, from a file, or this machine."""

from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Annotated

from pydantic import Field

from xlt_scale.config import Options, Positive, PositiveCount
from xlt_scale.config_files import read_toml, validate
from xlt_scale.errors import UserError
from xlt_scale.planning.hardware import Cluster, Device
from xlt_scale.planning.known_hardware import DEVICES, find_cluster
from xlt_scale.planning.this_machine import ASSUMED_NETWORK_BANDWIDTH, this_machine

NotNegative = Annotated[float, Field(ge=0)]


class DeviceOptions(Options):
    """`[device]`: a known card by name, or numbers of one's own."""

    name: str = Field(description="h200, h100, a100-80g, a100-40g; or any name where all numbers are given")
    memory_gib: Positive | None = Field(None, description="what PyTorch sees of it")
    peak_tflops: Positive | None = Field(None, description="dense bf16 peak of the data sheet")
    matmul_tflops: Positive | None = Field(None, description="what large bf16 products reach")
    bandwidth_tb_s: Positive | None = Field(None, description="of its memory, in large copies")
    launch_us: Positive | None = Field(None, description="host time to start a kernel")
    float8_speedup: NotNegative | None = Field(None, description="float8 against bf16 products; 0 = none")


class ClusterOptions(Options):
    """A cluster file: equal nodes of equal devices. Bandwidths are per device and direction."""

    name: str
    device: DeviceOptions
    num_nodes: PositiveCount = 1
    devices_per_node: PositiveCount = 8
    node_bandwidth_gb_s: Positive = Field(description="between devices of a node")
    network_bandwidth_gb_s: Positive | None = Field(None, description="between nodes; needed for more than one")
    latency_us: Positive = Field(20.0, description="of a collective's start")
    host_memory_gib: NotNegative = Field(0.0, description="of a node; 0 = nothing is offloaded there")
    host_bandwidth_gb_s: NotNegative = Field(0.0, description="between a device and its host's memory")
    price_per_device_hour: NotNegative = Field(0.0, description="in any currency; 0 = not known")


def describe_cluster(
    name: str = "", num_nodes: int = 0, num_devices: int = 0, price_per_device_hour: float = 0.0
) -> tuple[Cluster, list[str]]:
    """The cluster that a user names, and what of it had to be assumed.

    Args:
        name: a known cluster, a TOML file, or '' for this machine.
        num_nodes, num_devices: in place of its own; 0 = as it is described. Devices are counted over all nodes.

    Raises:
        UserError: there is no such cluster, a key of the file does not fit, or so many devices make no equal nodes.
    """
    notes: list[str] = []
    if name.endswith(".toml") or "/" in name:
        cluster = read_cluster(Path(name))
    elif name:
        cluster = find_cluster(name)
    else:
        cluster, notes = this_machine()
    if num_nodes or num_devices:
        cluster = resized(cluster, num_nodes, num_devices)
    if cluster.num_nodes > 1:
        notes.append(f"between nodes: {cluster.network_bandwidth / 1e9:g} GB/s a device")
    if cluster.num_devices > 1 and not cluster.node_bandwidth:
        raise UserError(
            f"cluster {cluster.name!r} is a single device: nothing is known of links; name one with several "
            "(hgx-h200, say), or describe it in a file (docs/planning.md)"
        )
    return (replace(cluster, price_per_device_hour=price_per_device_hour) if price_per_device_hour else cluster), notes


def read_cluster(path: Path) -> Cluster:
    """The cluster that a TOML file describes.

    Raises:
        UserError: the file is missing or broken, a key is unknown or missing, or a value does not fit.
    """
    found: ClusterOptions = validate(ClusterOptions, read_toml(path), str(path))
    network = found.network_bandwidth_gb_s
    if found.num_nodes > 1 and not network:
        raise UserError(f"{path}: num_nodes = {found.num_nodes} needs network_bandwidth_gb_s, between nodes; add it")
    return Cluster(
        name=found.name,
        device=_device(found.device, str(path)),
        num_nodes=found.num_nodes,
        devices_per_node=found.devices_per_node,
        node_bandwidth=found.node_bandwidth_gb_s * 1e9,
        network_bandwidth=network * 1e9 if network else ASSUMED_NETWORK_BANDWIDTH,
        latency_seconds=found.latency_us * 1e-6,
        host_memory_gib=found.host_memory_gib,
        host_bandwidth=found.host_bandwidth_gb_s * 1e9,
        price_per_device_hour=found.price_per_device_hour,
    )


def _device(options: DeviceOptions, place: str) -> Device:
    units = {
        "memory_gib": ("memory_gib", 1.0),
        "peak_tflops": ("peak_flops", 1e12),
        "matmul_tflops": ("matmul_flops", 1e12),
        "bandwidth_tb_s": ("bandwidth", 1e12),
        "launch_us": ("launch_seconds", 1e-6),
        "float8_speedup": ("float8_speedup", 1.0),
    }
    given = {key: getattr(options, key) for key in units if getattr(options, key) is not None}
    numbers = {units[key][0]: value * units[key][1] for key, value in given.items()}
    needed = ("memory_gib", "peak_tflops", "matmul_tflops", "bandwidth_tb_s")
    missing = [key for key in needed if key not in given]
    if not missing:
        return Device(name=options.name, **numbers)
    if options.name not in DEVICES:
        raise UserError(
            f"{place}: device.name = {options.name!r} is none of {', '.join(DEVICES)}; name one of them, or give "
            f"{', '.join(missing)} too"
        )
    return replace(DEVICES[options.name], **numbers)


def resized(cluster: Cluster, num_nodes: int = 0, num_devices: int = 0) -> Cluster:
    """The same kind of cluster with so many nodes, or so many devices in all.

    Raises:
        UserError: the devices cannot be spread evenly over nodes.
    """
    if not num_devices:
        return replace(cluster, num_nodes=num_nodes or cluster.num_nodes)
    nodes = num_nodes or ceil(num_devices / cluster.devices_per_node)
    if num_devices % nodes:
        raise UserError(
            f"{num_devices} devices cannot be spread evenly over {nodes} nodes of {cluster.devices_per_node}; "
            f"give --devices {nodes * (num_devices // nodes) or nodes} or --nodes"
        )
    return replace(cluster, num_nodes=nodes, devices_per_node=num_devices // nodes)

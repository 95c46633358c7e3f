"""The devices and links that a plan is made for."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One accelerator, or one process's share of a processor.

    Attributes:
        peak_flops: dense bf16 peak of the data sheet, FLOP/s; MFU is counted against it.
        matmul_flops: what large bf16 matrix products reach, FLOP/s.
        bandwidth: of its memory, byte/s, as large copies reach it (bytes read and written).
        launch_seconds: host time to start one kernel.
        float8_speedup: large float8 matrix products against bf16; 0 where there are none.
        num_processors: streaming multiprocessors, over which a product's tiles are spread; 1 = of no matter.
        reserved_gib: what the driver and the libraries take of the memory before anything is trained.
    """

    name: str
    memory_gib: float
    peak_flops: float
    matmul_flops: float
    bandwidth: float
    launch_seconds: float = 6e-6
    float8_speedup: float = 0.0
    num_processors: int = 132
    reserved_gib: float = 0.6


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal devices.

    Attributes:
        node_bandwidth: between devices of a node, byte/s that one device sends (and receives at the same time).
        network_bandwidth: between nodes, byte/s per device.
        latency_seconds: of one collective's start.
        host_memory_gib: of a node.
        host_bandwidth: between a device and its host's memory, byte/s.
        price_per_device_hour: in whatever currency; 0 = not known.
    """

    name: str
    device: Device
    num_nodes: int = 1
    devices_per_node: int = 1
    node_bandwidth: float = 0.0
    network_bandwidth: float = 0.0
    latency_seconds: float = 20e-6
    host_memory_gib: float = 0.0
    host_bandwidth: float = 0.0
    price_per_device_hour: float = 0.0

    @property
    def num_devices(self) -> int:
        return self.num_nodes * self.devices_per_node

"""Devices and clusters by name, with the numbers of their data sheets.

Bandwidths of links are per device and direction; data sheets often give the sum of both directions. What large copies
and collectives reach of them is another matter (`communication.py`, `step_time.py`).
"""

from dataclasses import replace

from xlt_scale.errors import UserError, nearest
from xlt_scale.planning.hardware import Cluster, Device

H200 = Device(
    # NVIDIA H200 data sheet (2024): 141 GB, 4.8 TB/s, 989 TFLOP/s dense bf16. Measured: 143,771 MiB visible, 790
    # TFLOP/s in a bf16 product of 8192 x 8192 x 8192, 4.3 TB/s in copies.
    name="h200",
    memory_gib=139.8,
    peak_flops=989e12,
    matmul_flops=790e12,
    bandwidth=4.3e12,
    float8_speedup=1.6,
)
H100 = Device(
    # NVIDIA H100 SXM data sheet (2023): 80 GB, 3.35 TB/s, 989 TFLOP/s. What products and copies reach is taken to be
    # the same share as measured on the H200, which has the same processor.
    name="h100",
    memory_gib=79.1,
    peak_flops=989e12,
    matmul_flops=790e12,
    bandwidth=3.0e12,
    float8_speedup=1.6,
)
A100_80 = Device(
    # NVIDIA A100 data sheet (2021): 80 GB SXM, 2,039 GB/s, 312 TFLOP/s. The shares reached are assumed as on the H200.
    name="a100-80g",
    memory_gib=79.1,
    peak_flops=312e12,
    matmul_flops=265e12,
    bandwidth=1.82e12,
    num_processors=108,
)
A100_40 = replace(A100_80, name="a100-40g", memory_gib=39.4, bandwidth=1.39e12)
CPU_CORE = Device(
    # An order of magnitude for small tests, not a data sheet: fp32 on one core of a server.
    name="cpu-core",
    memory_gib=4.0,
    peak_flops=1e11,
    matmul_flops=6e10,
    bandwidth=1e10,
    launch_seconds=3e-6,
    num_processors=1,
    reserved_gib=0.0,
)
DEVICES = {device.name: device for device in (H200, H100, A100_80, A100_40, CPU_CORE)}

CLUSTERS = {
    cluster.name: cluster
    for cluster in (
        Cluster("h200", H200, host_memory_gib=128, host_bandwidth=50e9),
        # HGX H200 and DGX H100: NVLink 4, 900 GB/s both directions; one 400 Gbit/s InfiniBand port per device.
        Cluster("hgx-h200", H200, 1, 8, 450e9, 50e9, host_memory_gib=2048, host_bandwidth=50e9),
        Cluster("dgx-h100", H100, 1, 8, 450e9, 50e9, host_memory_gib=2048, host_bandwidth=50e9),
        # DGX A100: NVLink 3, 600 GB/s both directions; one 200 Gbit/s InfiniBand port per device.
        Cluster("a100-80g", A100_80, 1, 8, 300e9, 25e9, host_memory_gib=2048, host_bandwidth=25e9),
        Cluster("a100-40g", A100_40, 1, 8, 300e9, 25e9, host_memory_gib=1024, host_bandwidth=25e9),
        Cluster("cpu", CPU_CORE, 1, 2, 2e9, 1e9, host_memory_gib=8, host_bandwidth=5e9),
    )
}


def find_device(name: str) -> Device:
    """The device of that name.

    Raises:
        UserError: there is none, with the nearest name.
    """
    if name not in DEVICES:
        raise UserError(f"device {name!r} is unknown; {nearest(name, DEVICES)}")
    return DEVICES[name]


def find_cluster(name: str) -> Cluster:
    """The cluster of that name: one node of it; `dataclasses.replace` gives it more.

    Raises:
        UserError: there is none, with the nearest name.
    """
    if name not in CLUSTERS:
        raise UserError(f"cluster {name!r} is unknown; {nearest(name, CLUSTERS)}")
    return CLUSTERS[name]

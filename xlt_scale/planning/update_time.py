"""Seconds of what an engine does with whole sets of parameters: the optimiser's step, and copies in each micro-batch.

All of it is bound by the memory's bandwidth, so it is counted in bytes read and written per parameter, from the code of
the engines (`engines/fsdp2.py`, DeepSpeed's `stage3.py`, `torch.distributed.fsdp`, bitsandbytes).
"""

from xlt_scale.planning.activations import value_bytes
from xlt_scale.planning.hardware import Cluster
from xlt_scale.planning.memory import moment_bytes, num_trained
from xlt_scale.planning.micro_batches import split_step
from xlt_scale.planning.residence import is_alone, keeps_gathered, steps_in_portions
from xlt_scale.planning.workload import Layout, Workload

HOST_UPDATE_BANDWIDTH = 20e9
"""Bytes per second that AdamW on the host moves for one process. An assumption: memory of servers, shared by 8
processes."""

_SCALING = 4 + 4  # of gradients: read and written
_SCALING_IN_THE_KERNEL = 4  # the fused AdamW writes the scaled gradient back
_WEIGHT_AND_GRADIENT = 4 + 4 + 4  # read both, write the weight
_CAST = 2 + 4  # from bf16 to fp32, or back
_TENSORS_PER_LAYER = 16
_HOST_SECONDS_PER_TENSOR = {"adamw": 5e-6, "adamw_8bit": 40e-6}
"""PyTorch's fused kernel takes many tensors at once, bitsandbytes' one. Assumptions."""


def optimizer_seconds(workload: Workload, layout: Layout, cluster: Cluster) -> float:
    """Clipping and AdamW of one step, on each device's shard."""
    device, shards, width = cluster.device, layout.num_shards, value_bytes(workload)
    trained = num_trained(workload) / shards
    moments = 2 * moment_bytes(workload) / shards
    in_kernel = workload.optimizer == "adamw" and layout.engine == "fsdp2" and not layout.stock
    in_portions = steps_in_portions(workload, layout, device)
    stays_in_bf16 = in_portions and layout.engine == "fsdp2" and split_step(workload, layout).number == 1
    norm = width if stays_in_bf16 else 4
    clipping = (norm + (_SCALING_IN_THE_KERNEL if in_kernel else _SCALING)) * trained
    moved = clipping + _WEIGHT_AND_GRADIENT * trained + moments
    if layout.engine == "zero3":
        # Looking for infinities, then a flat copy of the gradients, then the forward weights from the masters.
        moved += (4 + 8 + 4 + width) * trained
    if stays_in_bf16:
        moved += _CAST * trained
    if workload.without_masters:
        # Weights to fp32, and rounded back.
        moved += 2 * _CAST * trained
    elif in_portions:
        # The forward weights from the masters.
        moved += _CAST * trained
    if layout.offload == "optimizer":
        # Gradients go to the host and weights come back (with FSDP2 as they are gathered: `communication.py`).
        link = (4 + width) * trained / cluster.host_bandwidth if layout.engine == "zero3" else 0.0
        on_host = (_WEIGHT_AND_GRADIENT * trained + moments) / min(HOST_UPDATE_BANDWIDTH, device.bandwidth)
        return clipping / device.bandwidth + link + on_host
    if layout.offload == "paged" and cluster.host_bandwidth:
        return moved / device.bandwidth + moments / cluster.host_bandwidth
    num_tensors = _TENSORS_PER_LAYER * workload.shape.num_layers
    on_host = num_tensors * _HOST_SECONDS_PER_TENSOR[workload.optimizer] if layout.engine == "fsdp2" else 0.0
    return max(moved / device.bandwidth, on_host)


def copy_seconds(workload: Workload, layout: Layout, cluster: Cluster, accumulates: bool) -> float:
    """What one micro-batch copies on the device around gathers and reductions, which contends with computing."""
    width, shards = value_bytes(workload), layout.num_shards
    parameters, trained = workload.shape.num_parameters, num_trained(workload)
    gathers = 1 if keeps_gathered(workload, layout, cluster.device) else 2
    if layout.engine == "zero3":
        # Into the bucket in fp32, the division by the number of processes, into or onto the partition.
        into_partition = (12 if accumulates else 8) / shards
        moved = (width + 4 + 8 + into_partition) * trained
        moved += gathers * 2 * width * parameters if shards > 1 else 0
    elif is_alone(workload, layout, cluster.device):
        # Of several micro-batches each gradient goes to fp32, onto what is there.
        moved = (width + 8) * trained if width == 2 and accumulates else 0.0
    else:
        # At each gather: the cast of the shard, and out of the gathered buffer; then gradients into an fp32 buffer.
        cast = 0 if workload.without_masters else 4 + width
        gathered = gathers * (cast / shards + 2 * width) * parameters
        moved = gathered + (width + 4 + 4 + (12 if accumulates else 4) / shards) * trained
    return moved / cluster.device.bandwidth

"""Seconds that gathering weights and reducing gradients take, and how much of them computing does not hide.

Rings (Patarasuk & Yuan 2009; NCCL): in a group of n every device sends and receives (n - 1) / n of what is gathered.
Over several nodes a ring enters and leaves each node once, and every device has its own port to the network, so that as
many rings run side by side as a node has devices in the group.
"""

from dataclasses import dataclass

from xlt_scale.planning.activations import value_bytes
from xlt_scale.planning.hardware import Cluster
from xlt_scale.planning.residence import keeps_gathered
from xlt_scale.planning.workload import Layout, Workload

LINK_SHARE = 0.8
"""What large collectives reach of a link's bandwidth. An assumption, near the bus bandwidths that `nccl-tests`
gives."""

HOP_SECONDS = 4e-6
"""From one device of a ring to the next. An assumption."""

SHARE_OF_DEVICE = 0.15
"""Of the device's processors and bandwidth, what collectives take while computing hides them: about 20 of 132
processors run NCCL's kernels. An assumption."""

_FP32 = 4


@dataclass(frozen=True)
class Traffic:
    """Seconds of one micro-batch's collectives on the links, all at the speed of the slowest device.

    Attributes:
        layer_forward: gathering one layer.
        layer_backward: gathering it again and reducing its gradients.
        ends: of embeddings and heads, which nothing hides.
    """

    layer_forward: float = 0.0
    layer_backward: float = 0.0
    ends: float = 0.0


def traffic(workload: Workload, layout: Layout, cluster: Cluster) -> Traffic:
    """The collectives of FSDP2 and ZeRO-3: weights in the forward precision, gradients in fp32, layer by layer."""
    if layout.num_devices == 1:
        return _to_host(workload, layout, cluster)
    shape, width = workload.shape, value_bytes(workload)
    shards = layout.num_shards
    layer = workload.gathered_per_layer
    trained_layer = shape.num_parameters_per_layer * workload.trained_share_of_layers
    embeddings = shape.num_embedding_parameters
    trained_embeddings = embeddings if workload.trains_embeddings else 0

    def gather(num_parameters: float) -> float:
        return collective_seconds(cluster, layout, shards, width * num_parameters)

    def reduce(num_parameters: float) -> float:
        seconds = collective_seconds(cluster, layout, shards, _FP32 * num_parameters)
        return seconds + _all_reduce_seconds(cluster, layout, _FP32 * num_parameters / shards)

    ends = gather(embeddings) + (reduce(trained_embeddings) if trained_embeddings else 0.0)
    # ZeRO-3 has let go of the table by the time that its gradient is computed.
    ends += gather(embeddings) if layout.engine == "zero3" else 0.0
    again = 0.0 if keeps_gathered(workload, layout, cluster.device) else gather(layer)
    host = _to_host(workload, layout, cluster)
    return Traffic(
        gather(layer) + host.layer_forward, again + reduce(trained_layer) + host.layer_backward, ends + host.ends
    )


def _to_host(workload: Workload, layout: Layout, cluster: Cluster) -> Traffic:
    """FSDP2's shards that lie in the host's memory: they come at each gather, and gradients go there, in fp32."""
    if layout.engine == "zero3" or layout.offload != "optimizer" or not cluster.host_bandwidth:
        return Traffic()
    shape = workload.shape
    layer, ends = (
        _FP32 * count / layout.num_shards / cluster.host_bandwidth
        for count in (workload.gathered_per_layer, shape.num_embedding_parameters)
    )
    return Traffic(layer, 2 * layer, 2 * ends)


def collective_seconds(cluster: Cluster, layout: Layout, group_size: int, num_bytes: float) -> float:
    """An all-gather or a reduce-scatter of so many bytes in all, over neighbouring devices."""
    if group_size == 1 or not num_bytes:
        return 0.0
    share = (group_size - 1) / group_size
    return (
        cluster.latency_seconds
        + HOP_SECONDS * (group_size - 1)
        + share * num_bytes / _bandwidth(cluster, layout, group_size)
    )


def exposed(seconds: float, hidden_by: float) -> tuple[float, float]:
    """What of a collective sticks out behind the computing that runs beside it, and what it slows that down by."""
    return max(seconds - hidden_by, 0.0), SHARE_OF_DEVICE * min(seconds, hidden_by)


def _bandwidth(cluster: Cluster, layout: Layout, group_size: int) -> float:
    per_node = layout.num_devices // layout.num_nodes
    link = cluster.node_bandwidth
    if group_size > per_node:
        across = cluster.network_bandwidth * per_node
        link = min(link, across) if per_node > 1 else across
    return LINK_SHARE * link


def _all_reduce_seconds(cluster: Cluster, layout: Layout, num_bytes: float) -> float:
    """Between replicas: each device with those that hold the same shard, over its own port where they are on other
    nodes."""
    if layout.replicas == 1:
        return 0.0
    per_node = layout.num_devices // layout.num_nodes
    link = cluster.network_bandwidth if layout.num_devices > per_node else cluster.node_bandwidth
    share = (layout.replicas - 1) / layout.replicas
    hops = HOP_SECONDS * 2 * (layout.replicas - 1)
    return cluster.latency_seconds + hops + 2 * share * num_bytes / (LINK_SHARE * link)

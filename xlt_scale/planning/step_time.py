"""Seconds that one optimiser step takes: layers, what their communication leaves uncovered, and the optimiser."""

from xlt_scale.planning.activations import num_recomputed, value_bytes
from xlt_scale.planning.communication import exposed, traffic
from xlt_scale.planning.hardware import Cluster
from xlt_scale.planning.layer_time import layer_time, product_seconds
from xlt_scale.planning.micro_batches import split_step
from xlt_scale.planning.prediction import TimePrediction
from xlt_scale.planning.update_time import copy_seconds, optimizer_seconds
from xlt_scale.planning.workload import Layout, Workload
from xlt_scale.sizes import training_flops

_PRODUCTS_OF_A_SLICED_LOSS = 4
"""Products of the output matrix that a loss in slices takes (`modeling/vocabulary_loss.py`)."""


def predict_step(workload: Workload, layout: Layout, cluster: Cluster) -> TimePrediction:
    """One step's time, part by part. Host and device run side by side: of a layer the slower one counts."""
    shape, device = workload.shape, cluster.device
    micro_batches = split_step(workload, layout)
    time = layer_time(workload, layout, device, micro_batches.mean)
    links = traffic(workload, layout, cluster)
    share_recomputed = num_recomputed(shape, layout) / shape.num_layers
    recomputed = time.recomputed * share_recomputed
    backward = time.backward + recomputed
    shown_forward, slowed_forward = exposed(links.layer_forward, time.forward)
    shown_backward, slowed_backward = exposed(links.layer_backward, backward)
    busy = [time.forward + slowed_forward + shown_forward, backward + slowed_backward + shown_backward]
    host = [time.host_forward, time.host_backward + (time.host_forward if recomputed else 0.0) * share_recomputed]
    waits = sum(max(on_host - on_device, 0.0) for on_host, on_device in zip(host, busy, strict=True))
    compute = shape.num_layers * (time.forward + backward + slowed_forward + slowed_backward)
    compute += head_seconds(workload, cluster, micro_batches.mean)
    compute += copy_seconds(workload, layout, cluster, micro_batches.number > 1)
    count = micro_batches.number
    return TimePrediction(
        compute=count * compute,
        optimizer=optimizer_seconds(workload, layout, cluster),
        exposed_communication=count * (shape.num_layers * (shown_forward + shown_backward) + links.ends),
        overhead=count * shape.num_layers * (waits + time.stalls),
        num_micro_batches=count,
        tokens=workload.batch_size * workload.lengths.mean,
        flops=float(_flops(workload)),
        peak_flops=device.peak_flops * layout.num_devices,
    )


def head_seconds(workload: Workload, cluster: Cluster, num_tokens: float) -> float:
    """The output matrix of masked language modelling; other heads are too small to count."""
    targets = workload.masked_share * num_tokens
    if not targets:
        return 0.0
    shape, device, width = workload.shape, cluster.device, value_bytes(workload)
    product = product_seconds(device, targets, shape.vocab_size, shape.hidden_size, width)
    passes = 2 * (width + 4 + 4) * targets * shape.vocab_size / device.bandwidth
    return (_PRODUCTS_OF_A_SLICED_LOSS if workload.sliced_loss else 3) * product + passes


def _flops(workload: Workload) -> int:
    shape, lengths, examples = workload.shape, workload.lengths, workload.batch_size
    return training_flops(
        shape.num_non_embedding_parameters,
        shape.num_layers,
        shape.query_size,
        round(examples * lengths.mean),
        round(examples * lengths.mean_square),
    )

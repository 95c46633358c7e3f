"""Bytes that training takes on the fullest device.

A step has three moments that can be the fullest: when the backward pass begins (all activations are there, gradients
only where several micro-batches are summed), when it ends (all gradients are there, and the large temporary tensors of
the embeddings' gradient), and the optimiser's step. Each is added up from what the engine's code holds then.
"""

from dataclasses import dataclass

from xlt_scale.engines.portion_size import portion_of
from xlt_scale.planning.activations import head_bytes, kept_bytes, recomputed_bytes, temporary_bytes, value_bytes
from xlt_scale.planning.hardware import GIB, Cluster, Device
from xlt_scale.planning.micro_batches import MicroBatches, split_step
from xlt_scale.planning.prediction import MemoryPrediction
from xlt_scale.planning.residence import is_alone, keeps_gathered, steps_in_portions
from xlt_scale.planning.workload import Layout, Workload

# ds_configs/zero3.json, in elements.
ZERO3_BUCKET = 50_000_000
ZERO3_LIVE = 1_000_000_000
ZERO3_REUSE_DISTANCE = 1_000_000_000
ZERO3_SUB_GROUP = 1_000_000_000

FRAGMENTATION = 0.04
"""Of what comes and goes (activations, gradients, buffers), the share that PyTorch's caching allocator cannot use
again."""

UNCERTAINTY = 0.02
"""Of everything, so that a plan that is a little wrong still fits."""

COMMUNICATION_GIB = 1.0
"""What NCCL takes for its channels where devices talk to each other."""

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a weight: four bits, and a scale in 8 bits for 64 of them (Dettmers et al. 2023, section 3, double
quantisation)."""

_FP32 = 4


@dataclass(frozen=True)
class Held:
    """What lies on a device all through training, in bytes.

    Attributes:
        gradients: where a buffer for them exists between steps too.
        host: of what was offloaded, in the host's memory.
    """

    parameters: float
    optimizer: float
    gradients: float = 0.0
    host: float = 0.0


@dataclass(frozen=True)
class Moment:
    """What is there in addition at one moment of the step, in bytes."""

    name: str
    gradients: float = 0.0
    activations: float = 0.0
    buffers: float = 0.0


def predict_memory(workload: Workload, layout: Layout, cluster: Cluster) -> MemoryPrediction:
    """What a step holds at its fullest moment, part by part."""
    micro_batches = split_step(workload, layout)
    held = _held(workload, layout, cluster.device)
    moments = _zero3_moments(workload, layout, cluster.device, micro_batches)
    if layout.engine == "fsdp2":
        moments = _fsdp2_moments(workload, layout, cluster.device, micro_batches)
    fullest = max(moments, key=lambda moment: moment.gradients + moment.activations + moment.buffers)
    passing = fullest.gradients + fullest.activations + fullest.buffers
    margin = FRAGMENTATION * passing + GIB * cluster.device.reserved_gib
    margin += UNCERTAINTY * (held.parameters + held.optimizer + held.gradients + passing)
    if layout.num_devices > 1 and cluster.device.reserved_gib:
        margin += GIB * COMMUNICATION_GIB
    return MemoryPrediction(
        parameters=round(held.parameters),
        gradients=round(held.gradients + fullest.gradients),
        optimizer=round(held.optimizer),
        activations=round(fullest.activations),
        buffers=round(fullest.buffers),
        margin=round(margin),
        host=round(held.host),
        moment=fullest.name,
    )


def num_trained(workload: Workload) -> float:
    """Parameters that the optimiser steps."""
    return workload.shape.num_parameters * workload.trained_share


def moment_bytes(workload: Workload) -> float:
    """Bytes of the optimiser's moments of all trained parameters together: 8 each in fp32; in 8 bits 2 and a scale per
    256 elements and moment, embeddings keeping 32 bits (`engines/optimizer.py`).
    """
    trained = num_trained(workload)
    if workload.optimizer == "adamw":
        return 8 * trained
    in_full = min(workload.shape.num_embedding_parameters if workload.trains_embeddings else 0, trained)
    return 8 * in_full + (2 + 2 * _FP32 / 256) * (trained - in_full)


def _held(workload: Workload, layout: Layout, device: Device) -> Held:
    shards, width = layout.num_shards, value_bytes(workload)
    trained = num_trained(workload)
    masters = (width if workload.without_masters else _FP32) * trained
    gradients, forward_weights = 0.0, 0.0
    if layout.engine == "zero3":
        # In fp32 too: DeepSpeed compares a device with its name, so that it never takes the partition itself.
        forward_weights = width * trained
        gradients = layout.gradient_bytes * trained
    elif is_alone(workload, layout, device) and workload.precision == "bf16":
        forward_weights = width * trained
    frozen, whole = _frozen_width(workload, layout, device) * max(workload.shape.num_parameters - trained, 0.0), 0.0
    if workload.four_bit:
        frozen = width * workload.shape.num_embedding_parameters
        whole = NF4_BYTES * workload.shape.num_non_embedding_parameters
    moments = moment_bytes(workload)
    if layout.offload == "optimizer":
        # DeepSpeed leaves the forward weights on the device; with FSDP2 shards and gradients lie on the host.
        host = masters + moments + _FP32 * trained
        on_device = forward_weights + frozen if layout.engine == "zero3" else 0.0
        host += 0.0 if layout.engine == "zero3" else frozen
        return Held(on_device / shards + whole, 0.0, 0.0, host / shards)
    on_device = forward_weights + masters + frozen
    if layout.offload == "paged":
        return Held(on_device / shards + whole, 0.0, gradients / shards, moments / shards)
    return Held(on_device / shards + whole, moments / shards, gradients / shards)


def _portion(workload: Workload, shards: int) -> float:
    """Elements that are stepped at once where weights or gradients are in bf16."""
    own = num_trained(workload) / shards
    return min(portion_of(own), own)


def _frozen_width(workload: Workload, layout: Layout, device: Device) -> int:
    """Bytes of a parameter that is not trained: what stands beside adapters lies in the forward precision; frozen
    embeddings keep their fp32 values too, since the result has them.
    """
    width = value_bytes(workload)
    if workload.trained_share_of_layers < 1.0:
        return width
    if layout.engine == "zero3":
        return width + _FP32
    return width + _FP32 if is_alone(workload, layout, device) and width < _FP32 else _FP32


def _backward_begins(workload: Workload, layout: Layout, tokens: float) -> Moment:
    """The part that both engines share: activations, the head's tensors, and those of one layer's backward pass."""
    return Moment(
        "backward begins",
        activations=kept_bytes(workload, layout, tokens),
        buffers=max(
            head_bytes(workload, tokens), recomputed_bytes(workload, layout, tokens) + temporary_bytes(workload, tokens)
        ),
    )


def _fsdp2_moments(workload: Workload, layout: Layout, device: Device, micro_batches: MicroBatches) -> list[Moment]:
    """`torch.distributed.fsdp`: the outermost group (embeddings, heads) stays gathered through forward and backward; of
    the layers' groups one computes, one is on its way (its buffer and its parameters), and gradients are reduced in
    fp32 from a copy, the one before being kept until its reduction has ended. Without the wrapper, and without masters,
    bf16 gradients go to fp32 as they come where they are summed, and in portions of the optimiser's step where not.
    """
    shape, width, shards = workload.shape, value_bytes(workload), layout.num_shards
    accumulates = micro_batches.number > 1
    embeddings = shape.num_embedding_parameters if workload.trains_embeddings else 0
    layer = workload.gathered_per_layer
    in_portions = steps_in_portions(workload, layout, device)
    of_gradient = width if in_portions and not accumulates else _FP32
    gradients = 0.0 if layout.offload == "optimizer" else of_gradient * num_trained(workload) / shards
    portion = _portion(workload, shards) if in_portions and layout.offload != "optimizer" else 0.0
    step = Moment("step", gradients, 0.0, portion * (_FP32 + (_FP32 if workload.without_masters else 0)))
    begin = _backward_begins(workload, layout, micro_batches.largest)
    later = _backward_begins(workload, layout, micro_batches.second)
    if is_alone(workload, layout, device):
        of_embeddings = width * embeddings if accumulates else 0
        later = Moment(later.name, gradients if accumulates else 0.0, later.activations, later.buffers)
        return [begin, later, Moment("backward ends", gradients, 0.0, of_embeddings), step]
    of_layers = width * 3 * layer
    if keeps_gathered(workload, layout, device):
        of_layers = width * (shape.num_layers + 1) * layer
    gathered = width * shape.num_embedding_parameters + of_layers
    reduced = (width + 2 * _FP32) * layer * workload.trained_share_of_layers
    begin = Moment(begin.name, 0.0, begin.activations, begin.buffers + gathered + reduced)
    later = Moment(later.name, gradients if accumulates else 0.0, later.activations, later.buffers + gathered + reduced)
    new_shard = _FP32 * embeddings / shards if accumulates else 0
    ends = width * shape.num_embedding_parameters + (width + _FP32) * embeddings + new_shard
    return [begin, later, Moment("backward ends", gradients, 0.0, ends), step]


def _zero3_moments(workload: Workload, layout: Layout, device: Device, micro_batches: MicroBatches) -> list[Moment]:
    """DeepSpeed's `stage3.py`: gradients larger than the bucket go to fp32 by themselves, others through the bucket;
    the optimiser's step copies the gradients of a sub-group. One process uses its partition as it is, with nothing to
    gather.
    """
    shape, width, shards = workload.shape, value_bytes(workload), layout.num_shards
    embeddings = shape.num_embedding_parameters if workload.trains_embeddings else 0
    bucket = _FP32 * ZERO3_BUCKET
    live = 0
    if shards > 1:
        # Released parameters come back within the reuse distance, counted through forward and backward, so they stay.
        within = min(ZERO3_REUSE_DISTANCE // 2, ZERO3_LIVE)
        of_layers = shape.num_layers * workload.gathered_per_layer
        all_of_them = of_layers + shape.num_embedding_parameters if keeps_gathered(workload, layout, device) else 0
        live = width * max(min(of_layers, within), all_of_them)
    matrix = shape.hidden_size * shape.intermediate_size
    in_reduction = (width + _FP32) * 2 * matrix if matrix > ZERO3_BUCKET else 2 * width * matrix
    begin = _backward_begins(workload, layout, micro_batches.largest)
    begin = Moment(begin.name, 0.0, begin.activations, begin.buffers + live + bucket + in_reduction)
    end_buffers = (width + _FP32) * embeddings + bucket
    if shards > 1:
        end_buffers += width * (shape.num_embedding_parameters + workload.gathered_per_layer)
    copied = 0.0 if layout.offload == "optimizer" else _FP32 * min(num_trained(workload) / shards, ZERO3_SUB_GROUP)
    if workload.without_masters:
        copied = copied / 2 + 2 * _FP32 * _portion(workload, shards)
    return [begin, Moment("backward ends", 0.0, 0.0, end_buffers), Moment("step", 0.0, 0.0, copied + bucket)]

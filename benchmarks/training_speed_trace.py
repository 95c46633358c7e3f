"""What a step is made of: operations by kind, launches, host synchronisations and bytes, read from a profiler's trace.

PyTorch's profiler writes a Chrome trace. On a GPU the kernels in it are timed, and what lies between them is idle time.
On a CPU the innermost operators stand for the kernels: as many as a GPU would be asked to launch, apart from those
that a compiler fuses.
"""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "attention": "flash fmha varlen scaled_dot_product sdpa",
    "optimiser": "adam kOptimizer quantize_blockwise",
    "copies and communication": "nccl Memcpy Memset copy c10d:: fsdp:: gloo chunk_cat CatArray aten::cat",
    "matrix products": "gemm cutlass nvjet xmma cublas addmm ::mm ::bmm matmul mkldnn_linear",
    "element-wise and reductions": "elementwise triton norm gelu softmax reduce index embedding dropout fill foreach "
    "multi_tensor_apply Functor aten::",
}
"""Words in names of kernels (cuBLAS, flash, NCCL, Triton) and operators, by kind; the first that fits counts."""

_FREE_NAMES = """
view reshape transpose t permute as_strided as_strided_ detach detach_ select slice narrow expand expand_as
squeeze unsqueeze unbind split split_with_sizes chunk flatten unflatten alias view_as _unsafe_view
_reshape_alias empty empty_like empty_strided new_empty new_empty_strided resize_ set_ lift_fresh is_pinned
result_type resolve_conj resolve_neg to contiguous item is_nonzero type_as ones_like linear matmul zeros
zeros_like new_zeros ones full cross_entropy_loss layer_norm dropout arange _has_compatible_shallow_copy_type
"""
_FREE = frozenset(_FREE_NAMES.split())
"""Operators that make another view of a tensor, ask for memory, or call others: a GPU launches nothing for them."""

_SYNCHRONISING = frozenset(("_local_scalar_dense", "nonzero", "equal", "_unique2", "masked_select"))
_BYTES = {
    "float": 4,
    "c10::BFloat16": 2,
    "c10::Half": 2,
    "double": 8,
    "long int": 8,
    "int": 4,
    "unsigned char": 1,
    "bool": 1,
}


def kind_of(name: str) -> str:
    """The kind that a kernel or operator of this name belongs to."""
    for kind, words in KINDS.items():
        if any(word.lower() in name.lower() for word in words.split()):
            return kind
    return "other"


@dataclass
class Anatomy:
    """What one step was made of.

    Attributes:
        milliseconds: time of each kind: of kernels where there are any (a GPU), else of the innermost operators.
        launches: kernels, or innermost operators that stand for them, by kind.
        gigabytes: bytes read and written by operators of each kind, from their arguments' shapes (an operator's result
            is taken to be as large as its largest argument); matrix products and attention are not counted.
        operators: how many of each operator, by name; for a GPU kernels by name.
        num_synchronisations: times that the host waits for the device.
        wall_milliseconds, idle_milliseconds: of the traced step; idle: no kernel runs (0 on a CPU).
    """

    milliseconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    launches: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    gigabytes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    operators: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    num_synchronisations: int = 0
    wall_milliseconds: float = 0.0
    idle_milliseconds: float = 0.0

    @property
    def num_launches(self) -> int:
        return sum(self.launches.values())

    def as_json(self) -> dict[str, Any]:
        return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(self).items()}


def start_profiler(device: torch.device) -> Any:
    """A running profiler of the operators and, on a GPU, of its kernels."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    profiler = profile(activities=activities, record_shapes=True)
    profiler.start()
    return profiler


def read_profiler(profiler: Any) -> Anatomy:
    """The anatomy of what a stopped profiler has seen."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        return read_trace(json.loads(file.read_text()))


def read_trace(trace: dict[str, Any]) -> Anatomy:
    """The anatomy of a Chrome trace as PyTorch's profiler writes it."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X" and "dur" in event]
    kernels = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    runtime = [event for event in events if event.get("cat") in ("cuda_runtime", "cuda_driver")]
    anatomy = Anatomy()
    everything = kernels + operators
    if everything:
        begin = min(event["ts"] for event in everything)
        anatomy.wall_milliseconds = (max(event["ts"] + event["dur"] for event in everything) - begin) / 1e3
    innermost = list(_innermost(operators))
    for event in innermost:
        kind, name = kind_of(event["name"]), event["name"].removeprefix("aten::")
        if name in _SYNCHRONISING and not kernels:
            anatomy.num_synchronisations += 1
        if kind not in ("matrix products", "attention"):
            anatomy.gigabytes[kind] += _bytes_of(event) / 1e9
        if not kernels:
            anatomy.milliseconds[kind] += event["dur"] / 1e3
            anatomy.launches[kind] += 1
            anatomy.operators[event["name"]] += 1
    for event in kernels:
        kind = kind_of(event["name"])
        anatomy.milliseconds[kind] += event["dur"] / 1e3
        anatomy.launches[kind] += 1
        anatomy.operators[event["name"][:80]] += 1
    if kernels:
        anatomy.idle_milliseconds = anatomy.wall_milliseconds - _busy(kernels) / 1e3
        anatomy.num_synchronisations = sum("Synchronize" in event["name"] for event in runtime)
    return anatomy


def _innermost(operators: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Operators that call none that would launch anything, and are no mere views; one with a list of tensors is one."""
    by_thread: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for event in operators:
        name = event["name"]
        if "::" in name and "autograd::" not in name and name.removeprefix("aten::") not in _FREE:
            by_thread[event["tid"]].append(event)
    for events in by_thread.values():
        # Parents come before their children: they begin earlier, or at the same time and last longer.
        events.sort(key=lambda event: (event["ts"], -event["dur"]))
        swallowed_until = -1.0
        for event, following in zip(events, [*events[1:], None], strict=True):
            if event["ts"] < swallowed_until:
                continue
            end = event["ts"] + event["dur"]
            if _is_one_launch(event["name"]):
                swallowed_until = end
                yield event
            elif following is None or following["ts"] >= end:
                yield event


def _is_one_launch(name: str) -> bool:
    """Operators that a GPU carries out in one kernel (or a few for many tensors), whatever they call on a CPU."""
    words = ("_foreach_", "_fused_", "scaled_dot_product", "varlen", "native_layer_norm")
    return name in _WHOLE or any(word in name for word in words)


_WHOLE = {f"aten::{name}" for name in ("addmm", "mm", "bmm", "baddbmm", "sum", "mean", "linalg_vector_norm")}


def _bytes_of(event: dict[str, Any]) -> float:
    """Bytes of an operator's tensor arguments, and of a result as large as the largest of them."""
    arguments = event.get("args", {})
    sizes = []
    for dimensions, kind in zip(arguments.get("Input Dims", []), arguments.get("Input type", []), strict=False):
        if kind == "TensorList":
            sizes.append(4 * sum(prod(item) for item in dimensions if isinstance(item, list)))
        elif kind in _BYTES and dimensions and all(isinstance(size, int) for size in dimensions):
            sizes.append(_BYTES[kind] * prod(dimensions))
    if "_fused_adam" in event["name"]:
        # It reads masters, gradients and both moments, and writes all but the gradients: seven passes over four lists.
        return sum(sizes) * 7 / 4
    return float(sum(sizes) + max(sizes, default=0))


def _busy(kernels: list[dict[str, Any]]) -> float:
    """Microseconds in which at least one kernel runs."""
    total, end = 0.0, float("-inf")
    for event in sorted(kernels, key=lambda event: event["ts"]):
        start, stop = event["ts"], event["ts"] + event["dur"]
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total

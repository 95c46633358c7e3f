"""The engine of phases that only score: whole copies of the model, one per process, or one spread over its devices."""

import gc
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import accelerate
import psutil
import torch
from accelerate.utils import get_balanced_memory, set_module_tensor_to_device
from torch import Tensor
from transformers.initialization import no_init_weights

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.interface import Engine, EngineRequest, GroupSettings, StateSource, fill
from xlt_scale.engines.world import World
from xlt_scale.modeling.headed_encoder import HeadedEncoder

# What a copy may take of the memory that is free: the rest is for the tokens of a forward pass.
_SHARE_OF_MEMORY = 0.7


def placement_of(request: EngineRequest) -> str:
    """Where a model that is only scored goes: 'replicated', 'spread' or 'sharded'; the same on every rank, collective.

    A copy on every device is fastest, as no parameter travels; a model that is too large for one is spread over the
    devices of a single process by `accelerate`, or sharded by the training engine when there are several processes.
    """
    wanted = request.options.scoring
    if wanted != "auto":
        return wanted
    fits = _num_bytes(request) <= _SHARE_OF_MEMORY * _free_bytes(request.world)
    if all(request.world.gather(fits)):
        return "replicated"
    has_several_devices = request.world.device.type == "cuda" and torch.cuda.device_count() > 1
    return "spread" if request.world.size == 1 and has_several_devices else "sharded"


def _num_bytes(request: EngineRequest) -> int:
    return sum(spec.numel for spec in request.parameters.values()) * _dtype(request).itemsize


def _free_bytes(world: World) -> int:
    if world.device.type == "cuda":
        return torch.cuda.mem_get_info(world.device)[0]
    return psutil.virtual_memory().available // world.size


def _dtype(request: EngineRequest) -> torch.dtype:
    return torch.bfloat16 if request.precision == "bf16" else torch.float32


class ReplicatedEngine(Engine):
    """Every process holds all parameters; nothing is trained, and forward passes do not communicate.

    Args:
        spread: place the layers on all devices of the process (`accelerate.dispatch_model`) instead of on one.
    """

    def __init__(self, request: EngineRequest, spread: bool = False) -> None:
        self.world, self._request = request.world, request
        with accelerate.init_empty_weights(include_buffers=False), no_init_weights():
            self._model: Any = HeadedEncoder(request.plan, request.heads)
        self._model.tie()
        dtype = _dtype(request)
        places = self._device_map(dtype) if spread else {"": request.world.device}
        for name, parameter in list(self._model.named_parameters()):
            value = torch.empty(parameter.shape, dtype=dtype, device="cpu" if spread else request.world.device)
            set_module_tensor_to_device(self._model, name, _place(name, places), value=value)
        self._model.tie()
        self._model.requires_grad_(False)
        if spread:
            self._model = accelerate.dispatch_model(self._model, places, force_hooks=True)
        else:
            self._model.to(request.world.device)
        self._parameters = dict(self._model.named_parameters())
        self.num_steps = 0

    def _device_map(self, dtype: torch.dtype) -> dict[str, Any]:
        whole = ["PreTrainedModel"] if not self._model.plan.num_layers else _layer_classes(self._model)
        memory = get_balanced_memory(self._model, dtype=dtype, no_split_module_classes=whole)
        return accelerate.infer_auto_device_map(self._model, memory, no_split_module_classes=whole, dtype=dtype)

    def forward(self, batch: MicroBatch, mode: str = "loss", layers: Sequence[int] = ()) -> Tensor:
        return self._model(batch, mode, layers)

    def parameter_range(self, name: str) -> tuple[int, int]:
        return 0, self._parameters[name].numel()

    @property
    def is_first_replica(self) -> bool:
        return self.world.is_main

    def quantises(self, key: str) -> bool:
        return self._request.precision == "bf16"

    def read_states(self, with_moments: bool) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._parameters.items():
            yield f"param/{name}", parameter.detach().view(-1).float()

    def _fill(self, source: StateSource, with_moments: bool) -> None:
        for name, parameter in self._parameters.items():
            fill(parameter.detach().view(-1), source, f"param/{name}", 0)

    def train(self, mode: bool = True) -> None:
        # Dropout stays off: nothing is trained here.
        self._model.train(False)

    def destroy(self) -> None:
        del self._model, self._parameters
        gc.collect()

    def backward(self, loss: Tensor, is_last: bool) -> NoReturn:
        raise AssertionError("a model that is only scored has no backward pass")

    def step(self, learning_rate: float) -> NoReturn:
        raise AssertionError("a model that is only scored has no optimiser")

    def group_settings(self) -> GroupSettings:
        return {}

    def _set_optimizer(self, groups: GroupSettings, num_steps: int) -> NoReturn:
        raise AssertionError("a model that is only scored has no optimiser")


def _layer_classes(model: HeadedEncoder) -> list[str]:
    """Classes of the encoder's layers, which a device holds whole: their residual connections stay inside."""
    names = getattr(model.encoder, "_no_split_modules", None) or []
    return [*names, *(type(head).__name__ for head in model.heads.values())]


def _place(name: str, places: dict[str, Any]) -> Any:
    """The device of a parameter: that of the longest prefix of its name in the map."""
    fitting = [prefix for prefix in places if not prefix or name == prefix or name.startswith(f"{prefix}.")]
    return places[max(fitting, key=len)]

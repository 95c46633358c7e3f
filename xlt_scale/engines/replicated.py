"""The engine of phases that only score: whole copies of the model, one per process, or one spread over its devices."""

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import accelerate
import torch
from accelerate.hooks import remove_hook_from_submodules
from accelerate.utils import compute_module_sizes, set_module_tensor_to_device
from torch import Tensor
from transformers.initialization import no_init_weights

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.interface import Engine, EngineRequest, GroupSettings, StateSource, fill
from xlt_scale.engines.placement import device_map, memory_of_devices
from xlt_scale.engines.replicas import OneReader, mesh_of_replicas
from xlt_scale.modeling.four_bit import FourBitLinear
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.layer_bodies import compile_layers

logger = logging.getLogger(__name__)


class ReplicatedEngine(Engine):
    """Every process holds all parameters, in the precision that it computes in; nothing is trained, and forward passes
    do not communicate.

    Rank 0 reads the weights and passes them on.

    Args:
        spread: place the layers on all devices of the process, and what does not fit there in the memory of the host,
            from where it is copied for each forward pass (`accelerate.dispatch_model`). Heads stay on the first device.
    """

    def __init__(self, request: EngineRequest, spread: bool = False) -> None:
        self.world, self._request = request.world, request
        self.num_steps = 0
        dtype, device = request.forward_dtype, request.world.device
        with accelerate.init_empty_weights(include_buffers=False), no_init_weights():
            self._model = HeadedEncoder(request.plan, request.heads)
        self._model.tie()
        if request.options.compile and not spread:
            compile_layers(self._model)
        self._places = self._spread(dtype) if spread else {}
        self._is_dispatched = False
        for name, parameter in list(self._model.named_parameters()):
            place = _place(name.removeprefix("encoder."), self._places, device)
            value = torch.empty(parameter.shape, dtype=dtype, device=place)
            # Without the precision it would be turned back into that of the empty model.
            set_module_tensor_to_device(self._model, name, place, value=value, dtype=dtype)
        self._model.tie()
        for name, buffer in list(self._model.named_buffers()):
            set_module_tensor_to_device(self._model, name, device, value=buffer)
        self._model.requires_grad_(False).eval()
        where = "spread over " + ", ".join(str(place) for place in dict.fromkeys(self._places.values()))
        logger.info("only scored: the model is %s", where if spread else "copied to every process")

    def _spread(self, dtype: torch.dtype) -> dict[str, Any]:
        heads = compute_module_sizes(self._model.heads, dtype=dtype)[""]
        return device_map(self._model.encoder, dtype, memory_of_devices(self.world, reserved=heads))

    def forward(self, batch: MicroBatch, mode: str = "loss", layers: Sequence[int] = ()) -> Tensor:
        if self._places and not self._is_dispatched:
            # Only now: weights that are copied for each pass have to be filled before.
            accelerate.dispatch_model(self._model.encoder, self._places, force_hooks=True)
            self._is_dispatched = True
        output: Tensor = self._model(batch, mode, layers)
        return output

    def _parameters(self) -> dict[str, Tensor]:
        """Every parameter with its values, wherever it lies."""
        if self._is_dispatched:
            remove_hook_from_submodules(self._model.encoder)
            self._is_dispatched = False
            self._model.tie()
        return {name: parameter.detach() for name, parameter in self._model.named_parameters()}

    def parameter_range(self, name: str) -> tuple[int, int]:
        return 0, self._request.parameters[name].numel

    @property
    def is_first_replica(self) -> bool:
        return self.world.is_main

    def quantises(self, key: str) -> bool:
        return self._request.forward_dtype != torch.float32

    def four_bit_weights(self) -> Mapping[str, FourBitLinear]:
        return {}

    def read_states(self, with_moments: bool) -> Iterator[tuple[str, Tensor]]:
        for name, values in self._parameters().items():
            yield f"param/{name}", values.view(-1).float()

    def _fill(self, source: StateSource, with_moments: bool) -> None:
        with OneReader(source, mesh_of_replicas(self.world)) as one_reader:
            for name, values in self._parameters().items():
                fill(values.view(-1), one_reader, f"param/{name}", 0)

    def train(self, mode: bool = True) -> None:
        # Dropout stays off: nothing is trained here.
        self._model.eval()

    def destroy(self) -> None:
        del self._model
        gc.collect()

    def backward(self, loss: Tensor, is_last: bool) -> NoReturn:
        raise AssertionError("a model that is only scored has no backward pass")

    def step(self, learning_rate: float) -> NoReturn:
        raise AssertionError("a model that is only scored has no optimiser")

    def group_settings(self) -> GroupSettings:
        return {}

    def _set_optimizer(self, groups: GroupSettings, num_steps: int) -> NoReturn:
        raise AssertionError("a model that is only scored has no optimiser")


def _place(name: str, places: Mapping[str, Any], otherwise: torch.device) -> Any:
    """The device of a parameter: that of the longest prefix of its name in the map."""
    fitting = [prefix for prefix in places if not prefix or name == prefix or name.startswith(f"{prefix}.")]
    return places[max(fitting, key=len)] if fitting else otherwise

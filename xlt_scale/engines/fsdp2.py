"""The FSDP2 engine: PyTorch's `fully_shard`, one group per encoder layer and one for the rest."""

import gc
from typing import Any

import accelerate
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.initialization import no_init_weights

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.interface import Engine, EngineRequest, adamw_arguments, named_groups
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.weights import WeightSource


class Fsdp2Engine(Engine):
    """fp32 shards are the parameters themselves; bf16 copies are gathered layer by layer.

    Built on the meta device, so that a rank allocates its shard only. One process with fp32 has nothing to shard and
    nothing to cast: there the wrapper is left out, which halves the time of a small model's step.
    """

    def __init__(self, request: EngineRequest) -> None:
        self.world = request.world
        self._request = request
        with accelerate.init_empty_weights(include_buffers=False), no_init_weights():
            self._model = HeadedEncoder(request.plan, request.heads)
        self._model.tie()
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(request.is_trained(name))
        if request.options.activation_checkpointing:
            self._model.checkpoint_activations()
        if request.world.size > 1 or request.precision == "bf16":
            self._shard(request)
        device = request.world.device
        self._model._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device))
        self._model.tie()
        self._parameters = dict(self._model.named_parameters())
        self._optimizer = torch.optim.AdamW(
            named_groups(request, self._parameters),  # type: ignore[arg-type]
            **adamw_arguments(request.phase),  # type: ignore[arg-type]
        )

    def _shard(self, request: EngineRequest) -> None:
        mesh = init_device_mesh(request.world.device.type, (request.world.size,))
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if request.precision == "bf16" else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        for layer in encoder_layers(self._model):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(self._model, mesh=mesh, mp_policy=policy)

    def forward(self, batch: MicroBatch, mode: str = "loss", layer: int | None = None) -> Tensor:
        return self._model(batch, mode, layer)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> Tensor:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        clipping = self._request.phase.gradient_clipping or float("inf")
        trained = [parameter for parameter in self._parameters.values() if parameter.requires_grad]
        for parameter in trained:
            # Some encoders have parameters that no forward pass uses (XLNet). They decay all the same, as under ZeRO-3.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(trained, clipping)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def parameter_range(self, name: str) -> tuple[int, int]:
        parameter: Any = self._parameters[name]
        if not isinstance(parameter, DTensor):
            return 0, parameter.numel()
        # torch.chunk's rule: rows are split in pieces of ceil(rows / world), the last ones shorter or empty.
        width = parameter.numel() // parameter.shape[0]
        piece = -(-parameter.shape[0] // self.world.size)
        first = min(self.world.rank * piece, parameter.shape[0])
        return first * width, first * width + parameter.to_local().numel()

    def read_parameter(self, name: str) -> Tensor:
        return _local(self._parameters[name])

    def _fill(self, source: WeightSource) -> None:
        if isinstance(self._model, FSDPModule):
            # A forward pass without a backward one, as in evaluation, leaves the outermost group gathered: the next one
            # would compute with those old values.
            self._model.reshard()
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                start, stop = self.parameter_range(name)
                if stop > start:
                    _local(parameter).copy_(source.read(name, start, stop))

    def train(self, mode: bool = True) -> None:
        self._model.train(mode)

    def destroy(self) -> None:
        del self._model, self._optimizer, self._parameters
        gc.collect()  # hooks and modules hold each other


def _local(parameter: nn.Parameter) -> Tensor:
    """The rank's own elements as a flat view."""
    data = parameter.detach()
    return (data.to_local() if isinstance(data, DTensor) else data).view(-1)


def encoder_layers(model: HeadedEncoder) -> nn.ModuleList:
    """The encoder's stack of layers, found by its length; empty where layers share their parameters (ALBERT)."""
    for module in model.encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.plan.num_layers:
            return module
    return nn.ModuleList()

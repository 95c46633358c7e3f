"""The FSDP2 engine: PyTorch's `fully_shard`, one group per encoder layer and one for the rest."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import accelerate
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers.initialization import no_init_weights

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.four_bit_weights import filling_four_bit
from xlt_scale.engines.gradient_sums import GradientSums
from xlt_scale.engines.interface import MOMENTS, Engine, EngineRequest, GroupSettings, StateSource, fill
from xlt_scale.engines.module_boundaries import sum_gradients_by_module
from xlt_scale.engines.moments import Moments
from xlt_scale.engines.optimizer import build_optimizer, named_groups, prepare_step, read_settings, write_settings
from xlt_scale.engines.own_elements import own_elements
from xlt_scale.engines.portions import Part, PortionedOptimizer, divides_gradients, leave_division_to
from xlt_scale.engines.replicas import OneReader, count_replicas
from xlt_scale.engines.working_copy import WorkingCopy, keeps_gathered
from xlt_scale.modeling.adapters import four_bit_layers
from xlt_scale.modeling.float8 import use_float8
from xlt_scale.modeling.four_bit import FourBitLinear
from xlt_scale.modeling.layer_bodies import encoder_layers, prepare_layers


class Fsdp2Engine(Engine):
    """fp32 shards are the parameters themselves; bf16 copies are gathered layer by layer.

    Built on the meta device, so that a rank allocates its shard only. One process has nothing to shard, so the wrapper
    is left out: fp32 needs none, and bf16 weights are kept beside the fp32 ones (`WorkingCopy`) where memory allows.
    Without masters ('bf16_stochastic') the shards themselves are bf16.
    """

    def __init__(self, request: EngineRequest) -> None:
        self.world = request.world
        self._request = request
        with accelerate.init_empty_weights(include_buffers=False), no_init_weights():
            self._model = request.build_model()
        self._model.tie()
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(request.is_trained(name))
            if request.is_borrowed(name) or request.has_no_master(name):
                parameter.data = parameter.data.to(request.forward_dtype)
        if request.options.float8:
            use_float8(self._model.encoder, request.precision, request.world.device)
        prepare_layers(self._model, request.options)
        if request.options.repeatable:
            sum_gradients_by_module(self._model)
        keeps, offloads = keeps_gathered(request), request.options.offload == "optimizer"
        is_alone = request.world.size == 1 and not offloads and (request.precision != "bf16" or keeps)
        self._mesh: DeviceMesh | None = None
        if not is_alone:
            self._mesh = _make_mesh(request)
            self._shard(self._mesh if self._mesh.size(0) > 1 else self._mesh["shard"], keeps)
        device = torch.device("cpu") if offloads else request.world.device
        self._model._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(request.world.device))
        self._model.tie()
        self._parameters = dict(self._model.named_parameters())
        self._working_copy: WorkingCopy | None = None
        weights = self._parameters
        if is_alone and request.precision != "fp32":
            self._working_copy = WorkingCopy(self._model)
            self._parameters = self._working_copy.masters
        self._trained = [name for name in self._parameters if request.is_trained(name)]
        # The optimiser steps plain tensors: its kernels take no others, or go a long way round for each.
        self._stepped = {name: nn.Parameter(own_elements(self._parameters[name])) for name in self._trained}
        self._sums: GradientSums | None = None
        if request.without_masters or self._working_copy is not None:
            self._sums = GradientSums({name: weights[name] for name in self._trained}, by_hooks=is_alone)
        groups = named_groups(request, self._stepped)
        self._optimizer = build_optimizer(request, groups, in_portions=self._sums is not None)
        if isinstance(self._optimizer, PortionedOptimizer):
            for name, plain in self._stepped.items():
                start, stop = self.parameter_range(name)
                self._optimizer.describe(plain, [Part(name, 0, stop - start, start)])
        self._moments = Moments(self._optimizer)
        self.num_steps = 0

    def _shard(self, mesh: DeviceMesh, keeps_gathered: bool) -> None:
        request = self._request
        options: dict[str, Any] = {"mesh": mesh}
        options["mp_policy"] = MixedPrecisionPolicy(
            param_dtype=None if request.precision == "fp32" else torch.bfloat16,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        if request.options.offload == "optimizer":
            options["offload_policy"] = CPUOffloadPolicy(pin_memory=request.world.device.type == "cuda")
        for layer in encoder_layers(self._model):
            fully_shard(layer, reshard_after_forward=not keeps_gathered, **options)
        fully_shard(self._model, **options)

    def forward(self, batch: MicroBatch, mode: str = "loss", layers: Sequence[int] = ()) -> Tensor:
        return self._model(batch, mode, layers)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        if self._sums is None:
            loss.backward()
        else:
            self._sums.backward(loss, is_last)

    def step(self, learning_rate: float) -> Tensor:
        gradients = self._gradients()
        norm = self._clip(list(gradients.values()))
        self._hand_over(gradients)
        prepare_step(self._optimizer, learning_rate, self.num_steps)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._sums is not None:
            self._sums.clear()
        for name in self._trained:
            self._parameters[name].grad = None
        if self._working_copy is not None:
            self._working_copy.refresh()
        self.num_steps += 1
        return norm

    def _gradients(self) -> dict[str, Tensor]:
        """This rank's elements of all gradients, flat. Some encoders have parameters that no forward pass uses (XLNet).
        They decay all the same, as under ZeRO-3.
        """
        if self._sums is not None:
            return {name: self._sums.gradient(name) for name in self._trained}
        for name in self._trained:
            parameter = self._parameters[name]
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return {name: own_elements(self._parameters[name].grad) for name in self._trained}

    def _clip(self, gradients: list[Tensor]) -> Tensor:
        """Scale the gradients down to the phase's norm; the norm before.

        In fp64 and by ZeRO-3's formula: the norm's last bits decide those of every weight, and in fp32 they depend on
        how parameters are cut.
        """
        norms = torch._foreach_norm(gradients, 2, dtype=torch.float64)
        squares = torch.stack(norms).square().sum().to(self.world.device)
        if self._mesh is not None and self._mesh.size(-1) > 1:
            dist.all_reduce(squares, group=self._mesh.get_group("shard"))
        norm = squares.sqrt()
        clipping = self._request.phase.gradient_clipping
        if clipping:
            excess = ((norm + 1e-6) / clipping).clamp(min=1.0).to(gradients[0].device)
            if divides_gradients(self._optimizer):
                leave_division_to(self._optimizer, excess)
            else:
                torch._foreach_mul_(gradients, 1.0 / excess)
        return norm

    def _hand_over(self, gradients: dict[str, Tensor]) -> None:
        """Give the plain tensors that are stepped the shards' storage and gradients."""
        for name, plain in self._stepped.items():
            plain.data = own_elements(self._parameters[name])
            if isinstance(self._optimizer, PortionedOptimizer):
                self._optimizer.hand_over(plain, gradients[name])
            else:
                plain.grad = gradients[name] if plain.numel() else None

    def parameter_range(self, name: str) -> tuple[int, int]:
        parameter: Any = self._parameters[name]
        if self._mesh is None:
            return 0, parameter.numel()
        # torch.chunk's rule: rows are split in pieces of ceil(rows / shards), the last ones shorter or empty.
        width = parameter.numel() // parameter.shape[0]
        piece = -(-parameter.shape[0] // self._mesh.size(-1))
        first = min(self._mesh.get_local_rank("shard") * piece, parameter.shape[0])
        return first * width, first * width + parameter.to_local().numel()

    @property
    def is_first_replica(self) -> bool:
        return self._mesh is None or self._mesh.get_local_rank("replicate") == 0

    def four_bit_weights(self) -> Mapping[str, FourBitLinear]:
        return dict(four_bit_layers(self._model))

    def read_states(self, with_moments: bool) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._parameters.items():
            values = own_elements(parameter)
            if not values.numel() or self._request.is_borrowed(name):
                continue
            yield f"param/{name}", values.float()
            if with_moments and name in self._stepped:
                for kind in MOMENTS:
                    yield f"{kind}/{name}", self._moments.read(self._stepped[name], kind)

    def group_settings(self) -> GroupSettings:
        return read_settings(self._optimizer)

    def _fill(self, source: StateSource, with_moments: bool) -> None:
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                # A forward pass without a backward one, as in evaluation, leaves groups gathered: the next one would
                # compute with those old values.
                module.reshard()
        group_of = {id(member): group for group in self._optimizer.param_groups for member in group["params"]}
        four_bit = filling_four_bit(self._model, source, self.world)
        with torch.no_grad(), four_bit, OneReader(source, self._mesh) as one_reader:
            for name, parameter in self._parameters.items():
                start, stop = self.parameter_range(name)
                # What is borrowed has come from the parent before, and no checkpoint of the phase has it.
                if stop == start or (self._request.is_borrowed(name) and not source.has(f"param/{name}")):
                    continue
                fill(own_elements(parameter), one_reader, f"param/{name}", start)
                if with_moments and name in self._stepped:
                    stepped = self._stepped[name]
                    for kind in MOMENTS:
                        with self._moments.written(stepped, kind, group_of[id(stepped)]) as values:
                            fill(values, one_reader, f"{kind}/{name}", start)
        if self._working_copy is not None:
            self._working_copy.refresh()

    def _set_optimizer(self, groups: GroupSettings, num_steps: int) -> None:
        write_settings(self._optimizer, groups)
        self._moments.set_step(num_steps)
        self.num_steps = num_steps

    def train(self, mode: bool = True) -> None:
        self._model.train(mode)

    def destroy(self) -> None:
        del self._model, self._optimizer, self._parameters, self._stepped, self._moments, self._working_copy, self._sums
        gc.collect()  # hooks and modules hold each other


def _make_mesh(request: EngineRequest) -> DeviceMesh:
    """Ranks by replica and shard: neighbouring ranks, which share a node, share a replica."""
    world, replicas = request.world, count_replicas(request.options.replicas, request.world)
    return init_device_mesh(
        world.device.type, (replicas, world.size // replicas), mesh_dim_names=("replicate", "shard")
    )

"""The ZeRO-3 engine: DeepSpeed (Rajbhandari et al. 2020), parameters partitioned from the moment they are made."""

import contextlib
import copy
import gc
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers.initialization import no_init_weights

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.cluster_settings import fit_to_cluster
from xlt_scale.engines.compiled_ops import build_compiled_ops
from xlt_scale.engines.deepspeed_config import DEFAULT_FILE, deepspeed_settings
from xlt_scale.engines.exact_buffers import restore_buffers
from xlt_scale.engines.four_bit_weights import filling_four_bit
from xlt_scale.engines.interface import MOMENTS, Engine, EngineRequest, GroupSettings, StateSource, fill
from xlt_scale.engines.moments import Moments
from xlt_scale.engines.optimizer import build_optimizer, named_groups, prepare_step, read_settings, write_settings
from xlt_scale.engines.portions import Part, PortionedOptimizer
from xlt_scale.engines.swap_folder import SwapFolder
from xlt_scale.engines.working_copy import keeps_gathered
from xlt_scale.errors import UserError
from xlt_scale.modeling.adapters import four_bit_layers
from xlt_scale.modeling.float8 import use_float8
from xlt_scale.modeling.four_bit import FourBitLinear
from xlt_scale.modeling.layer_bodies import encoder_layers, prepare_layers

_RELEASE_AFTER = ("stage3_max_live_parameters", "stage3_max_reuse_distance")
_NEVER = 10**15


class Zero3Engine(Engine):
    """A partition of every parameter in the forward precision, and one in fp32 with the optimiser's states; without
    masters ('bf16_stochastic') that one is in bf16 too.
    """

    def __init__(self, request: EngineRequest) -> None:
        deepspeed = _import_deepspeed(request.world.device.type)
        self.world = request.world
        self._request = request
        settings = deepspeed_settings(request.options, request.phase, request.precision, request.world.size)
        file = Path(request.options.deepspeed_config or DEFAULT_FILE)
        fit_to_cluster(settings, file, request.world)
        if keeps_gathered(request) and not request.options.deepspeed_config:
            settings["zero_optimization"] |= dict.fromkeys(_RELEASE_AFTER, _NEVER)
        _check_settings(deepspeed, settings, file)
        self._swap: SwapFolder | None = None
        offload = settings["zero_optimization"].get("offload_optimizer", {})
        if offload.get("device") == "nvme":
            _build_asynchronous_io()
            num_parameters = sum(spec.numel for name, spec in request.parameters.items() if request.is_trained(name))
            share = -(-num_parameters // request.world.size)
            self._swap = SwapFolder(offload.get("nvme_path", "auto"), file, share, request.world)
            offload["nvme_path"] = str(self._swap.path)
        self._linear = torch.nn.functional.linear
        with no_init_weights(), deepspeed.zero.Init(config_dict_or_path=settings):
            model = request.build_model()
        model.tie()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(request.is_trained(name))
        if request.options.float8:
            use_float8(model.encoder, request.precision, request.world.device)
        prepare_layers(model, request.options)
        if not request.options.repeatable:
            # A layer is gathered at once, by one hook in place of one for each of its modules: the host's time for
            # hooks is what small batches wait for. It changes the order in which gradients are added up.
            for layer in encoder_layers(model):
                deepspeed.utils.set_z3_leaf_module(layer, True)
        if request.phase.adapter is not None:
            # DeepSpeed takes a module's parameters away before they get their gradients where none of its inputs does.
            model.encoder.enable_input_require_grads()
        self._parameters: dict[str, Any] = dict(model.named_parameters())
        groups = named_groups(request, self._parameters)
        self._optimizer = build_optimizer(request, groups, in_portions=request.without_masters)
        self._moments = Moments(self._optimizer)
        self.num_steps = 0
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=self._optimizer, config=settings, dist_init_required=False
        )
        restore_buffers(model, request)
        if isinstance(self._optimizer, PortionedOptimizer):
            for _, flat, members in self._sub_groups():
                parts = [(name, begin, length, self.parameter_range(name)[0]) for name, begin, length in members]
                self._optimizer.describe(flat, [Part(*part) for part in parts])
        # Frozen parameters have no fp32 master in DeepSpeed: their exact values are kept here, so that they do not come
        # back rounded to bf16. Borrowed ones never come back.
        self._frozen: dict[str, Tensor] = {}

    def forward(self, batch: MicroBatch, mode: str = "loss", layers: Sequence[int] = ()) -> Tensor:
        return self._engine(batch, mode, layers)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> Tensor:
        prepare_step(self._optimizer, learning_rate, self.num_steps)
        self._engine.step()
        self.num_steps += 1
        return torch.as_tensor(self._engine.get_global_grad_norm())

    def parameter_range(self, name: str) -> tuple[int, int]:
        parameter = self._parameters[name]
        piece = parameter.ds_tensor.numel()
        start = min(self.world.rank * piece, parameter.ds_numel)
        return start, min(start + piece, parameter.ds_numel)

    def four_bit_weights(self) -> Mapping[str, FourBitLinear]:
        return dict(four_bit_layers(self._engine.module))

    def read_states(self, with_moments: bool) -> Iterator[tuple[str, Tensor]]:
        for name, values in self._frozen.items():
            if values.numel():
                yield f"param/{name}", values
        for number, flat, members in self._sub_groups():
            with self._swapped_in(number, write_back=False):
                for name, begin, length in members:
                    if length:
                        yield f"param/{name}", flat.data[begin : begin + length].float()
                if not with_moments:
                    continue
                for kind in MOMENTS:
                    for name, begin, length in members:
                        if length:
                            yield f"{kind}/{name}", self._moments.read(flat, kind, begin, begin + length)

    def group_settings(self) -> GroupSettings:
        return read_settings(self._optimizer)

    def _fill(self, source: StateSource, with_moments: bool) -> None:
        # Masters are set between DeepSpeed's own brackets around a checkpoint; the forward weights are then refreshed
        # by hand, since setting a master does not touch them.
        self._engine.optimizer.checkpoint_event_prologue()
        try:
            with torch.no_grad(), filling_four_bit(self._engine.module, source, self.world):
                self._fill_frozen(source)
                for number, flat, members in self._sub_groups():
                    with self._swapped_in(number, write_back=True):
                        self._fill_sub_group(source, number, flat, members, with_moments)
        finally:
            self._engine.optimizer.checkpoint_event_epilogue()
            self._drop_secondary_copies()

    def _drop_secondary_copies(self) -> None:
        """Let the next forward pass make the second copies of a hierarchical partition anew.

        DeepSpeed does so after a step, and after loading for the parameters that are trained. Those of frozen ones
        are made before they have values, and it would keep them.
        """
        for parameter in self._parameters.values():
            parameter.ds_secondary_tensor = None

    def _fill_frozen(self, source: StateSource) -> None:
        for name, parameter in self._parameters.items():
            if not parameter.requires_grad:
                start, stop = self.parameter_range(name)
                if self._request.is_borrowed(name):
                    if source.has(f"param/{name}"):
                        fill(parameter.ds_tensor.data[: stop - start], source, f"param/{name}", start)
                    continue
                self._frozen[name] = torch.empty(stop - start, device=self.world.device)
                fill(self._frozen[name], source, f"param/{name}", start)
                parameter.ds_tensor.data[: stop - start].copy_(self._frozen[name])

    def _fill_sub_group(
        self, source: StateSource, number: int, flat: Tensor, members: list[tuple[str, int, int]], with_moments: bool
    ) -> None:
        for name, begin, length in members:
            part = flat.data[begin : begin + length]
            fill(part, source, f"param/{name}", self.parameter_range(name)[0])
            self._parameters[name].ds_tensor.data[:length].copy_(part)
        if not with_moments:
            return
        group = self._optimizer.param_groups[self._engine.optimizer.sub_group_to_group_id[number]]
        for kind in MOMENTS:
            with self._moments.written(flat, kind, group) as moment:
                for name, begin, length in members:
                    fill(moment[begin : begin + length], source, f"{kind}/{name}", self.parameter_range(name)[0])

    def _sub_groups(self) -> Iterator[tuple[int, Tensor, list[tuple[str, int, int]]]]:
        """Each flat tensor that the optimiser steps, and what lies in it: (parameter name, begin, length without the
        partition's padding).
        """
        optimizer = self._engine.optimizer
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        for number, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
            members = []
            for parameter in optimizer.fp16_groups[number]:
                name = names[id(parameter)]
                _, begin, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
                start, stop = self.parameter_range(name)
                members.append((name, begin, stop - start))
            yield number, flat, members

    @contextlib.contextmanager
    def _swapped_in(self, number: int, write_back: bool) -> Iterator[None]:
        """A sub-group whose states are on NVMe is in memory inside, once for all of its parameters."""
        optimizer = self._engine.optimizer
        if not optimizer._swappable_optimizer_subgroup(number):
            yield
            return
        optimizer._optimizer_states_and_gradient_swap_in(number)
        try:
            yield
        finally:
            if write_back:
                optimizer._optimizer_states_and_gradient_swap_out(number)
            else:
                optimizer._release_swap_buffers(number)

    def _set_optimizer(self, groups: GroupSettings, num_steps: int) -> None:
        write_settings(self._optimizer, groups)
        self._moments.set_step(num_steps)
        self._engine.global_steps = num_steps
        self._engine.global_samples = num_steps * self._engine.train_batch_size()
        self._engine.micro_steps = num_steps * self._engine.gradient_accumulation_steps()
        self.num_steps = num_steps

    def train(self, mode: bool = True) -> None:
        self._engine.train(mode)

    def destroy(self) -> None:
        # Lists and caches in DeepSpeed's modules go on holding an engine's objects. So the memory is taken from under
        # them, or the next phase would find it full.
        parameters = [(parameter, vars(parameter)) for parameter in self._parameters.values()]
        held = [vars(self._engine.optimizer), self._moments.states, parameters]
        self._engine.destroy()
        _end_hierarchical_groups()
        if self._swap is not None:
            self._swap.remove()
        # DeepSpeed has put its own in its place.
        torch.nn.functional.linear = self._linear
        for tensor in _tensors_in(held):
            if tensor.untyped_storage().resizable():
                tensor.untyped_storage().resize_(0)
        del self._engine, self._optimizer, self._parameters, self._frozen, self._moments
        gc.collect()


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dictionaries, keys included, with their gradients."""
    if isinstance(value, Tensor):
        yield value
        if value.is_leaf and value.grad is not None:
            yield value.grad
    elif isinstance(value, dict):
        for item in value.items():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)


def _end_hierarchical_groups() -> None:
    """DeepSpeed keeps the groups of a hierarchical partition for ever, and refuses to make them for a second engine."""
    from deepspeed.utils import groups

    group = groups._ZERO_PARAM_INTRA_PARALLEL_GROUP
    if group is not None:
        groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None
        dist.destroy_process_group(group)


def _check_settings(deepspeed: Any, settings: dict[str, Any], file: Path) -> None:
    """DeepSpeed's own opinion of its settings, in one line."""
    try:
        deepspeed.DeepSpeedConfig(copy.deepcopy(settings))
    except Exception as error:  # it answers with assertions, its own kinds and pydantic's
        reason = "; ".join(line.strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line)
        raise UserError(f"{file}: DeepSpeed refuses it: {reason}; mend or remove the key") from None


def _build_asynchronous_io() -> None:
    """DeepSpeed's op for reading and writing swap files, compiled by one rank while the others wait."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise UserError(
            'offload_optimizer.device = "nvme" needs libaio; on Debian or Ubuntu: apt-get install libaio-dev'
        )
    build_compiled_ops(["AsyncIOBuilder"])


def _import_deepspeed(device: str) -> Any:
    """DeepSpeed, checked and joined to the process group that PyTorch already has. Collective the first time."""
    from xlt_scale.engines.requirements_check import check_deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    check_deepspeed()
    if device == "cpu":
        build_compiled_ops()
    import deepspeed

    # DeepSpeed's collectives go by names that newer versions of PyTorch warn about, at every call.
    for name in ("all_gather_into_tensor", "reduce_scatter_tensor"):
        warnings.filterwarnings("ignore", rf".*torch\.distributed\.{name}. is deprecated", FutureWarning)
    if not deepspeed.comm.is_initialized():
        with contextlib.redirect_stdout(io.StringIO()):  # every rank prints that an op was built, built or not
            deepspeed.init_distributed(dist_backend="gloo" if device == "cpu" else "nccl", verbose=False)
        _remove_names_of_shared_memory()
    return deepspeed


def _remove_names_of_shared_memory() -> None:
    """DeepSpeed's CPU collectives leave 69 MB a rank in /dev/shm; without a name they go with their last user.

    Collective: a name is needed until all ranks have opened what it names.
    """
    dist.barrier()
    place = "_".join(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"))
    Path(f"/dev/shm/deepspeed_allreduce_buffer_{os.getuid()}_{place}").unlink(missing_ok=True)

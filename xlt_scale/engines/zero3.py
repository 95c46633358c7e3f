"""The ZeRO-3 engine: DeepSpeed (Rajbhandari et al. 2020), parameters partitioned from the moment they are made."""

import contextlib
import copy
import gc
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.deepspeed_config import DEFAULT_FILE, deepspeed_settings
from xlt_scale.engines.interface import Engine, EngineRequest, adamw_arguments, named_groups
from xlt_scale.errors import UserError
from xlt_scale.modeling.headed_encoder import HeadedEncoder
from xlt_scale.modeling.weights import WeightSource


class Zero3Engine(Engine):
    """A partition of every parameter in the forward precision, and one in fp32 with the optimiser's states."""

    def __init__(self, request: EngineRequest) -> None:
        deepspeed = _import_deepspeed(request.world.device.type)
        self.world = request.world
        self._request = request
        settings = deepspeed_settings(request.options, request.phase, request.precision, request.world.size)
        _check_settings(deepspeed, settings, request.options.deepspeed_config)
        with no_init_weights(), deepspeed.zero.Init(config_dict_or_path=settings):
            model = HeadedEncoder(request.plan, request.heads)
        model.tie()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(request.is_trained(name))
        if request.options.activation_checkpointing:
            model.checkpoint_activations()
        self._parameters: dict[str, Any] = dict(model.named_parameters())
        self._optimizer = torch.optim.AdamW(
            named_groups(request, self._parameters),  # type: ignore[arg-type]
            **adamw_arguments(request.phase),  # type: ignore[arg-type]
        )
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=self._optimizer, config=settings, dist_init_required=False
        )
        # Frozen parameters have no fp32 master in DeepSpeed: their exact values are kept here, so that they do not come
        # back rounded to bf16.
        self._frozen: dict[str, Tensor] = {}

    def forward(self, batch: MicroBatch, mode: str = "loss", layer: int | None = None) -> Tensor:
        return self._engine(batch, mode, layer)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> Tensor:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return torch.as_tensor(self._engine.get_global_grad_norm())

    def parameter_range(self, name: str) -> tuple[int, int]:
        parameter = self._parameters[name]
        piece = parameter.ds_tensor.numel()
        start = min(self.world.rank * piece, parameter.ds_numel)
        return start, min(start + piece, parameter.ds_numel)

    def read_parameter(self, name: str) -> Tensor:
        if name in self._frozen:
            return self._frozen[name]
        from deepspeed.utils import safe_get_local_fp32_param

        start, stop = self.parameter_range(name)
        return safe_get_local_fp32_param(self._parameters[name])[: stop - start]

    def _fill(self, source: WeightSource) -> None:
        from deepspeed.utils import safe_set_local_fp32_param

        # Masters are set between DeepSpeed's own brackets around a checkpoint; the forward weights are then refreshed
        # by hand, since setting a master does not touch them.
        self._engine.optimizer.checkpoint_event_prologue()
        try:
            for name, parameter in self._parameters.items():
                start, stop = self.parameter_range(name)
                values = torch.zeros(parameter.ds_tensor.numel())
                if stop > start:
                    values[: stop - start] = source.read(name, start, stop)
                if parameter.requires_grad:
                    safe_set_local_fp32_param(parameter, values.to(self.world.device))
                else:
                    self._frozen[name] = values[: stop - start].clone()
                parameter.ds_tensor.data.copy_(values)
        finally:
            self._engine.optimizer.checkpoint_event_epilogue()

    def train(self, mode: bool = True) -> None:
        self._engine.train(mode)

    def destroy(self) -> None:
        # Lists and caches in DeepSpeed's modules go on holding an engine's objects. So the memory is taken from under
        # them, or the next phase would find it full.
        parameters = [(parameter, vars(parameter)) for parameter in self._parameters.values()]
        held = [vars(self._engine.optimizer), self._optimizer.state, parameters]
        self._engine.destroy()
        for tensor in _tensors_in(held):
            if tensor.untyped_storage().resizable():
                tensor.untyped_storage().resize_(0)
        del self._engine, self._optimizer, self._parameters, self._frozen
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


def _check_settings(deepspeed: Any, settings: dict[str, Any], file: str) -> None:
    """DeepSpeed's own opinion of its settings, in one line."""
    try:
        deepspeed.DeepSpeedConfig(copy.deepcopy(settings))
    except Exception as error:  # it answers with assertions, its own kinds and pydantic's
        reason = "; ".join(line.strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line)
        raise UserError(f"{file or DEFAULT_FILE}: DeepSpeed refuses it: {reason}; mend or remove the key") from None


def _import_deepspeed(device: str) -> Any:
    """DeepSpeed, checked and joined to the process group that PyTorch already has. Collective the first time."""
    from xlt_scale.engines.compiled_ops import build_compiled_ops
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
    return deepspeed

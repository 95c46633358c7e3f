"""AdamW over named groups, and its states as fp32 whatever the bits they are kept in."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xlt_scale.engines.interface import MOMENTS, EngineRequest, GroupSettings
from xlt_scale.errors import UserError

_SETTINGS = ("lr", "weight_decay", "betas", "eps")
_BLOCK = 256  # bitsandbytes' blockwise quantisation: elements that share a scale
_SMALLEST_IN_8_BITS = 4096
_PIECE = 1 << 22


def named_groups(request: EngineRequest, parameters: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Optimiser groups by name: weight decay on matrices, none on biases and norms. Frozen parameters are in none.

    With 8-bit states matrices are a group of their own; embeddings, biases and norms keep 32 bits (Dettmers et al.
    2022, 8-bit Optimizers via Block-wise Quantization, section 2.3).
    """
    members: dict[str, list[nn.Parameter]] = {"decay": [], "decay_in_8_bits": [], "no_decay": []}
    for name, parameter in parameters.items():
        if request.is_trained(name):
            kind = "decay" if request.parameters[name].decays else "no_decay"
            members["decay_in_8_bits" if request.has_small_moments(name) else kind].append(parameter)
    return [
        {
            "name": name,
            "params": found,
            "weight_decay": 0.0 if name == "no_decay" else request.phase.weight_decay,
            "bits": 8 if name == "decay_in_8_bits" else 32,
        }
        for name, found in members.items()
        if found
    ]


def build_optimizer(request: EngineRequest, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) as the phase wants it.

    The fused kernel on CPUs rounds the last elements of a tensor in another way than the others, so its result depends
    on how parameters are cut: where that matters, the plain one is taken.
    """
    phase = request.phase
    if phase.optimizer == "adamw_8bit":
        is_paged = request.options.offload == "paged"
        if is_paged and request.world.device.type != "cuda":
            raise UserError(
                "engine.offload = 'paged' needs a GPU, whose driver moves the pages; use 'none' or 'optimizer'"
            )
        settings = {"lr": phase.learning_rate, "betas": phase.betas, "eps": phase.epsilon}
        return _adamw_8bit()(groups, is_paged=is_paged, **settings)
    if request.options.offload == "paged":
        raise UserError(
            f"engine.offload = 'paged' is for 8-bit states, but phase {phase.name!r} has optimizer = 'adamw'; "
            "use optimizer = 'adamw_8bit', or offload = 'optimizer'"
        )
    is_fused = not request.options.repeatable
    return torch.optim.AdamW(groups, lr=phase.learning_rate, betas=phase.betas, eps=phase.epsilon, fused=is_fused)


def divides_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimiser's kernel can divide gradients on its way, so that clipping needs no pass of its own."""
    return isinstance(optimizer, torch.optim.AdamW) and bool(optimizer.defaults["fused"])


def leave_division_to(optimizer: torch.optim.Optimizer, divisor: Tensor) -> None:
    """Have the next step divide all gradients by a scalar, which stays on the device."""
    # The way in which torch.amp's gradient scaler hands its scale to fused optimisers.
    found: Any = optimizer
    found.grad_scale = divisor.float()


def _adamw_8bit() -> Any:
    # It says at its import which of its kernels for inference are not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes

    class AdamWWithBitsByGroup(bitsandbytes.optim.AdamW):
        """bitsandbytes' AdamW; each group says how many bits its states have."""

        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            # Its own looks a parameter up by its place in the group, where ZeRO-3 keeps none between steps.
            return {
                **{key: group[key] for key in _SETTINGS},
                "alpha": 0.0,
                "t_alpha": None,
                "t_beta3": None,
                "max_unorm": 0.0,
                "skip_zeros": False,
                "optim_bits": group["bits"],
                "min_8bit_size": _SMALLEST_IN_8_BITS,
            }

    return AdamWWithBitsByGroup


def read_settings(optimizer: torch.optim.Optimizer) -> GroupSettings:
    """The hyper-parameters of each group by its name, as JSON can hold them."""
    settings = {group["name"]: {key: group[key] for key in _SETTINGS} for group in optimizer.param_groups}
    return {name: found | {"betas": list(found["betas"])} for name, found in settings.items()}


def write_settings(optimizer: torch.optim.Optimizer, settings: GroupSettings) -> None:
    """Set the hyper-parameters of the groups of these names."""
    for group in optimizer.param_groups:
        found = settings[group["name"]]
        group.update({key: found[key] for key in _SETTINGS} | {"betas": tuple(found["betas"])})


class Moments:
    """The moments that an AdamW keeps of the tensors it steps, read and written as flat fp32.

    8-bit states are given back as code x scale, and quantised again when they are written. An element of the lowest
    code, -0.993, is given as -1 x scale: that is what the block's largest element was, and what makes quantising the
    same block again give the same codes and scale to the bit. In blocks cut elsewhere an element moves by at most one
    step of the code.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer: Any = optimizer

    def read(self, tensor: Tensor, kind: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements [start, stop) of a moment; zeros before the first step. Do not write into it."""
        state = self._optimizer.state.get(tensor, {})
        stored = state.get(kind if kind in state else _BITSANDBYTES[kind])
        if stored is None:
            return torch.zeros_like(_flat(tensor)[start:stop])
        if stored.dtype != torch.uint8:
            return _flat(stored)[start:stop]
        return _dequantise(state, _NUMBER[kind], start, stored.numel() if stop is None else stop)

    @contextlib.contextmanager
    def written(self, tensor: Tensor, kind: str, group: dict[str, Any]) -> Iterator[Tensor]:
        """A flat fp32 tensor to fill with a moment, on whichever device; taken over when the block ends."""
        state = self._optimizer.state[tensor]
        if not state:
            self._create(tensor, group)
            state = self._optimizer.state[tensor]
        stored = state.get(kind if kind in state else _BITSANDBYTES[kind])
        if stored.dtype != torch.uint8:
            yield _flat(stored)
            return
        # On the CPU: a device that is full of 8-bit states has no room for the same in 32.
        values = torch.zeros(stored.numel())
        yield values
        _quantise(state, _NUMBER[kind], values)

    def set_step(self, num_steps: int) -> None:
        """Set the step counter of every tensor, in the type that the optimiser keeps it in."""
        for state in self._optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"].fill_(num_steps)
            elif "step" in state:
                state["step"] = num_steps

    def _create(self, tensor: Tensor, group: dict[str, Any]) -> None:
        if hasattr(self._optimizer, "init_state"):
            self._optimizer.init_state(group, tensor, 0, 0)
            return
        state = self._optimizer.state[tensor]
        # Where PyTorch's fused AdamW wants it.
        state["step"] = torch.zeros((), dtype=torch.float32, device=tensor.device)
        for kind in MOMENTS:
            state[kind] = torch.zeros_like(tensor.data)


_BITSANDBYTES = {"exp_avg": "state1", "exp_avg_sq": "state2"}
_NUMBER = {"exp_avg": "1", "exp_avg_sq": "2"}


def _flat(tensor: Any) -> Tensor:
    """A rank's own elements as a flat view."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.detach().view(-1)


def _dequantise(state: dict[str, Tensor], number: str, start: int, stop: int) -> Tensor:
    levels = state[f"qmap{number}"].clone()
    if levels[0] < 0:
        levels[0] = -1.0
    first, last = start // _BLOCK, -(-stop // _BLOCK)
    scales = state[f"absmax{number}"][first:last].repeat_interleave(_BLOCK)[start - first * _BLOCK :]
    return levels[state[f"state{number}"].view(-1)[start:stop].int()] * scales[: stop - start]


def _quantise(state: dict[str, Tensor], number: str, values: Tensor) -> None:
    """Scale each block by its largest element, then take the nearest level of each.

    bitsandbytes' own kernel moves some elements that lie on a level to the next one, so that a state that is saved and
    loaded would not come back.
    """
    codes, scales, levels = state[f"state{number}"].view(-1), state[f"absmax{number}"], state[f"qmap{number}"]
    edges = (levels[1:] + levels[:-1]) / 2
    for low in range(0, values.numel(), _PIECE):
        piece = values[low : low + _PIECE].to(codes.device)
        blocks = nn.functional.pad(piece, (0, -piece.numel() % _BLOCK)).view(-1, _BLOCK)
        largest = blocks.abs().amax(1)
        blocks /= torch.where(largest > 0, largest, 1.0)[:, None]
        found = torch.bucketize(blocks, edges, out_int32=True).view(-1)
        codes[low : low + piece.numel()].copy_(found[: piece.numel()])
        scales[low // _BLOCK : low // _BLOCK + len(largest)].copy_(largest)

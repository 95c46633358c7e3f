"""AdamW where weights or gradients lie in bf16: a portion of them goes to fp32, is stepped, and goes back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from xlt_scale.data.counter_random import key_of
from xlt_scale.engines.portion_size import portion_of
from xlt_scale.engines.rounding import RoundedRange, stochastic_round_all_


@dataclass(frozen=True)
class Part:
    """A part of a parameter, as it lies in a tensor that is stepped.

    Attributes:
        name: of the parameter.
        begin: its first element's place in the tensor.
        length: number of its elements.
        start: its first element's number in the whole parameter.
    """

    name: str
    begin: int
    length: int
    start: int


@dataclass(frozen=True)
class Piece:
    """Elements [low, high) of a tensor, which the library's optimiser steps in fp32.

    Attributes:
        parameter: what that optimiser keeps its states by; it has elements during a step alone.
    """

    parameter: nn.Parameter
    low: int
    high: int

    def of(self, tensor: Tensor) -> Tensor:
        """The piece's elements of a flat tensor."""
        return tensor if self.high - self.low == tensor.numel() else tensor[self.low : self.high]

    def lay_open(self, tensor: Tensor) -> None:
        """Give the parameter fp32 elements: the tensor's own, or room for a copy of them."""
        elements = self.of(tensor.detach())
        self.parameter.data = elements if elements.dtype == torch.float32 else torch.empty_like(elements, dtype=_FP32)

    def close(self) -> None:
        """Take them away again."""
        self.parameter.data = _NOTHING
        self.parameter.grad = None


class PortionedOptimizer(torch.optim.Optimizer):
    """Steps 1-D tensors in fp32 or bf16 with an optimiser that takes fp32 alone.

    Gradients in bf16 become fp32 for the portion that is stepped, and so do weights. Weights in bf16 have no fp32
    masters: what the step makes of them is rounded at random (`rounding.py`), by the seed, the number of the step, the
    parameter's name and the element's place in it, so that no cut into ranks or pieces changes what becomes of them.

    Args:
        groups: of tensors, each group with its name and hyper-parameters.
        build: makes the library's optimiser of groups without tensors.
        seed: of rounding.

    Attributes:
        inner: the library's optimiser; its states are those of the pieces.
        num_steps: steps before the next one; to be set before each.
        divisor: what the next step divides gradients by: a scalar on their device, or None.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        seed: int,
    ) -> None:
        self.inner: Any = build([{**group, "params": []} for group in groups])
        stepped = [group["params"] for group in groups]
        super().__init__(
            [{**inner, "params": own} for inner, own in zip(self.inner.param_groups, stepped, strict=True)], {}
        )
        self.num_steps = 0
        self.divisor: Tensor | None = None
        self._seed = seed
        self._num_elements = 0
        self._pieces: dict[Tensor, list[Piece]] = {}
        self._parts: dict[Tensor, Sequence[Part]] = {}
        self._gradients: dict[Tensor, Tensor] = {}

    def describe(self, tensor: Tensor, parts: Sequence[Part]) -> None:
        """Say what lies in a tensor; of all tensors before the first step."""
        self._parts[tensor] = parts
        self._num_elements += tensor.numel()

    def hand_over(self, tensor: Tensor, gradient: Tensor) -> None:
        """A tensor's gradient for the next step, in fp32 or bf16, in place of its `grad`."""
        self._gradients[tensor] = gradient

    @property
    def portion(self) -> int:
        """Elements that are stepped at once, or a few more."""
        return portion_of(self._num_elements)

    def pieces(self, tensor: Tensor) -> list[Piece]:
        """The pieces of a tensor, in their order. The last one has what would be too little for a piece."""
        if tensor not in self._pieces:
            cuts = [*range(0, max(tensor.numel() - self.portion // 2, 1), self.portion), tensor.numel()]
            self._pieces[tensor] = [Piece(nn.Parameter(_NOTHING), low, high) for low, high in pairwise(cuts)]
        return self._pieces[tensor]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every tensor that has a gradient."""
        assert closure is None
        for inner, group in zip(self.inner.param_groups, self.param_groups, strict=True):
            inner.update({key: value for key, value in group.items() if key != "params"})
        for portion in self._portions():
            self._step(portion)
        self._gradients.clear()
        self.divisor = None

    def _portions(self) -> Iterator[list["_Share"]]:
        portion: list[_Share] = []
        num_elements, enough = 0, self.portion
        for number, group in enumerate(self.param_groups):
            for tensor in group["params"]:
                gradient = self._gradients.get(tensor, tensor.grad)
                for piece in self.pieces(tensor) if gradient is not None and tensor.numel() else ():
                    portion.append(_Share(number, tensor, piece, piece.of(gradient.view(-1))))
                    num_elements += piece.high - piece.low
                    if num_elements >= enough:
                        yield portion
                        portion, num_elements = [], 0
        if portion:
            yield portion

    def _step(self, portion: list["_Share"]) -> None:
        for share in portion:
            share.piece.lay_open(share.tensor)
        rounded = [share for share in portion if share.tensor.dtype != _FP32]
        _copy([share.piece.parameter.data for share in rounded], [share.weights for share in rounded])
        gradients = _in_fp32([share.gradient for share in portion])
        if self.divisor is not None:
            _divide(self.inner, gradients, self.divisor)
        for group in self.inner.param_groups:
            group["params"] = []
        for share, gradient in zip(portion, gradients, strict=True):
            share.piece.parameter.grad = gradient
            self.inner.param_groups[share.group]["params"].append(share.piece.parameter)
        self.inner.step()
        stochastic_round_all_([range_ for share in rounded for range_ in self._rounded_ranges(share)])
        for share in portion:
            share.piece.close()

    def _rounded_ranges(self, share: "_Share") -> Iterator[RoundedRange]:
        weights, low_of_piece = share.tensor.detach(), share.piece.low
        for part in self._parts[share.tensor]:
            low, high = max(part.begin, share.piece.low), min(part.begin + part.length, share.piece.high)
            if low < high:
                yield RoundedRange(
                    weights[low:high],
                    share.piece.parameter.data[low - low_of_piece : high - low_of_piece],
                    key_of("weights", self._seed, self.num_steps, part.name),
                    part.start + low - part.begin,
                )


@dataclass(frozen=True)
class _Share:
    """A piece of a portion, with the number of its group and its gradient."""

    group: int
    tensor: Tensor
    piece: Piece
    gradient: Tensor

    @property
    def weights(self) -> Tensor:
        return self.piece.of(self.tensor.detach())


def divides_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimiser can divide gradients on its way, so that clipping needs no pass of its own."""
    if isinstance(optimizer, PortionedOptimizer):
        return True
    return isinstance(optimizer, torch.optim.AdamW) and bool(optimizer.defaults["fused"])


def leave_division_to(optimizer: torch.optim.Optimizer, divisor: Tensor) -> None:
    """Have the next step divide all gradients by a scalar, which stays on the device."""
    found: Any = optimizer
    if isinstance(optimizer, PortionedOptimizer):
        found.divisor = divisor
    else:
        # The way in which torch.amp's gradient scaler hands its scale to fused optimisers.
        found.grad_scale = divisor.float()


def _divide(optimizer: torch.optim.Optimizer, gradients: list[Tensor], divisor: Tensor) -> None:
    if divides_gradients(optimizer):
        leave_division_to(optimizer, divisor)
    else:
        torch._foreach_mul_(gradients, 1.0 / divisor)


def _in_fp32(tensors: list[Tensor]) -> list[Tensor]:
    """Those in bf16 as copies."""
    found = [tensor if tensor.dtype == _FP32 else torch.empty_like(tensor, dtype=_FP32) for tensor in tensors]
    changed = [(new, old) for new, old in zip(found, tensors, strict=True) if new is not old]
    _copy([new for new, _ in changed], [old for _, old in changed])
    return found


def _copy(into: list[Tensor], tensors: list[Tensor]) -> None:
    if into:
        torch._foreach_copy_(into, tensors)


_FP32 = torch.float32
_NOTHING = torch.empty(0)

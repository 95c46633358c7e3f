"""Gradients of bf16 weights over a step's micro-batches."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xlt_scale.engines.own_elements import own_elements


class GradientSums:
    """bf16 gradients as the backward pass leaves them, where a step has one micro-batch; else their sums in fp32.

    Args:
        weights: those that are trained, in bf16, whole or as shards.
        by_hooks: matrices are added as soon as their gradients are there, so that these never lie side by side. For
            whole weights alone.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], by_hooks: bool) -> None:
        self._weights = dict(weights)
        self._sums: dict[str, Tensor] = {}
        self._adds = False
        for name, weight in self._weights.items():
            if by_hooks and weight.dim() > 1:
                weight.register_post_accumulate_grad_hook(self._adding(name))

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Run a backward pass, and add what it leaves to what others have left.

        Args:
            is_last: no other follows in this step.
        """
        self._adds = bool(self._sums) or not is_last
        loss.backward()
        if self._adds:
            self._add_what_is_left()

    def gradient(self, name: str) -> Tensor:
        """This rank's elements of a weight's gradient, flat, in bf16 or fp32; zeros where nothing used the weight."""
        weight = self._weights[name]
        if name in self._sums:
            return self._sums[name]
        return torch.zeros_like(own_elements(weight)) if weight.grad is None else own_elements(weight.grad)

    def clear(self) -> None:
        """Forget them."""
        self._sums.clear()
        for weight in self._weights.values():
            weight.grad = None

    def _adding(self, name: str) -> Callable[[Tensor], None]:
        def add(weight: Tensor) -> None:
            if not self._adds:
                return
            gradient: Any = weight.grad
            if name in self._sums:
                self._sums[name].add_(own_elements(gradient))
            else:
                self._sums[name] = own_elements(gradient).float()
            weight.grad = None

        return add

    @torch.no_grad()
    def _add_what_is_left(self) -> None:
        """All at once, since each by itself would cost a kernel's launch for the few bytes of a bias."""
        left = {name: own_elements(weight.grad) for name, weight in self._weights.items() if weight.grad is not None}
        copies = {name: torch.empty_like(gradient, dtype=torch.float32) for name, gradient in left.items()}
        if copies:
            torch._foreach_copy_(list(copies.values()), list(left.values()))
        again = [name for name in copies if name in self._sums]
        if again:
            torch._foreach_add_([self._sums[name] for name in again], [copies[name] for name in again])
        self._sums |= {name: copy for name, copy in copies.items() if name not in self._sums}
        for name in left:
            self._weights[name].grad = None

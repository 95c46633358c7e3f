"""Gradients of bf16 weights: one backward pass leaves its own, several are summed in fp32."""

import pytest
import torch
from torch import Tensor, nn

from xlt_scale.engines.gradient_sums import GradientSums


def weights() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (8, 16), "vector": (16,), "unused": (4,)}
    drawn = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}
    return {name: nn.Parameter(values) for name, values in drawn.items()}


def loss_of(found: dict[str, nn.Parameter], batch: int) -> Tensor:
    inputs = torch.randn(3, 8, generator=torch.Generator().manual_seed(batch)).bfloat16()
    return (inputs @ found["matrix"] * found["vector"]).float().square().mean()


def gradients_of(batch: int) -> dict[str, Tensor]:
    found = weights()
    loss_of(found, batch).backward()
    return {name: weight.grad for name, weight in found.items() if weight.grad is not None}


@pytest.mark.parametrize("by_hooks", [True, False])
def test_a_single_one_stays_in_bf16(by_hooks: bool) -> None:
    sums = GradientSums(found := weights(), by_hooks)
    sums.backward(loss_of(found, 1), is_last=True)
    for name, expected in gradients_of(1).items():
        assert torch.equal(sums.gradient(name), expected.view(-1))


@pytest.mark.parametrize("by_hooks", [True, False])
def test_several_are_summed_in_fp32_and_forgotten_after_the_step(by_hooks: bool) -> None:
    sums = GradientSums(found := weights(), by_hooks)
    for batches in ((1, 2, 3), (4, 5)):
        for batch in batches:
            sums.backward(loss_of(found, batch), is_last=batch == batches[-1])
        for name in ("matrix", "vector"):
            parts = [gradients_of(batch)[name].float().view(-1) for batch in batches]
            expected = parts[0]
            for part in parts[1:]:
                expected = expected + part
            assert torch.equal(sums.gradient(name), expected), name
        assert all(weight.grad is None for weight in found.values())
        sums.clear()


def test_a_weight_that_nothing_used_has_zeros() -> None:
    sums = GradientSums(found := weights(), by_hooks=True)
    sums.backward(loss_of(found, 1), is_last=True)
    assert torch.equal(sums.gradient("unused"), torch.zeros(4, dtype=torch.bfloat16))

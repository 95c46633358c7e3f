"""8-bit AdamW does what bitsandbytes' own does, without waiting for the device after every tensor."""

import bitsandbytes
import pytest
import torch
from torch import nn

from xlt_scale.engines.optimizer import adamw_8bit

SIZES = (3, 5_000, 70_000)


def stepped(optimizer_class: type[torch.optim.Optimizer]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(size, generator=generator)) for size in SIZES]
    optimizer = optimizer_class([{"params": weights, "bits": 8}], lr=0.01, weight_decay=0.1)  # type: ignore[call-arg]
    for _ in range(4):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return weights


def test_weights_become_what_the_librarys_own_step_makes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = adamw_8bit()
    found = stepped(ours)
    monkeypatch.setattr(ours, "step", bitsandbytes.optim.AdamW.step)
    assert all(torch.equal(one, other) for one, other in zip(found, stepped(ours), strict=True))


def test_a_step_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[torch.Tensor] = []
    monkeypatch.setattr(bitsandbytes.optim.optimizer, "sync_gpu", waits.append)
    stepped(adamw_8bit())
    assert not waits
    stepped(bitsandbytes.optim.AdamW8bit)
    assert len(waits) == 4 * len(SIZES)

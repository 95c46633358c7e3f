"""On a GPU stochastic rounding gives the bits that it gives on a CPU."""

import pytest
import torch

from xlt_scale.engines.rounding import stochastic_round_

pytestmark = [pytest.mark.gpu]


def test_a_gpu_rounds_to_the_same_bits_as_a_cpu() -> None:
    source = torch.randn(5_000_000, generator=torch.Generator().manual_seed(0))
    found = []
    for device in ("cpu", "cuda"):
        destination = torch.empty(source.shape, dtype=torch.bfloat16, device=device)
        stochastic_round_(destination, source.to(device), seed=3, start=1_000_001)
        found.append(destination.cpu())
    assert torch.equal(*found)

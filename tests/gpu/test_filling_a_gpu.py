"""Weights on their way from files to a GPU."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xlt_scale.modeling import stored_tensors
from xlt_scale.modeling.stored_tensors import find_tensors

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_many_pieces_through_two_buffers_arrive_in_their_places(
    stored: torch.dtype, wanted: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_tensors, "_PIECE_FOR_GPU", 100_000)
    values = torch.randn(5_050_000).to(stored)
    save_file({"x": values}, tmp_path / "file.safetensors")
    found = torch.empty(5_000_000, dtype=wanted, device="cuda")
    find_tensors(tmp_path / "file.safetensors")["x"].read_into(found, 50_000)
    assert torch.equal(found.cpu(), values[50_000:].to(wanted))

"""Stepping in portions: what comes out is the library's AdamW on fp32, whatever the cut and the types."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xlt_scale.engines import portions
from xlt_scale.engines.moments import Moments
from xlt_scale.engines.portions import Part, PortionedOptimizer

LENGTHS = (700, 1, 0, 5_003, 2_600)
ADAMW = partial(torch.optim.AdamW, lr=0.01, fused=False)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "portion_of", lambda num_elements: 1000)


def drawn(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator).to(dtype) for length in LENGTHS]


def in_groups(tensors: list[Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": "decay", "params": tensors[:3], "weight_decay": 0.1},
        {"name": "no_decay", "params": tensors[3:], "weight_decay": 0.0},
    ]


def portioned(tensors: list[Tensor], build: Any = ADAMW, seed: int = 1) -> PortionedOptimizer:
    optimizer = PortionedOptimizer(in_groups(tensors), build, seed)
    for number, tensor in enumerate(tensors):
        optimizer.describe(tensor, [Part(str(number), 0, tensor.numel(), 0)])
    return optimizer


def test_fp32_weights_with_bf16_gradients_become_what_fp32_gradients_make_of_them() -> None:
    found, expected = ([nn.Parameter(tensor) for tensor in drawn(0)] for _ in range(2))
    optimizer, plain = portioned(found), ADAMW(in_groups(expected))
    for step in range(3):
        for mine, theirs, gradient in zip(found, expected, drawn(10 + step, torch.bfloat16), strict=True):
            optimizer.hand_over(mine, gradient)
            theirs.grad = gradient.float()
        optimizer.step()
        plain.step()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_gradients_are_divided_on_their_way() -> None:
    found, expected = ([nn.Parameter(tensor) for tensor in drawn(0)] for _ in range(2))
    optimizer, plain = portioned(found), ADAMW(in_groups(expected))
    for mine, theirs, gradient in zip(found, expected, drawn(1, torch.bfloat16), strict=True):
        optimizer.hand_over(mine, gradient)
        theirs.grad = gradient.float() * (1.0 / torch.tensor(4.0))
    portions.leave_division_to(optimizer, torch.tensor(4.0))
    optimizer.step()
    plain.step()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_bf16_weights_become_a_neighbour_of_what_fp32_makes_of_them() -> None:
    found = [nn.Parameter(tensor) for tensor in drawn(0, torch.bfloat16)]
    exact = [nn.Parameter(tensor.detach().float()) for tensor in found]
    optimizer, plain = portioned(found), ADAMW(in_groups(exact))
    for mine, theirs, gradient in zip(found, exact, drawn(1, torch.bfloat16), strict=True):
        mine.grad, theirs.grad = gradient, gradient.float()
    optimizer.step()
    plain.step()
    for mine, theirs in zip(found, exact, strict=True):
        # bf16 has eight significant bits, so neighbours are at most 2^-7 of a number apart.
        assert ((mine.float() - theirs).abs() <= theirs.abs() * 2**-7).all()
    assert any((mine.float() != theirs.bfloat16().float()).any() for mine, theirs in zip(found, exact, strict=True))


def test_no_cut_into_tensors_changes_how_an_element_is_rounded() -> None:
    """As two ranks hold it, each a part of the parameter, beside one that holds it whole."""
    weights, gradients = drawn(0, torch.bfloat16)[3], drawn(1, torch.bfloat16)[3]

    def stepped(parts: list[tuple[int, int]], seed: int = 1, num_steps: int = 5) -> Tensor:
        results = []
        for start, stop in parts:
            tensor = nn.Parameter(weights[start:stop].clone())
            optimizer = PortionedOptimizer([{"name": "decay", "params": [tensor]}], ADAMW, seed)
            optimizer.describe(tensor, [Part("name", 0, stop - start, start)])
            optimizer.num_steps = num_steps
            tensor.grad = gradients[start:stop].clone()
            optimizer.step()
            results.append(tensor.detach())
        return torch.cat(results)

    whole = stepped([(0, 5_003)])
    assert torch.equal(stepped([(0, 1_234), (1_234, 5_003)]), whole)
    assert not torch.equal(stepped([(0, 5_003)], seed=2), whole)
    assert not torch.equal(stepped([(0, 5_003)], num_steps=6), whole)


def test_several_parameters_in_a_tensor_are_rounded_as_each_by_itself() -> None:
    """As DeepSpeed lays them out, with padding behind each."""
    weights, gradients = drawn(0, torch.bfloat16)[3], drawn(1, torch.bfloat16)[3]
    flat = nn.Parameter(weights.clone())
    optimizer = PortionedOptimizer([{"name": "decay", "params": [flat]}], ADAMW, 1)
    optimizer.describe(flat, [Part("one", 0, 2_400, 0), Part("other", 2_500, 2_000, 77)])
    flat.grad = gradients.clone()
    optimizer.step()
    for name, begin, length, start in (("one", 0, 2_400, 0), ("other", 2_500, 2_000, 77)):
        alone = nn.Parameter(weights[begin : begin + length].clone())
        single = PortionedOptimizer([{"name": "decay", "params": [alone]}], ADAMW, 1)
        single.describe(alone, [Part(name, 0, length, start)])
        alone.grad = gradients[begin : begin + length].clone()
        single.step()
        assert torch.equal(alone, flat[begin : begin + length])
    assert torch.equal(flat[2_400:2_500], weights[2_400:2_500])


def test_moments_are_read_and_written_across_pieces() -> None:
    tensors = [nn.Parameter(tensor) for tensor in drawn(0, torch.bfloat16)]
    optimizer = portioned(tensors)
    moments, written = Moments(optimizer), drawn(3)
    for tensor, values in zip(tensors, written, strict=True):
        assert torch.equal(moments.read(tensor, "exp_avg"), torch.zeros(tensor.numel()))
        with moments.written(tensor, "exp_avg", optimizer.param_groups[0]) as room:
            room.copy_(values)
    for tensor, values in zip(tensors, written, strict=True):
        assert torch.equal(moments.read(tensor, "exp_avg"), values)
    assert torch.equal(moments.read(tensors[3], "exp_avg", 900, 3_100), written[3][900:3_100])
    assert torch.equal(moments.read(tensors[3], "exp_avg", 1_100, 1_200), written[3][1_100:1_200])


def test_the_next_step_starts_from_written_moments_and_their_step() -> None:
    found, expected = ([nn.Parameter(tensor) for tensor in drawn(0)] for _ in range(2))
    optimizer, plain = portioned(found), ADAMW(in_groups(expected))
    for group in plain.param_groups:
        for tensor in group["params"]:
            tensor.grad = torch.ones_like(tensor)
    plain.step()
    again = [nn.Parameter(tensor.detach().clone()) for tensor in expected]
    optimizer = portioned(again)
    moments = Moments(optimizer)
    for mine, theirs in zip(again, expected, strict=True):
        for kind in ("exp_avg", "exp_avg_sq"):
            with moments.written(mine, kind, optimizer.param_groups[0]) as room:
                room.copy_(plain.state[theirs][kind])
    moments.set_step(1)
    for mine, theirs, gradient in zip(again, expected, drawn(1), strict=True):
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
    optimizer.step()
    plain.step()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(again, expected, strict=True))


def test_no_piece_is_too_small_for_8_bits() -> None:
    """bitsandbytes keeps tensors of less than 4,096 elements in 32 bits."""
    optimizer = portioned(tensors := [nn.Parameter(torch.zeros(length)) for length in (1_501, 1_500, 999, 3_400)])
    sizes = [[piece.high - piece.low for piece in optimizer.pieces(tensor)] for tensor in tensors]
    assert sizes == [[1_000, 501], [1_500], [999], [1_000, 1_000, 1_400]]


def test_between_steps_it_holds_no_copy_of_the_weights() -> None:
    tensors = [nn.Parameter(tensor) for tensor in drawn(0, torch.bfloat16)]
    optimizer = portioned(tensors)
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    assert all(piece.parameter.numel() == 0 for tensor in tensors for piece in optimizer.pieces(tensor))

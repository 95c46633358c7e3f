"""What unpadded attention asks of the flash kernel of GPUs, as far as it can be seen without one."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xlt_scale.modeling import attention
from xlt_scale.modeling.attention import sequence_arguments, unpadded_attention

LENGTHS = [300, 400, 300]


@pytest.mark.parametrize("window", [None, 17])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "shared_heads", "size"), [(32, 32, 80), (40, 8, 128), (16, 8, 256)])
def test_the_flash_operator_takes_what_unpadded_attention_gives_it_forward_and_backward(
    heads: int, shared_heads: int, size: int, causal: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, which has the operator's shapes and its derivative but computes nothing."""
    monkeypatch.setattr(attention, "_has_kernel", lambda query: True)
    widths = [heads * size, shared_heads * size, shared_heads * size]
    rows = [torch.empty(1, 1000, width, device="meta", dtype=torch.bfloat16).requires_grad_() for width in widths]
    states = [row.view(1, 1000, -1, size).transpose(1, 2) for row in rows]
    arguments = sequence_arguments(LENGTHS, torch.empty(len(LENGTHS) + 1, dtype=torch.int32, device="meta"))
    output, weights = unpadded_attention(
        torch.nn.Identity(), *states, None, scaling=0.1, sliding_window=window, causal=causal, **arguments
    )
    output.sum().backward()
    assert weights is None
    assert output.shape == (1, 1000, heads, size) and output.dtype == torch.bfloat16
    assert output.is_contiguous(), "the product behind it would have to copy"
    assert [row.grad.shape for row in rows if row.grad is not None] == [row.shape for row in rows]


def test_between_the_projections_and_the_kernel_nothing_is_copied_in_either_direction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "_has_kernel", lambda query: True)
    rows = [torch.empty(1, 1000, 2560, device="meta", dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    arguments = sequence_arguments(LENGTHS, torch.empty(len(LENGTHS) + 1, dtype=torch.int32, device="meta"))
    gradient = torch.empty(1, 1000, 2560, device="meta", dtype=torch.bfloat16)
    with Operators() as operators:
        states = [row.view(1, 1000, -1, 80).transpose(1, 2) for row in rows]
        output, _ = unpadded_attention(torch.nn.Identity(), *states, None, **arguments)
        torch.autograd.grad(output.reshape(gradient.shape), rows, gradient)
    assert operators.found - VIEWS == {"_flash_attention_forward", "_flash_attention_backward"}


VIEWS = {"view", "transpose", "squeeze", "unsqueeze", "detach", "_unsafe_view"}


class Operators(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.add(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


def test_the_choice_of_the_kernel_is_compiled_also_where_the_head_size_counts_as_one_that_changes() -> None:
    torch._dynamo.reset()
    choose = torch.compile(attention._has_kernel, dynamic=True, fullgraph=True, backend="eager")
    assert not choose(torch.empty(1, 4, 10, 64, dtype=torch.bfloat16))

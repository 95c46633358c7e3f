"""The moments that an AdamW keeps, read and written as fp32 whatever the bits they are kept in."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xlt_scale.engines.interface import MOMENTS
from xlt_scale.engines.own_elements import own_elements
from xlt_scale.engines.portion_size import BLOCK
from xlt_scale.engines.portions import PortionedOptimizer

_PIECE = 1 << 22


class Moments:
    """The moments that an AdamW keeps of the tensors it steps, read and written as flat fp32.

    8-bit states are given back as code x scale, and quantised again when they are written. An element of the lowest
    code, -0.993, is given as -1 x scale: that is what the block's largest element was, and what makes quantising the
    same block again give the same codes and scale to the bit. In blocks cut elsewhere an element moves by at most one
    step of the code.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._portioned = optimizer if isinstance(optimizer, PortionedOptimizer) else None
        self._optimizer: Any = optimizer if self._portioned is None else self._portioned.inner

    @property
    def states(self) -> Any:
        """What the library's optimiser keeps, by the tensors that it steps."""
        return self._optimizer.state

    def read(self, tensor: Tensor, kind: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements [start, stop) of a moment; zeros before the first step. Do not write into it."""
        stop = tensor.numel() if stop is None else stop
        if self._portioned is None:
            return self._read(tensor, kind, start, stop, tensor.device)
        if start == stop:
            return torch.zeros(0, device=tensor.device)
        found = [
            self._read(
                piece.parameter,
                kind,
                max(start, piece.low) - piece.low,
                min(stop, piece.high) - piece.low,
                tensor.device,
            )
            for piece in self._portioned.pieces(tensor)
            if piece.low < stop and start < piece.high
        ]
        # On the CPU, where there is room for a whole tensor.
        return found[0] if len(found) == 1 else torch.cat([part.cpu() for part in found])

    @contextlib.contextmanager
    def written(self, tensor: Tensor, kind: str, group: dict[str, Any]) -> Iterator[Tensor]:
        """A flat fp32 tensor to fill with a moment, on whichever device; taken over when the block ends."""
        if self._portioned is None:
            with self._written(tensor, kind, group) as values:
                yield values
            return
        values = torch.zeros(tensor.numel())
        yield values
        for piece in self._portioned.pieces(tensor):
            piece.lay_open(tensor)
            with self._written(piece.parameter, kind, group) as part:
                part.copy_(values[piece.low : piece.high])
            piece.close()

    def set_step(self, num_steps: int) -> None:
        """Set the step counter of every tensor, in the type that the optimiser keeps it in."""
        for state in self._optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"].fill_(num_steps)
            elif "step" in state:
                state["step"] = num_steps

    def _read(self, tensor: Tensor, kind: str, start: int, stop: int, device: torch.device) -> Tensor:
        state = self._optimizer.state.get(tensor, {})
        stored = state.get(kind if kind in state else _BITSANDBYTES[kind])
        if stored is None:
            return torch.zeros(stop - start, device=device)
        if stored.dtype != torch.uint8:
            return own_elements(stored)[start:stop]
        return _dequantise(state, _NUMBER[kind], start, stop)

    @contextlib.contextmanager
    def _written(self, tensor: Tensor, kind: str, group: dict[str, Any]) -> Iterator[Tensor]:
        state = self._optimizer.state[tensor]
        if not state:
            self._create(tensor, group)
            state = self._optimizer.state[tensor]
        stored = state.get(kind if kind in state else _BITSANDBYTES[kind])
        if stored.dtype != torch.uint8:
            yield own_elements(stored)
            return
        # On the CPU: a device that is full of 8-bit states has no room for the same in 32.
        values = torch.zeros(stored.numel())
        yield values
        _quantise(state, _NUMBER[kind], values)

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


def _dequantise(state: dict[str, Tensor], number: str, start: int, stop: int) -> Tensor:
    levels = state[f"qmap{number}"].clone()
    if levels[0] < 0:
        levels[0] = -1.0
    first, last = start // BLOCK, -(-stop // BLOCK)
    scales = state[f"absmax{number}"][first:last].repeat_interleave(BLOCK)[start - first * BLOCK :]
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
        blocks = nn.functional.pad(piece, (0, -piece.numel() % BLOCK)).view(-1, BLOCK)
        largest = blocks.abs().amax(1)
        blocks /= torch.where(largest > 0, largest, 1.0)[:, None]
        found = torch.bucketize(blocks, edges, out_int32=True).view(-1)
        codes[low : low + piece.numel()].copy_(found[: piece.numel()])
        scales[low // BLOCK : low // BLOCK + len(largest)].copy_(largest)

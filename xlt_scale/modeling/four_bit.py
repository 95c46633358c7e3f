"""Linear layers whose frozen weights lie in 4 bits (NF4, Dettmers et al. 2023, QLoRA, section 3), by bitsandbytes.

Codes and scales are plain attributes, neither parameters nor buffers: no engine shards, casts, moves or saves them.
Every process holds them whole.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 64
"""Elements that share a scale."""


class FourBitLinear(nn.Linear):
    """A linear layer that multiplies by its dequantised weight; gradients reach its input and bias, not the weight.

    Blocks of 64 elements of the flattened weight are quantised by themselves, their scales are kept in fp32: 4.5 bits
    an element, and quantising what was dequantised gives the same codes. Scales are not quantised again ("double
    quantisation"), because then it would not.

    Args:
        dense: the layer to stand in for; its bias is taken over, its weight is not read.
        dtype: what it computes in.
    """

    def __init__(self, dense: nn.Linear, dtype: torch.dtype) -> None:
        # Not nn.Linear's own, which would allocate the weight that this is to save.
        nn.Module.__init__(self)
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.register_parameter("weight", None)
        self.register_parameter("bias", dense.bias)
        self._dtype = dtype
        self._codes: Any = None
        self._state: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def fill(self, weight: Tensor) -> None:
        """Quantise a weight.

        Args:
            weight: fp32 [out_features, in_features], on the device that the layer computes on.
        """
        self._codes, self._state = _functional().quantize_4bit(
            weight.contiguous(), blocksize=BLOCK, compress_statistics=False, quant_type="nf4"
        )
        self._state.dtype = self._dtype

    def read(self, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened dequantised weight, fp32 on the CPU."""
        first = start // BLOCK
        last = -(-stop // BLOCK)
        codes = self._codes.view(-1)[first * BLOCK // 2 : last * BLOCK // 2]
        # Not bitsandbytes' kernel, which wants a state of its own for every range. The first of two codes is the upper.
        levels = self._state.code[torch.stack([codes >> 4, codes & 15], dim=1).view(-1).int()]
        scales = self._state.absmax[first:last].repeat_interleave(BLOCK)[: len(levels)]
        values: Tensor = levels * scales
        return values[start - first * BLOCK : stop - first * BLOCK].cpu()

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        import bitsandbytes

        product: Tensor = bitsandbytes.matmul_4bit(
            input,
            self._codes.t(),
            quant_state=self._state,
            bias=None if self.bias is None else self.bias.to(input.dtype),
        )
        return product


def _functional() -> Any:
    # It says at its import which of its kernels for inference are not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes.functional

    return bitsandbytes.functional

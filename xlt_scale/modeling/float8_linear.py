"""The linear layer of float8 training: torchao's, with what our engines and scores need. Imports torchao."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torchao.float8.float8_linear import Float8Linear, matmul_with_hp_or_float8_args


class TrainingFloat8Linear(Float8Linear):
    """torchao's layer in training steps, an ordinary linear layer otherwise.

    So a model is scored alike, in bf16, by the engine that trained it and by one that only scores.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], both bf16."""
        if not self.training:
            return nn.Linear.forward(self, input)
        # What a compiled layer keeps for its backward pass, the compiler decides.
        if torch.compiler.is_compiling() or not hasattr(self.weight, "ds_id"):
            return super().forward(input)
        output: Tensor = _ProductOfPartitioned.apply(input, self.weight, self.linear_mm_config, self.config)
        return output if self.bias is None else output + self.bias.to(output.dtype)


class _ProductOfPartitioned(torch.autograd.Function):
    """torchao's product of an input with a weight that ZeRO-3 partitions.

    torchao keeps a view of the gathered weight for the backward pass, and with it the gathered weight of every layer.
    Kept here is the parameter itself, whose values DeepSpeed takes away behind the forward pass and gathers again
    before the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, product_config: Any, config: Any) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.product_config, ctx.config = product_config, config
        inner = SimpleNamespace(save_for_backward=lambda *kept: None)
        output: Tensor = matmul_with_hp_or_float8_args.forward(inner, input, weight.t(), product_config, config)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        input, weight = ctx.saved_tensors
        inner = SimpleNamespace(
            saved_tensors=(input, weight.t()), linear_mm_config=ctx.product_config, config=ctx.config
        )
        for_input, for_weight, *_ = matmul_with_hp_or_float8_args.backward(inner, *gradients)
        return for_input, for_weight.t(), None, None

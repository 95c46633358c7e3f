"""Cross-entropy over a vocabulary of hundreds of thousands of words, without the table of all scores.

Scores of 1,200 masked positions over XLM-R's 250,002 words are 1.2 GB in fp32, and as much again for their gradient.
Here they exist for a slice of the vocabulary at a time, in the forward pass and once more in the backward pass. Slices
of the vocabulary, not of the targets: each row of the matrix then gets its gradient in one piece, where slices of
targets would have to add up a gradient as large as the matrix, in fp32, once per slice. The price is a third more
products of the output matrix (four instead of three).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

CHUNK_ELEMENTS = 1 << 24
"""Scores that exist at once: 64 MiB in fp32."""

_ALIGNMENT = 128


class VocabularyProjection(nn.Linear):
    """The output matrix of masked language modelling: scores of all words, or the loss of the right ones.

    Both are its own forward pass, because sharded engines gather a module's parameters for that alone.
    """

    def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
        """[targets, embedding size] -> scores [targets, vocabulary]; with `labels`, int64 [targets], their
        cross-entropy in fp32, summed: a scalar.
        """
        if labels is None:
            return super().forward(hidden)
        if len(hidden) * self.out_features <= CHUNK_ELEMENTS:
            return cross_entropy(super().forward(hidden).float(), labels, reduction="sum")
        return chunked_cross_entropy(hidden, self.weight, self.bias, labels, CHUNK_ELEMENTS)


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk_elements: int
) -> Tensor:
    """`cross_entropy(linear(hidden, weight, bias).float(), labels, reduction="sum")`, up to the order of sums.

    Args:
        hidden: [targets, width]; with `weight` [vocabulary, width] and `bias` [vocabulary], if any, of one precision.
        labels: int64 [targets].
        chunk_elements: scores that may exist at once; at least 128 words are taken.

    No host waits for the device. There are no gradients of gradients.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, bias, labels, chunk_elements)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk_elements: int
    ) -> Tensor:
        normalizers = torch.full(labels.shape, float("-inf"), device=hidden.device)
        right = torch.zeros(labels.shape, device=hidden.device)
        for words in _slices(len(weight), len(hidden), chunk_elements):
            scores = _scores(hidden, weight, bias, words)
            normalizers = torch.logaddexp(normalizers, scores.logsumexp(1))
            places, is_here = _places(labels, words)
            right += scores.gather(1, places)[:, 0] * is_here
        ctx.save_for_backward(hidden, weight, bias, labels, normalizers)
        ctx.chunk_elements = chunk_elements
        return (normalizers - right).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, normalizers = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        hidden_gradient = torch.zeros(hidden.shape, device=hidden.device) if for_hidden else None
        weight_gradient = torch.empty_like(weight) if for_weight else None
        bias_gradient = torch.empty_like(bias) if bias is not None and for_bias else None
        for words in _slices(len(weight), len(hidden), ctx.chunk_elements):
            gradient = _scores(hidden, weight, bias, words).sub_(normalizers[:, None]).exp_()
            places, is_here = _places(labels, words)
            gradient.scatter_add_(1, places, -is_here[:, None])
            gradient = gradient.mul_(loss_gradient).to(weight.dtype)
            if hidden_gradient is not None:
                hidden_gradient += _product(gradient, weight[words])
            if weight_gradient is not None:
                torch.mm(gradient.t(), hidden, out=weight_gradient[words])
            if bias_gradient is not None:
                torch.sum(gradient, 0, out=bias_gradient[words])
        hidden_gradient = hidden_gradient.to(hidden.dtype) if hidden_gradient is not None else None
        return hidden_gradient, weight_gradient, bias_gradient, None, None


def _slices(num_words: int, num_targets: int, chunk_elements: int) -> Iterator[slice]:
    width = max(chunk_elements // max(num_targets, 1) // _ALIGNMENT, 1) * _ALIGNMENT
    for start in range(0, num_words, width):
        yield slice(start, min(start + width, num_words))


def _scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, words: slice) -> Tensor:
    """fp32 [targets, words of the slice], rounded to the precision of the product first, as all scores are."""
    if bias is None:
        return torch.mm(hidden, weight[words].t()).float()
    return torch.addmm(bias[words], hidden, weight[words].t()).float()


def _places(labels: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """The column of each label in a slice, int64 [targets, 1], and whether it is there at all: 1.0 or 0.0 [targets]."""
    columns = labels - words.start
    width = words.stop - words.start
    is_here = (columns >= 0) & (columns < width)
    return columns.clamp(0, width - 1)[:, None], is_here.float()


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Their product in fp32: rounded slice by slice, a sum of slices that nearly cancel would lose bits."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left.float(), right.float())

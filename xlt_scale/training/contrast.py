"""Contrastive steps of a dual encoder: every pair of the global batch is compared with every other.

The softmax is over all candidates of the batch, whatever ranks and micro-batches they lie in, so that world size and
token budget change nothing but rounding. The vectors are computed twice, first without gradients; the loss's gradient
with respect to them is known then, and each micro-batch is carried back alone (Gao et al. 2021, gradient caching).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from xlt_scale.data.micro_batch import MicroBatch
from xlt_scale.engines.interface import Engine


def accumulate_contrast(engine: Engine, micro_batches: Sequence[MicroBatch], start: Callable[[int], None]) -> Tensor:
    """Accumulate the gradients of one step; this rank's part of the loss, a scalar. Collective.

    Args:
        micro_batches: this rank's, of groups of a query and its candidate.
        start: called before a micro-batch's forward pass with its number: seeds dropout, alike in both passes.
    """
    world = engine.world
    batches = [batch.to(world.device) for batch in micro_batches]
    with torch.no_grad():
        outputs = []
        for number, batch in enumerate(batches):
            start(number)
            outputs.append(engine.forward(batch, "scores"))
    real = [(output, batch.labels) for output, batch in zip(outputs, batches, strict=True) if batch.weight]
    mine = [(output.cpu(), labels.cpu()) for output, labels in real if labels is not None]
    everyones: list[Any] = world.gather(mine)
    loss, gradients = _loss_and_gradients(everyones, world.rank)
    waiting = iter(gradients)
    for number, batch in enumerate(batches):
        start(number)
        output = engine.forward(batch, "scores")
        gradient = next(waiting).to(output) if batch.weight else torch.zeros_like(output)
        engine.backward((output * gradient).sum() * world.size, is_last=number == len(batches) - 1)
    return loss.to(world.device) if world.is_main else torch.zeros((), device=world.device)


def _loss_and_gradients(everyones: Sequence[Sequence[tuple[Tensor, Tensor]]], rank: int) -> tuple[Tensor, list[Tensor]]:
    """The mean loss over all pairs, and its gradient with respect to each output of one rank.

    Args:
        everyones: per rank a list of (output [2 pairs, hidden size + 1], numbers of the candidates [pairs]); rows of
            an output take turns: a query, its candidate.
    """
    parts = [part for parts in everyones for part in parts]
    leaves = [output.detach().float().requires_grad_() for output, _ in parts]
    rows, candidates = torch.cat(leaves), torch.cat([labels for _, labels in parts])
    vectors, scale = rows[:, :-1], rows[:, -1].mean()
    scores = scale * vectors[0::2] @ vectors[1::2].T
    # The same candidate twice in a batch is right both times.
    doubles = candidates[:, None] == candidates[None, :]
    doubles.fill_diagonal_(False)
    scores = scores.masked_fill(doubles, float("-inf"))
    loss = cross_entropy(scores, torch.arange(len(scores)))
    loss.backward()
    before = sum(len(parts) for parts in everyones[:rank])
    mine = leaves[before : before + len(everyones[rank])]
    return loss.detach(), [leaf.grad for leaf in mine if leaf.grad is not None]

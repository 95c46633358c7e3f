"""The contrastive loss of a dual encoder: over all pairs of a global batch, however it is split."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from xlt_scale.training.contrast import _loss_and_gradients as loss_and_gradients

SIZE, SCALE = 6, 7.0
Part = tuple[Tensor, Tensor]


def pairs(count: int, seed: int = 0) -> Tensor:
    """What the head gives for so many pairs: unit vectors of queries and candidates by turns, the scale behind each."""
    vectors = normalize(torch.randn(2 * count, SIZE, generator=torch.Generator().manual_seed(seed)), dim=-1)
    return torch.cat([vectors, torch.full((2 * count, 1), SCALE)], dim=1)


def numbers(*candidates: int) -> Tensor:
    return torch.tensor(candidates)


def plain_loss(rows: Tensor) -> Tensor:
    queries, candidates = rows[0::2, :-1], rows[1::2, :-1]
    return cross_entropy(SCALE * queries @ candidates.T, torch.arange(len(queries)))


def test_each_query_is_to_find_its_candidate_among_those_of_the_whole_batch() -> None:
    rows = pairs(5)
    loss, _ = loss_and_gradients([[(rows, numbers(0, 1, 2, 3, 4))]], rank=0)
    assert torch.isclose(loss, plain_loss(rows))


def test_the_split_over_ranks_and_micro_batches_changes_neither_loss_nor_gradients() -> None:
    rows, labels = pairs(5), numbers(0, 1, 2, 3, 4)
    whole, (expected,) = loss_and_gradients([[(rows, labels)]], rank=0)
    split: list[list[Part]] = [[(rows[:4], labels[:2])], [], [(rows[4:6], labels[2:3]), (rows[6:], labels[3:])]]
    first, gradients_of_first = loss_and_gradients(split, rank=0)
    last, gradients_of_last = loss_and_gradients(split, rank=2)
    assert torch.isclose(first, whole)
    assert torch.isclose(last, whole)
    assert loss_and_gradients(split, rank=1)[1] == []
    assert torch.allclose(torch.cat([*gradients_of_first, *gradients_of_last]), expected)


def test_a_candidate_that_answers_two_queries_is_no_wrong_answer_to_either() -> None:
    rows = pairs(3)
    rows[3] = rows[1]  # the second query's candidate is the first one's
    loss, _ = loss_and_gradients([[(rows, numbers(8, 8, 9))]], rank=0)
    scores = SCALE * rows[0::2, :-1] @ rows[1::2, :-1].T
    by_hand = [scores[0, [0, 2]].softmax(0)[0], scores[1, [1, 2]].softmax(0)[0], scores[2].softmax(0)[2]]
    assert torch.isclose(loss, -torch.stack(by_hand).log().mean())


def test_the_scale_gets_the_gradient_of_the_whole_loss() -> None:
    rows = pairs(4)
    scale = torch.tensor(SCALE, requires_grad=True)
    queries, candidates = rows[0::2, :-1], rows[1::2, :-1]
    cross_entropy(scale * queries @ candidates.T, torch.arange(4)).backward()
    _, (gradient,) = loss_and_gradients([[(rows, numbers(0, 1, 2, 3))]], rank=0)
    assert scale.grad is not None
    assert torch.isclose(gradient[:, -1].sum(), scale.grad)

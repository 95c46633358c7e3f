"""Exact search among vectors, in blocks that fit memory, and mining of translation pairs by margin.

The margin is that of Artetxe and Schwenk (2019): how much nearer two sentences are to each other than to their other
neighbours, which corrects for sentences that are near to everything.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

_QUERIES_PER_BLOCK = 1024
_CANDIDATES_PER_BLOCK = 65536

NumberPair = tuple[int, int]


@dataclass(frozen=True)
class Candidates:
    """Candidate pairs, best first.

    Attributes:
        pairs: numbers of the source and of the target sentence, int64 [pairs, 2]; each occurs at most once a column.
        scores: margin of each pair, float32 [pairs].
    """

    pairs: np.ndarray
    scores: np.ndarray


def centred(vectors: np.ndarray) -> np.ndarray:
    """The vectors minus their mean: takes away a direction that all have in common.

    Args:
        vectors: [items, size].
    """
    vectors = vectors.astype(np.float32)
    return vectors - vectors.mean(axis=0, keepdims=True)


def nearest_neighbours(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """For each query the number of the candidate with the largest cosine, the first of equal ones; int64 [queries].

    Args:
        queries, candidates: vectors [items, size].
    """
    return top_k(_unit(queries), _unit(candidates), 1)[0][:, 0]


def top_k(queries: np.ndarray, candidates: np.ndarray, k: int, device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """For each query the k candidates with the largest dot product, best first; of equal ones the first comes first.

    Exact. Takes memory for blocks of 1,024 queries by 65,536 candidates besides the vectors.

    Args:
        queries, candidates: vectors [items, size].
        k: more than there are candidates means all of them.
        device: where to multiply.

    Returns:
        Numbers of candidates int64 [queries, k] and their dot products float32 [queries, k].
    """
    # Here, for the scorers import this module and `xlt-scale score` should start without waiting for PyTorch.
    import torch

    if not len(candidates):
        raise ValueError("no candidates to search")
    if k < 1:
        raise ValueError(f"k is {k}; at least one candidate must be asked for")
    found = np.empty((len(queries), min(k, len(candidates))), np.int64)
    products = np.empty(found.shape, np.float32)
    with torch.no_grad():
        for start in range(0, len(queries), _QUERIES_PER_BLOCK):
            rows = slice(start, start + _QUERIES_PER_BLOCK)
            block = _to_device(queries[rows], device)
            best: Any = None
            numbers: Any = None
            for first in range(0, len(candidates), _CANDIDATES_PER_BLOCK):
                scores = block @ _to_device(candidates[first : first + _CANDIDATES_PER_BLOCK], device).T
                values, places = _first_largest(scores, min(k, scores.shape[1]))
                places = places + first
                if best is None:
                    best, numbers = values, places
                else:
                    # Earlier candidates stand first, so the order among equal scores stays that of the numbers.
                    values, places = torch.cat([best, values], 1), torch.cat([numbers, places], 1)
                    best, chosen = _first_largest(values, min(k, values.shape[1]))
                    numbers = places.gather(1, chosen)
            found[rows], products[rows] = numbers.cpu().numpy(), best.cpu().numpy()
    return found, products


def ratio_margin_candidates(source: np.ndarray, target: np.ndarray, neighbours: int = 4) -> Candidates:
    """Candidate pairs of two collections by ratio margin, one to one.

    The margin of a pair is its cosine divided by the mean of two averages: of the cosines of each side with its nearest
    neighbours in the other collection. Every sentence of both sides proposes the neighbour with the largest margin;
    then the pairs are taken greedily, largest margin first, each sentence once (the "max" retrieval of LASER's and
    XTREME's mining).

    Args:
        source: vectors [source sentences, size].
        target: vectors [target sentences, size].
        neighbours: how many neighbours the averages are taken over.
    """
    if not len(source) or not len(target):
        return Candidates(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    source, target = _unit(source), _unit(target)
    forward, forward_cosine = top_k(source, target, neighbours)
    backward, backward_cosine = top_k(target, source, neighbours)
    source_mean, target_mean = forward_cosine.mean(axis=1), backward_cosine.mean(axis=1)
    forward_margin = _ratio(forward_cosine, (source_mean[:, None] + target_mean[forward]) / 2)
    backward_margin = _ratio(backward_cosine, (target_mean[:, None] + source_mean[backward]) / 2)
    proposals = [
        (np.arange(len(source)), _chosen(forward, forward_margin), forward_margin.max(axis=1)),
        (_chosen(backward, backward_margin), np.arange(len(target)), backward_margin.max(axis=1)),
    ]
    left, right, margins = (np.concatenate(column) for column in zip(*proposals, strict=True))
    # The numbers decide between equal margins, so that the result does not depend on the sorting method.
    order = np.lexsort((right, left, -margins))
    taken_left, taken_right, kept = set(), set(), []
    for place, one, other in zip(order.tolist(), left[order].tolist(), right[order].tolist(), strict=True):
        if one not in taken_left and other not in taken_right:
            taken_left.add(one)
            taken_right.add(other)
            kept.append(place)
    return Candidates(np.stack([left[kept], right[kept]], axis=1).astype(np.int64), margins[kept].astype(np.float32))


def best_threshold(candidates: Candidates, gold: Collection[NumberPair]) -> tuple[float, float]:
    """The margin from which on pairs are taken so that their F1 against the gold pairs is largest, and that F1 (0..1).

    The threshold lies half-way between the last pair that is taken and the next one; below the last candidate there is
    no next one, and its own margin is the threshold. It is 0 where no candidate is right.
    """
    gold = {(int(left), int(right)) for left, right in gold}
    if not gold:
        raise ValueError("no gold pairs to choose a threshold by")
    order = np.argsort(-candidates.scores, kind="stable")
    scores = candidates.scores[order].astype(np.float64)
    right = np.array([tuple(pair) in gold for pair in candidates.pairs[order].tolist()], dtype=bool)
    if not right.any():
        return 0.0, 0.0
    f1 = 2 * np.cumsum(right) / (np.arange(1, len(scores) + 1) + len(gold))
    # Pairs of equal margin cannot be parted by a threshold.
    f1[:-1][scores[:-1] == scores[1:]] = -1.0
    last = int(f1.argmax())
    threshold = scores[last] if last + 1 == len(scores) else (scores[last] + scores[last + 1]) / 2
    return float(threshold), float(f1[last])


def mine(candidates: Candidates, threshold: float) -> list[NumberPair]:
    """The pairs whose margin is at least the threshold, best first."""
    chosen = candidates.pairs[candidates.scores.astype(np.float64) >= threshold]
    return [(left, right) for left, right in chosen.tolist()]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 in single precision; zero stays zero."""
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _to_device(vectors: np.ndarray, device: str) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(vectors, np.float32)).to(device)


def _first_largest(scores: Any, k: int) -> tuple[Any, Any]:
    """The k largest of each row with their places, both in descending order; of equal ones the first.

    PyTorch's own choice among equal scores is undefined, so rows in which it had a choice are sorted in full.
    """
    import torch

    values, places = scores.topk(k, dim=1)
    crossed = (scores >= values[:, -1:]).sum(dim=1) > k
    repeated = (values[:, 1:] == values[:, :-1]).any(dim=1)
    for row in torch.nonzero(crossed | repeated)[:, 0].tolist():
        wanted = torch.nonzero(scores[row] >= values[row, -1])[:, 0]
        order = scores[row, wanted].sort(descending=True, stable=True).indices[:k]
        places[row] = wanted[order]
        values[row] = scores[row, wanted[order]]
    return values, places


def _ratio(cosines: np.ndarray, means: np.ndarray) -> np.ndarray:
    # Only vectors of zero have a mean of 0 here in practice; they are near to nothing.
    return np.divide(cosines, means, out=np.zeros_like(cosines), where=means != 0)


def _chosen(neighbours: np.ndarray, margins: np.ndarray) -> np.ndarray:
    return neighbours[np.arange(len(neighbours)), margins.argmax(axis=1)]

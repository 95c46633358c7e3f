"""Scorers: pure functions from predictions and labels to numbers, each with a version that is written beside them."""

import numpy as np

ACCURACY_VERSION = "accuracy-1"
RETRIEVAL_VERSION = "tatoeba-accuracy-1"


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of equal items, in percent as the benchmarks report it."""
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    if not len(labels):
        raise ValueError("no items to score")
    return 100.0 * float(np.mean(predictions == labels))


def nearest_neighbours(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """For each query the number of the candidate with the largest cosine, int64 [queries].

    Args:
        queries, candidates: vectors [items, size].
    """

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    unit_queries, unit_candidates = unit(queries.astype(np.float32)), unit(candidates.astype(np.float32))
    found = [
        (unit_queries[start : start + 4096] @ unit_candidates.T).argmax(axis=1)
        for start in range(0, len(unit_queries), 4096)
    ]
    return np.concatenate(found)


def retrieval_accuracy(found: np.ndarray) -> float:
    """The share of queries whose own line was found, in percent (XTREME's Tatoeba score: no margin, no threshold)."""
    return accuracy(found, np.arange(len(found)))

"""How good predicted embeddings are: the nearest task, and the cosine to the true one. Knows nothing of how they came."""

from __future__ import annotations

import numpy as np


def cosines(predicted: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Cosine of each prediction to each task: [N, E] and [C, E] of length 1 to float32 [N, C]."""
    length = np.linalg.norm(predicted, axis=-1, keepdims=True)
    return (predicted @ embeddings.T) / np.maximum(length, 1e-8)


def nearest(similarity: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The candidate of greatest cosine, of each row: [..., C] and bool [C] to int [...]."""
    return np.argmax(np.where(candidates, similarity, -np.inf), axis=-1)


def constant_cosine(labels: np.ndarray, embeddings: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Cosine of the mean training label to each test frame's: what a probe reaches that knows nothing. float [test]."""
    mean = embeddings[labels[train]].mean(axis=0)
    return embeddings[labels[test]] @ (mean / max(float(np.linalg.norm(mean)), 1e-8))

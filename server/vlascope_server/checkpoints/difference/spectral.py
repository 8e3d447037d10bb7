"""The spectral norm and the effective rank of a difference, matrix by matrix, by a randomised method.

A parameter holds one matrix for each layer, or several (gate and up, key and value); heads are merged into one axis, as the
reference's PyTorch model keeps them. Vectors have no spectrum.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vlascope_server.checkpoints import torch_names
from vlascope_server.checkpoints.boxes import Box

_IN_MEMORY = 16 << 20
"""Bytes of a difference that is kept in memory; a larger one lies in a temporary file meanwhile."""
_BLOCK = 1 << 18
"""Elements that are subtracted together."""
_VECTORS, _ROUNDS, _CLOSE = 8, 30, 1e-4


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Of one matrix, or of several.

    Attributes:
        norm: the largest singular value; the largest one of several matrices.
        rank: the effective rank, in [1, the rank]: the sum of squared singular values over the largest of them squared
            (Vershynin, High-Dimensional Probability, 5.6; also called stable rank). The mean over several matrices, without
            those that are zero throughout; 0 where all are.
    """

    norm: float
    rank: float


class Scratch:
    """Room for the difference of one parameter in float32, which is written box by box, by several threads.

    Args:
        name: of the parameter.
        shape: of it.
        folder: where a temporary file may lie; it has no name there, and is gone when this is.
    """

    def __init__(self, name: str, shape: tuple[int, ...], folder: Path):
        self._name, self._shape, self._folder = name, shape, folder
        self._lock = threading.Lock()
        self._array: np.ndarray | None = None

    def put(self, box: Box, a: np.ndarray, b: np.ndarray) -> None:
        """Writes a - b, computed in float64."""
        _subtract(self._room()[box], a, b)

    def spectra(self, layered: bool) -> list[Spectrum | None]:
        """Of every layer, or the only one of a parameter without layers; None of vectors and of what is not finite."""
        array = self._room()
        layers = [array[i : i + 1] for i in range(len(array))] if layered else [array]
        return [together([spectrum(matrix) for matrix in _matrices(self._name, layer)]) for layer in layers]

    def _room(self) -> np.ndarray:
        with self._lock:
            if self._array is None:
                if 4 * math.prod(self._shape) <= _IN_MEMORY:
                    self._array = np.empty(self._shape, np.float32)
                else:
                    with tempfile.TemporaryFile(dir=self._folder) as file:
                        if sys.platform == "linux":
                            # a full disk is an error here; it would kill the process where it writes to the mapped file
                            os.posix_fallocate(file.fileno(), 0, 4 * math.prod(self._shape))
                        self._array = np.memmap(file, np.float32, "w+", shape=self._shape)
            return self._array


def _subtract(target: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Puts a - b into `target`, a few rows at a time."""
    if target.size <= _BLOCK or target.ndim == 0:
        target[...] = a.astype(np.float64) - b.astype(np.float64)
        return
    rows = max(1, _BLOCK // (target.size // len(target)))
    for start in range(0, len(target), rows):
        parts = [array[start : start + rows] for array in (target, a, b)]
        _subtract(*([part[0] for part in parts] if rows == 1 else parts))


def together(spectra: Sequence[Spectrum | None]) -> Spectrum | None:
    """One spectrum for several matrices; None where there is none, or one is not known."""
    known = [s for s in spectra if s is not None]
    if not known or len(known) < len(spectra):
        return None
    ranks = [s.rank for s in known if s.norm]
    return Spectrum(max(s.norm for s in known), sum(ranks) / len(ranks) if ranks else 0.0)


def spectrum(matrix: np.ndarray) -> Spectrum | None:
    """The spectrum of a matrix by subspace iteration from random vectors: the norm is never above the true one.

    It ends where a round adds less than a ten thousandth. The same matrix gives the same numbers.

    Args:
        matrix: (m, n) float32.

    Returns:
        None where a value is not finite.
    """
    squares = float(sum(np.dot(row, row) for row in (row.astype(np.float64) for row in matrix)))
    if not math.isfinite(squares):
        return None
    if not squares:
        return Spectrum(0.0, 0.0)
    # what is tiny would vanish when squared in float32
    scale = 1 / math.sqrt(squares)
    columns = min(_VECTORS, *matrix.shape)
    x = np.random.default_rng(0).standard_normal((matrix.shape[1], columns))
    norm = 0.0
    for _ in range(_ROUNDS):
        left, _ = np.linalg.qr((matrix @ (x * scale).astype(np.float32)).astype(np.float64))
        right = (matrix.T @ left.astype(np.float32)).astype(np.float64)
        before, norm = norm, float(np.linalg.norm(right, 2))
        if norm - before <= _CLOSE * norm:
            break
        x, _ = np.linalg.qr(right)
    norm = min(max(norm, before), math.sqrt(squares))
    return Spectrum(norm, squares / norm**2)


def _matrices(name: str, array: np.ndarray) -> Iterator[np.ndarray]:
    """The matrices in a parameter, or in some of its layers."""
    if name in torch_names.RULES:
        rule = torch_names.rule(name)
        indices = itertools.product(*(range(size) for size in array.shape[: rule.index_axes]))
        parts = [rule.axes.to_torch(array[index]) for index in indices]
    else:  # an adapter
        parts = list(array.reshape(-1, *array.shape[-2:]))
    yield from (part.reshape(part.shape[0], -1) for part in parts if part.ndim > 1)

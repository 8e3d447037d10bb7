"""Ridge regression to label embeddings in closed form, for many labellings at once.

With labels among the embeddings G of C classes, the fitted map's answer to any frame is a mixture M of them, and cosines
follow from M and G Gᵀ; so the solver carries C numbers a frame and not the embedding's width. Labellings share the factors, and
each is a combination of the same right sides (one an episode), so that permutations cost next to nothing.

Units count alike, and so do classes: a frame weighs 1 / (frames of its episode x episodes of its unit), and a
class's target is divided by C x its share of the episodes, so that the constant part of every answer is 1 / C
(Parker, Günter & Bedo 2007 describe what happens without: rare labels are answered less than chance).

Axis letters: N frames, U episodes, R labellings (the true one, then permutations), C classes, D features, K penalties.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import linalg

from vlascope_analysis.probes.standardise import Standardiser
from vlascope_analysis.statistics.splits import Split
from vlascope_analysis.statistics.units import frame_weights

PENALTIES = tuple(float(10.0**power) for power in range(-3, 4))
"""Ridge penalties, as multiples of the mean eigenvalue of the fitted part's Gram matrix."""

UNCHOSEN = PENALTIES.index(1.0)
"""The penalty where nothing is held to choose one."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """What maps answered to the test part of one fold.

    Attributes:
        right: float32 [R, U] share of an episode's frames whose nearest class is the true one; of test episodes alone.
        beaten: float32 [R, U] share of the other candidates that the true class is nearer than, mean over frames.
        cosine: float32 [n] of the frames of the test part, with the true labels, to their class.
        predicted: int [n] the nearest class.
        penalty: the penalty that was chosen with the true labels.
    """

    right: np.ndarray
    beaten: np.ndarray
    cosine: np.ndarray
    predicted: np.ndarray
    penalty: float


def ridge(
    x: np.ndarray, of_frame: np.ndarray, labels: np.ndarray, embeddings: np.ndarray, split: Split,
    weights: np.ndarray, *, refit: bool = True,
) -> Answers:  # fmt: skip
    """Fits, chooses the penalty, fits again on both parts, and answers the test part.

    Features are standardised by what is fitted and what is held. For each labelling the penalty of greatest mean cosine on the
    held part is taken.

    Args:
        x: float32 [N, D].
        of_frame: int [N] the episode of each frame.
        labels: int [R, U] the class of each episode; the true labels first.
        embeddings: float32 [C, E] of length 1.
        split: the parts, as episodes.
        weights: float [U] how much each episode counts, whatever its class.
        refit: fit on the held part too, once it has chosen; without, maps have seen what a trained one has.
    """
    parts = _Parts(x, of_frame, split, weights)
    similarity = np.asarray(embeddings @ embeddings.T, np.float32)
    best = np.full(len(labels), UNCHOSEN)
    if split.held.any():
        scores = np.stack([_agreement(found, labels, similarity, parts)
                           for _, found in parts.fitted(split.fit, parts.held, labels, similarity, PENALTIES)])  # fmt: skip
        best = scores.argmax(axis=0)
    right = np.zeros((len(labels), len(split.test)), np.float32)
    beaten = np.zeros_like(right)
    cosine, predicted = np.zeros(len(parts.test), np.float32), np.zeros(len(parts.test), np.int64)
    # the mean over an episode's frames, all of which are tested together
    mean = _member(of_frame[parts.test], len(split.test)) * parts.within[parts.test][:, None]
    fitted = split.fit | split.held if refit else split.fit
    for rows in (np.flatnonzero(best == number) for number in np.unique(best)):
        penalty = (PENALTIES[best[rows[0]]],)
        for _, found in parts.fitted(fitted, parts.test, labels[rows], similarity, penalty):
            cosines = _cosines(found, similarity)
            own = labels[rows][:, of_frame[parts.test]]
            scored = score_answers(cosines, own, split.candidates[of_frame[parts.test]])
            right[rows], beaten[rows] = scored[0] @ mean, scored[1] @ mean
            if rows[0] == 0:
                cosine = np.take_along_axis(cosines[0], own[0, :, None], 1)[:, 0]
                predicted = scored[2][0]
    return Answers(right, beaten, cosine, predicted, PENALTIES[best[0]])


def score_answers(
    cosines: np.ndarray, labels: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each frame was right, the share of other candidates that the true one beats, and the nearest candidate.

    Args:
        cosines: float [R, n, C] of each answer to every class.
        labels: int [R, n] the true one, which is a candidate.
        candidates: bool [n, C] what each answer may be.

    Returns:
        float32 [R, n], float32 [R, n], int [R, n].
    """
    asked = np.where(candidates, cosines, -np.inf)
    predicted = asked.argmax(axis=-1)
    own = np.take_along_axis(cosines, labels[..., None], axis=-1)
    others = np.maximum(1, candidates.sum(axis=-1) - 1).astype(np.float32)
    beaten = (asked < own).sum(axis=-1, dtype=np.float32) - (~candidates).sum(axis=-1).astype(np.float32)
    return (predicted == labels).astype(np.float32), beaten / others, predicted


class _Parts:
    """One cell's standardised frames, split; and the Gram matrices that its fits share."""

    def __init__(self, x: np.ndarray, of_frame: np.ndarray, split: Split, weights: np.ndarray):
        self.of_frame, self.episodes = of_frame, len(split.test)
        self.held, self.test = np.flatnonzero(split.held[of_frame]), np.flatnonzero(split.test[of_frame])
        self.within = frame_weights(of_frame).astype(np.float32)
        self.of_episode = np.asarray(weights, np.float32)
        self.weights = self.within * self.of_episode[of_frame]
        self._rest = np.flatnonzero((split.fit | split.held)[of_frame])
        self._x = Standardiser.fit(x[self._rest], self.weights[self._rest])(x)
        self._dual = len(self._rest) <= x.shape[1]
        # frames with each other where they are fewer than features: one product serves both fits and their answers
        self._gram = self._x @ self._x[self._rest].T if self._dual else np.zeros((0, 0), np.float32)
        self._place = np.zeros(len(x), np.int64)
        self._place[self._rest] = np.arange(len(self._rest))

    def fitted(
        self,
        part: np.ndarray,
        asked: np.ndarray,
        labels: np.ndarray,
        similarity: np.ndarray,
        penalties: tuple[float, ...],
    ) -> Iterator[tuple[float, np.ndarray]]:
        """For each penalty: it, and the mixtures of classes that are the answers, float32 [R, n, C].

        Args:
            part: bool [U] the episodes to fit on.
            asked: int [n] frames to answer.
            labels: int [R, U].
            similarity: float32 [C, C]; its size is C.
            penalties: multiples of the mean eigenvalue.
        """
        own = np.flatnonzero(part[self.of_frame])
        weights = self.weights[own] / self.weights[own].sum()
        root = np.sqrt(weights)
        targets, constant = _targets(labels[:, part], self.of_episode[part], len(similarity))
        number = np.cumsum(part) - 1
        member = _member(number[self.of_frame[own]], int(part.sum()))  # [n, episodes of the part]
        R, C = constant.shape
        late = member.shape[1] < R * C
        right = member - weights @ member if late else member @ targets - (weights @ member) @ targets
        if self._dual:
            gram, cross = self._centred_gram(own, asked, weights)
            gram *= root[:, None] * root
            right = right * root[:, None]
            cross *= root
        else:
            mean = weights @ self._x[own]
            fitted = (self._x[own] - mean) * root[:, None]
            gram, right, cross = fitted.T @ fitted, fitted.T @ (right * root[:, None]), self._x[asked] - mean
        size = min(len(own), self._x.shape[1])
        scale = float(np.trace(gram)) / size or 1.0
        for penalty in penalties:
            solved = _solve(gram, penalty * scale, right)
            answers = cross @ solved
            answers = (answers @ targets if late else answers).reshape(len(asked), R, C)
            yield penalty, np.moveaxis(answers, 1, 0) + constant[:, None]

    def _centred_gram(self, own: np.ndarray, asked: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Products of the frames of a part with each other, and of asked frames with them, about the part's mean."""
        place = self._place[own]
        inner, cross = self._gram[np.ix_(own, place)], self._gram[np.ix_(asked, place)]
        of_own, of_asked = inner @ weights, cross @ weights
        whole = weights @ of_own
        return inner - of_own[:, None] - of_own + whole, cross - of_asked[:, None] - of_own + whole


def _targets(labels: np.ndarray, weights: np.ndarray, C: int) -> tuple[np.ndarray, np.ndarray]:
    """Balanced indicators of the class of each episode, float32 [U, R C], and their weighted means, float32 [R, C]."""
    R, U = labels.shape
    onehot = labels[:, :, None] == np.arange(C)
    share = np.einsum("U,RUC->RC", weights / weights.sum(), onehot)
    scale = np.divide(1 / C, share, out=np.zeros_like(share), where=share > 0)
    targets = (onehot * scale[:, None]).astype(np.float32)
    return np.moveaxis(targets, 0, 1).reshape(U, R * C), (share * scale).astype(np.float32)


def _member(numbers: np.ndarray, count: int) -> np.ndarray:
    """float32 [n, count]: 1 where a frame is of an episode."""
    member = np.zeros((len(numbers), count), np.float32)
    member[np.arange(len(numbers)), numbers] = 1
    return member


def _solve(gram: np.ndarray, penalty: float, right: np.ndarray) -> np.ndarray:
    """(gram + penalty) to the power of -1, times the right sides."""
    filled = gram.copy()
    filled[np.diag_indices_from(filled)] += penalty
    factor = linalg.cho_factor(filled, lower=True, overwrite_a=True, check_finite=False)
    return linalg.cho_solve(factor, right, check_finite=False)


def _cosines(mixture: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Cosines of mixtures [R, n, C] to every class, float32 [R, n, C]."""
    products = mixture @ similarity
    squared = (products * mixture).sum(axis=-1, keepdims=True)
    return products / np.sqrt(np.maximum(squared, np.float32(1e-12)))


def _agreement(mixture: np.ndarray, labels: np.ndarray, similarity: np.ndarray, parts: _Parts) -> np.ndarray:
    """Mean cosine of held frames to their class, float [R]; episodes count alike, and so do classes."""
    of_frame = parts.of_frame[parts.held]
    own = labels[:, of_frame]
    cosine = np.take_along_axis(_cosines(mixture, similarity), own[..., None], axis=-1)[..., 0]
    weights = parts.weights[parts.held]
    share = np.stack([weights @ (own == label).T for label in range(len(similarity))], axis=-1)  # R C
    importance = weights / np.take_along_axis(share, own, axis=1)
    return (cosine * importance).sum(axis=1) / importance.sum(axis=1)

"""The flow-matching loss of policies on validation data, episode by episode.

Every frame sees the same draws of noise and flow time whoever is judged, so that two losses differ by their parameters alone.
B batch, K draws, A action horizon.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from vlascope_base.progress import Progress, silent

from vlascope_server.mixing.device import OnDevice
from vlascope_server.mixing.validation import Part, ValidationData
from vlascope_server.model import Draws, Params, Pi0Config, draw_noise_and_time
from vlascope_server.training.loader import Batch
from vlascope_server.training.objective import action_errors, counted_dimensions


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeLosses:
    """Losses of one policy.

    Attributes:
        episodes: their numbers in the dataset.
        values: of each, the mean squared error of the velocity over the actions that count, in normalised units.
    """

    episodes: tuple[int, ...]
    values: Float[np.ndarray, " E"]

    @property
    def mean(self) -> float:
        """Over episodes; each counts the same."""
        return float(self.values.mean())


class Losses:
    """Measures losses on validation data.

    Attributes:
        path: of the data.
        config: the architecture with the text room of the data, in the dtype of activations.
        counted: which action dimensions are in the loss.
    """

    def __init__(
        self, data: ValidationData, config: Pi0Config, policies: OnDevice, *, draws: int, batch_size: int, seed: int
    ):
        """Compiles nothing yet.

        Args:
            data: the frames.
            config: of the policies.
            policies: what will be judged; an action dimension that one of them sees counts for all.
            draws: of noise and flow time on each frame.
            batch_size: frames in one pass.
            seed: of the draws.
        """
        self._data, self._draws, self._size = data, draws, batch_size
        self.path = data.path
        self._key = jax.random.key(seed)
        self.config = dataclasses.replace(config, max_token_len=data.facts.max_token_len, dtype=policies.dtype)
        carrying = np.array(data.facts.carrying, bool)
        seen = [counted_dimensions(policies.checkpoint(k), carrying) for k in range(len(policies.theirs))]
        self.counted = tuple(any(column) for column in zip(*seen, strict=True))
        self._errors = jax.jit(self._frame_errors)

    def of(self, params: Params, part: Part, progress: Progress = silent, what: str = "measuring") -> EpisodeLosses:
        """The losses of a policy on all frames of a part.

        Args:
            params: as it would be served.
            part: `selection` or `validation`.
            progress: is told how many frames were seen.
            what: is judged, for the progress.
        """
        rows = self.rows(part)
        errors, counts = [], []
        for start in range(0, len(rows), self._size):
            some = rows[start : start + self._size]
            error, count = self._errors(params, self.batch(some), self.keys(some))
            errors.append(np.asarray(error)[: len(some)])
            counts.append(np.asarray(count)[: len(some)])
            progress(what, start + len(some), len(rows))
        return _by_episode(self._data.episode[rows], np.concatenate(errors), np.concatenate(counts))

    def keys(self, rows: Int[np.ndarray, " n"], turn: int = 0) -> Array:
        """A key for each frame of a batch, from its row: draws do not depend on which frames share a batch."""
        used = np.concatenate([rows, np.full(self._size - len(rows), rows[0])])
        return _keys(self._key, turn, used)

    def rows(self, part: Part) -> Int[np.ndarray, " n"]:
        """The frames of a part."""
        return self._data.rows(part)

    def batch(self, rows: Int[np.ndarray, " n"]) -> Batch:
        """A batch of the data, on the device."""
        return jax.tree.map(jnp.asarray, self._data.batch(rows, self._size))

    def mean(self, params: Params, batch: Batch, keys: Array) -> Float[Array, ""]:
        """The mean loss over the actions of a batch; differentiable in `params`, to be compiled by the caller."""
        errors, counts = self._frame_errors(params, batch, keys)
        return errors.sum() / jnp.maximum(counts.sum(), 1.0)

    def _frame_errors(self, params: Params, batch: Batch, keys: Array) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """Summed errors of each frame, and how many were summed."""
        draws = jax.vmap(lambda key: draw_noise_and_time(key, self._draws, self.config))(keys)
        errors, _ = action_errors(params, self.config, batch, Draws(*draws), self.counted)
        return errors.sum(axis=(0, 2)), self._draws * batch.mask.sum(axis=1).astype(jnp.float32)


@jax.jit
def _keys(key: Array, turn: Array, rows: Array) -> Array:
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, turn), row))(rows)


def _by_episode(
    episode: Int[np.ndarray, " N"], errors: Float[np.ndarray, " N"], counts: Float[np.ndarray, " N"]
) -> EpisodeLosses:
    """Means over the actions of each episode; an episode none of whose actions counts is left out."""
    sums: dict[int, tuple[float, float]] = {}
    for number, error, count in zip(episode.tolist(), errors.tolist(), counts.tolist(), strict=True):
        known = sums.get(number, (0.0, 0.0))
        sums[number] = known[0] + error, known[1] + count
    means: Mapping[int, float] = {number: total / count for number, (total, count) in sorted(sums.items()) if count}
    return EpisodeLosses(tuple(means), np.array(list(means.values())))

"""Batches for training: which frames, in what order, made ahead by threads.

What a batch holds follows from the seed and the step alone, so that a resumed run sees what an unbroken one sees.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vlascope_server.model import ModelInputs, Pi0Config
from vlascope_server.prompts import Tokenizer
from vlascope_server.robots import RobotPipeline
from vlascope_server.robots.arithmetic import normalise
from vlascope_server.robots.arithmetic import pad as pad_to_width
from vlascope_server.training.columns import QUESTIONS
from vlascope_server.training.frames import Frames
from vlascope_server.training.image_cache import ImageCache
from vlascope_server.training.options import TrainOptions


class Batch(NamedTuple):
    """A pytree; numpy arrays from the loader, JAX's on the device."""

    inputs: ModelInputs
    actions: Float[Array, "B A a"]
    mask: Bool[Array, "B A"]
    """Which actions count."""
    targets: Float[Array, "B Q C 2"]
    """Where each camera's picture shows the told object, and its place too where the dataset says so; as `Frames.targets`,
    outside of [0, 1] where nothing is known."""


class Batches:
    """Makes a batch of any rows. Every method may be called from any thread."""

    def __init__(
        self,
        frames: Frames,
        images: ImageCache,
        pipeline: RobotPipeline,
        tokenizer: Tokenizer,
        config: Pi0Config,
        *,
        state_in_prompt: bool,
        pad: Literal["mask", "repeat"],
    ):
        self._frames, self._images, self._pipeline = frames, images, pipeline
        self._config, self._state_in_prompt = config, state_in_prompt
        self._pad: Literal["mask", "repeat"] = pad
        self._tokenizer = tokenizer
        self._encode = functools.lru_cache(1024)(lambda text: tokenizer.encode(text, config.max_token_len))
        _, counts = frames.chunks(np.arange(len(frames)), config.action_horizon, pad)
        self.rows = np.flatnonzero(counts.any(axis=1))
        """Frames whose chunk has at least one label that counts."""

    @property
    def frame_numbers(self) -> Int[np.ndarray, " N"]:
        """Of `rows`, each within its episode."""
        return self._frames.frame[self.rows]

    def make(self, rows: Int[np.ndarray, " B"], size: int, noise: np.random.Generator | None, std: float) -> Batch:
        """A batch.

        Args:
            rows: of the frames.
            size: of the batch; the first row fills what is left, its labels masked.
            noise: for the state; None adds none.
            std: of that noise, in normalised units.
        """
        used = np.concatenate([rows, np.full(size - len(rows), rows[0])])
        frames, config, pipeline = self._frames, self._config, self._pipeline
        robot_state = frames.state[used]
        state = normalise(robot_state, pipeline.stats["state"], pipeline.conventions.normalisation)
        if noise is not None and std:
            state = state + std * noise.standard_normal(state.shape)
        chunks, mask = frames.chunks(used, config.action_horizon, self._pad)
        mask[len(rows) :] = False
        prompts = [frames.prompts[number] for number in frames.prompt[used]]
        if self._state_in_prompt:
            pairs = zip(prompts, state, strict=True)
            encoded = [self._tokenizer.encode(text, config.max_token_len, numbers) for text, numbers in pairs]
        else:
            encoded = [self._encode(text) for text in prompts]
        images = self._images.gather(frames.episode[used], frames.frame[used])
        fields: dict[str, Any] = {
            "images": {camera: images[camera] for camera in config.cameras},
            "image_masks": {camera: np.ones(size, bool) for camera in config.cameras},
            "state": pad_to_width(state, config.action_dim).astype(np.float32),
            "prompt": np.stack([prompt.tokens for prompt in encoded]),
            "prompt_mask": np.stack([prompt.mask for prompt in encoded]),
        }
        actions: Any = pipeline.training_actions(chunks, robot_state).astype(np.float32)
        nowhere = np.full((size, 2), -1, np.float32)
        # the place is the second question: with it, the first is asked too
        asked = QUESTIONS if any(question == QUESTIONS[1] for question, _ in frames.targets) else QUESTIONS[:1]
        answers = [[frames.targets.get((q, c)) for c in config.cameras] for q in asked]
        targets = np.stack(
            [np.stack([nowhere if a is None else a[used] for a in each], axis=1) for each in answers], axis=1
        )
        targets[len(rows) :] = -1
        rest: Any = mask, targets
        return Batch(ModelInputs(**fields), actions, *rest)


def rows_of_step(rows: Int[np.ndarray, " N"], step: int, batch_size: int, seed: int) -> Int[np.ndarray, " B"]:
    """The rows of one step: every row once, shuffled, then all of them again in another order."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, within = places // len(rows), places % len(rows)
    return np.array(
        [rows[_order(len(rows), seed, e)[w]] for e, w in zip(epochs.tolist(), within.tolist(), strict=True)]
    )


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> Int[np.ndarray, " N"]:
    return np.random.default_rng([seed, 2, epoch]).permutation(count)


class Loader:
    """Training batches from a step on, made ahead by threads. A context manager; leaving it ends the threads."""

    def __init__(self, batches: Batches, first: int, options: TrainOptions):
        """Makes nothing yet.

        Args:
            batches: makes a batch of given rows.
            first: the step of the first batch.
            options: of the run.
        """
        self._batches, self._size, self._seed = batches, options.batch_size, options.seed
        self._std = options.state_noise if options.augment else 0.0
        self._next, self._prefetch = first, options.prefetch
        repeats = np.where(batches.frame_numbers < options.first_steps, options.first_repeats, 1)
        self.rows = np.repeat(batches.rows, repeats)
        """Frames of an epoch."""
        self._pool = ThreadPoolExecutor(options.workers, thread_name_prefix="batches")
        self._ahead: collections.deque[Future[Batch]] = collections.deque()

    def at(self, step: int) -> Batch:
        """The batch of one step, made now."""
        rows = rows_of_step(self.rows, step, self._size, self._seed)
        return self._batches.make(rows, self._size, np.random.default_rng([self._seed, 3, step]), self._std)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end, in order."""
        while True:
            while len(self._ahead) < self._prefetch:
                self._ahead.append(self._pool.submit(self.at, self._next))
                self._next += 1
            yield self._ahead.popleft().result()

"""A policy: a robot's observation to what the model sees, and what the model answers to what the robot executes.

B batch, A action horizon, a the model's action width, r the robot's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from vlascope_latents import ModelLayout

from vlascope_server.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from vlascope_server.model import ModelInputs, fuse_for_inference
from vlascope_server.policies.assembly import (
    find_cameras,
    find_conventions,
    find_dtype,
    find_robot,
    find_tokenizer,
    missing_statistics,
)
from vlascope_server.policies.options import PolicyOptions
from vlascope_server.robots import NormStatsError, RobotInputError, RobotIO, RobotPipeline

_USUAL = PolicyOptions()
_FINGERPRINT_SAMPLE = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedObservation:
    """One observation as the model takes it, without the batch axis.

    Attributes:
        images: model slot -> pixels.
        state: normalised, padded.
        tokens: of the prompt.
        mask: which of them are real.
        prompt: the instruction that was used.
        robot_state: as the robot sent it; what relative actions are relative to.
        truncated: tokens of the prompt that the model does not see.
    """

    images: Mapping[str, UInt8[np.ndarray, "size size 3"]]
    state: Float[np.ndarray, " a"]
    tokens: Int[np.ndarray, " n"]
    mask: Bool[np.ndarray, " n"]
    prompt: str
    robot_state: Float[np.ndarray, " s"]
    truncated: int


class Policy:
    """A policy ready to run.

    Attributes:
        name: of the checkpoint.
        params: on the device, fused for inference.
        config: the architecture.
        num_steps: denoise steps.
        pipeline: robot, statistics, conventions.
        checkpoint: where it came from, without the parameters.
        default_prompt: for observations without one.
    """

    def __init__(self, name: str, checkpoint: Checkpoint, options: PolicyOptions = _USUAL):
        """Puts a loaded checkpoint together with its robot and tokenizer.

        Raises:
            CheckpointError: nobody says which robot it is for, or what is said does not fit.
        """
        if options.num_steps < 1:
            raise CheckpointError(f"num_steps: expected at least 1, found {options.num_steps}")
        self.name, self.num_steps, self.default_prompt = name, options.num_steps, options.default_prompt
        robot = find_robot(name, checkpoint, options.robot)
        self.pipeline = _pipeline(name, checkpoint, robot)
        self.config = checkpoint.config.with_cameras(*find_cameras(name, checkpoint, robot))
        self._tokenizer = find_tokenizer(name, checkpoint, options.tokenizer)
        self._state_in_prompt = self.config.pi05 and checkpoint.record.state_in_prompt is not False
        self.checkpoint = dataclasses.replace(checkpoint, params={})
        self.fingerprint = _fingerprint(checkpoint, options.num_steps)
        self.params = fuse_for_inference(checkpoint.params)

    @classmethod
    def load(cls, location: str, options: PolicyOptions = _USUAL) -> Policy:
        """Loads a checkpoint (a path, a URL or a preset's name) as a policy.

        Raises:
            CheckpointError: it cannot be loaded, or does not fit the options.
        """
        dtype = find_dtype(options.dtype)
        name = location.rstrip("/").rsplit("/", 1)[-1]
        checkpoint = load_checkpoint(location, options, dtype=dtype)
        return cls(name, checkpoint, options)

    @property
    def layout(self) -> ModelLayout:
        """What there is to capture."""
        return self.config.layout(self.num_steps)

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of the flow's noise for one observation."""
        return self.config.action_horizon, self.config.action_dim

    def prepare(self, observation: Mapping[str, Any]) -> PreparedObservation:
        """Checks one observation as a client sends it, resizes, normalises and tokenises.

        Raises:
            RobotInputError: it is not what the robot sends.
        """
        if self.default_prompt is not None and "prompt" not in observation:
            observation = {**observation, "prompt": self.default_prompt}
        reading = self.pipeline.read(observation)
        state = reading.prompt_state if self._state_in_prompt else None
        prompt = self._tokenizer.encode(reading.prompt, self.config.max_token_len, state)
        return PreparedObservation(
            reading.images,
            reading.state.astype(np.float32),
            prompt.tokens,
            prompt.mask,
            reading.prompt,
            reading.robot_state,
            prompt.truncated,
        )

    def batch(self, prepared: Sequence[PreparedObservation], size: int) -> ModelInputs:
        """Observations as one batch of `size`; the last one fills what is left."""
        rows = [*prepared, *[prepared[-1]] * (size - len(prepared))]
        fields: dict[str, Any] = {
            "images": {camera: np.stack([row.images[camera] for row in rows]) for camera in self.config.cameras},
            "image_masks": {camera: np.ones(size, bool) for camera in self.config.cameras},
            "state": np.stack([row.state for row in rows]),
            "prompt": np.stack([row.tokens for row in rows]),
            "prompt_mask": np.stack([row.mask for row in rows]),
        }
        return ModelInputs(**fields)

    def batch_shape(self, size: int) -> ModelInputs:
        """Shapes and dtypes of `batch`, for compiling."""
        pixels, n = self.config.vision.image_size, self.config.max_token_len
        shape = jax.ShapeDtypeStruct
        fields: dict[str, Any] = {
            "images": {camera: shape((size, pixels, pixels, 3), np.uint8) for camera in self.config.cameras},
            "image_masks": {camera: shape((size,), bool) for camera in self.config.cameras},
            "state": shape((size, self.config.action_dim), np.float32),
            "prompt": shape((size, n), np.int32),
            "prompt_mask": shape((size, n), bool),
        }
        return ModelInputs(**fields)

    def robot_actions(
        self, actions: Float[np.ndarray, "A a"], prepared: PreparedObservation
    ) -> Float[np.ndarray, "A r"]:
        """The model's chunk as the robot executes it, in float32."""
        return self.pipeline.robot_actions(actions, prepared.robot_state).astype(np.float32)


def draw_noise(seed: int, shape: tuple[int, int]) -> Float[np.ndarray, "A a"]:
    """The flow's noise of one inference: standard normal float32, a function of the seed alone, on every machine."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _pipeline(name: str, checkpoint: Checkpoint, robot: RobotIO) -> RobotPipeline:
    if checkpoint.norm_stats is None:
        raise missing_statistics(name, checkpoint)
    conventions, config = find_conventions(checkpoint, robot), checkpoint.config
    try:
        return RobotPipeline(robot, checkpoint.norm_stats, conventions, config.action_dim, config.vision.image_size)
    except (NormStatsError, RobotInputError) as error:
        raise CheckpointError(f"{name}: {error}") from None


def _fingerprint(checkpoint: Checkpoint, num_steps: int) -> str:
    """Hash of architecture, statistics, denoise steps, and up to 4096 values spread over every parameter."""
    digest = hashlib.sha256()
    facts = [dataclasses.asdict(checkpoint.config), dataclasses.asdict(checkpoint.record), num_steps]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for quantity, stats in sorted((checkpoint.norm_stats or {}).items()):
        digest.update(
            quantity.encode() + b"".join(np.asarray(v).tobytes() for v in dataclasses.astuple(stats) if v is not None)
        )
    for name, array in checkpoint.params.items():
        stride = max(1, array.size // _FINGERPRINT_SAMPLE)
        digest.update(name.encode() + np.asarray(array.reshape(-1)[::stride]).tobytes())
    return digest.hexdigest()[:16]

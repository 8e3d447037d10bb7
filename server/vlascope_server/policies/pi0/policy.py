"""Pi0 as a policy: a robot's observation to what the model sees, its compiled sampling, and the robot's actions of the answer.

B batch, A action horizon, a the model's action width, r the robot's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from vlascope_base.text import counted
from vlascope_latents import ModelLayout

from vlascope_server.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from vlascope_server.compile_cache import heed_free_space
from vlascope_server.model import ModelInputs, fuse_for_inference, sample_actions
from vlascope_server.policies.contract import Outcome, PolicyFacts, Prepared, Program, RequestShape, draw_noise
from vlascope_server.policies.options import PolicyOptions
from vlascope_server.policies.pi0.assembly import (
    find_cameras,
    find_conventions,
    find_dtype,
    find_robot,
    find_tokenizer,
    missing_statistics,
)
from vlascope_server.robots import NormStatsError, RobotInputError, RobotIO, RobotPipeline

_USUAL = PolicyOptions()
_FINGERPRINT_SAMPLE = 4096
_PACKAGES = ("jax", "jaxlib", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PreparedObservation(Prepared):
    """One observation as the model takes it, without the batch axis.

    Attributes:
        images: model slot -> pixels.
        state: normalised, padded.
        tokens: of the prompt.
        mask: which of them are real.
    """

    images: Mapping[str, UInt8[np.ndarray, "size size 3"]]
    state: Float[np.ndarray, " a"]
    tokens: Int[np.ndarray, " n"]
    mask: Bool[np.ndarray, " n"]


class Pi0Policy:
    """A Pi0 or Pi0.5 that is ready to run; keeps the contract of `Policy`.

    Attributes:
        params: on the device, fused for inference.
        config: the architecture.
        num_steps: denoise steps.
        pipeline: robot, statistics, conventions.
        checkpoint: where it came from, without the parameters.
        fingerprint: hash of architecture, statistics, denoise steps and weights.
        facts: what it says of itself.
    """

    def __init__(
        self, name: str, checkpoint: Checkpoint, options: PolicyOptions = _USUAL, *, source: str | None = None
    ):
        """Puts a loaded checkpoint together with its robot and tokenizer.

        Args:
            name: of the policy.
            checkpoint: with parameters.
            options: what its own files leave open.
            source: where it was loaded from; its name unless told.

        Raises:
            CheckpointError: nobody says which robot it is for, or what is said does not fit.
        """
        if options.num_steps < 1:
            raise CheckpointError(f"num_steps: expected at least 1, found {options.num_steps}")
        self.num_steps = options.num_steps
        robot = find_robot(name, checkpoint, options.robot)
        self.pipeline = _pipeline(name, checkpoint, robot)
        self.config = checkpoint.config.with_cameras(*find_cameras(name, checkpoint, robot))
        self._tokenizer = find_tokenizer(name, checkpoint, options.tokenizer)
        self._state_in_prompt = self.config.pi05 and checkpoint.record.state_in_prompt is not False
        self.checkpoint = dataclasses.replace(checkpoint, params={})
        self.fingerprint = _fingerprint(checkpoint, options.num_steps)
        self.params = fuse_for_inference(checkpoint.params)
        self.facts = self._facts(name, source or name, options.default_prompt)
        self._denoise_time = 1 - np.arange(self.num_steps, dtype=np.float32) / self.num_steps

    @classmethod
    def load(cls, location: str, options: PolicyOptions = _USUAL) -> Pi0Policy:
        """Loads a checkpoint (a path, a URL or a preset's name) as a policy.

        Raises:
            CheckpointError: it cannot be loaded, or does not fit the options.
        """
        dtype = find_dtype(options.dtype)
        checkpoint = load_checkpoint(location, options, dtype=dtype)
        name = _last_part(location)
        if checkpoint.drawn is not None:  # runs of a store are called after it
            name = f"{name.replace(':', '-')}-like-{_last_part(options.like or '')}"
        return cls(name, checkpoint, options, source=checkpoint.drawn or location)

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
        if self.facts.default_prompt is not None and "prompt" not in observation:
            observation = ChainMap({"prompt": self.facts.default_prompt}, observation)  # pyright: ignore[reportArgumentType]
        reading = self.pipeline.read(observation)
        state, length = reading.prompt_state if self._state_in_prompt else None, self.config.max_token_len
        prompt = self._tokenizer.encode(reading.prompt, length, state)
        warnings = ()
        if prompt.truncated:
            warnings = (f"prompt: {prompt.truncated} tokens did not fit into {length}: the policy has not seen them",)
        return PreparedObservation(
            prompt=reading.prompt,
            robot_state=reading.robot_state,
            values={"prompt_mask": prompt.mask, "denoise_time": self._denoise_time},
            warnings=warnings,
            images=reading.images,
            state=reading.state.astype(np.float32),
            tokens=prompt.tokens,
            mask=prompt.mask,
        )

    def draw(self, seed: int) -> Float[np.ndarray, "A a"]:
        """The flow's noise."""
        return draw_noise(seed, self.noise_shape)

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

    def compile(self, shape: RequestShape, size: int) -> Program:
        """Compiles `sample_actions` for batches of `size`."""
        noise = jax.ShapeDtypeStruct((size, *self.noise_shape), np.float32)
        heed_free_space()
        try:
            lowered = sample_actions.lower(
                self.params,
                self.config,
                self._batch_shape(size),
                noise,
                num_steps=self.num_steps,
                capture=shape.capture,
            )
            compiled = lowered.compile()
        finally:
            # JAX remembers every program that it has lowered, and those that we let go would stay in memory
            sample_actions.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]

        def run(prepared: Sequence[PreparedObservation], drawn: Sequence[np.ndarray]) -> Outcome:
            noise = np.stack([*drawn, *[drawn[-1]] * (size - len(drawn))])
            actions, latents = compiled(self.params, self.batch(prepared, size), noise)
            # whoever waits for one of them then waits for a copy that is on its way already
            for array in (actions, *latents.values()):
                array.copy_to_host_async()
            return Outcome(actions, latents)

        return Program(size, run)

    def robot_actions(
        self, actions: Float[np.ndarray, "A a"], prepared: PreparedObservation
    ) -> Float[np.ndarray, "A r"]:
        """The model's chunk as the robot executes it, in float32."""
        return self.pipeline.robot_actions(actions, prepared.robot_state).astype(np.float32)

    def _batch_shape(self, size: int) -> ModelInputs:
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

    def _facts(self, name: str, source: str, default_prompt: str | None) -> PolicyFacts:
        config, record = self.config, self.checkpoint.record
        model = "pi0.5" if config.pi05 else "pi0"
        return PolicyFacts(
            name=name,
            model=model.replace(".", ""),
            description=f"{model}, {config.dtype}, {counted(self.num_steps, 'denoise step')}",
            source=source,
            robot=self.pipeline.robot.spec,
            image_size=config.vision.image_size,
            action_horizon=config.action_horizon,
            default_prompt=default_prompt,
            noise_shape=self.noise_shape,
            trained_on=dict(record.trained_on or {}),
            record={
                "configuration": dataclasses.asdict(config),
                "record": dataclasses.asdict(record),
                "device": jax.devices()[0].device_kind,
            },
            packages=_PACKAGES,
            accelerated=jax.default_backend() != "cpu",
        )


def _last_part(location: str) -> str:
    return location.rstrip("/").rsplit("/", 1)[-1]


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

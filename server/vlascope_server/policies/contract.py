"""What a policy must offer so that it can be served, captured and studied: the only thing that others know of one.

1. `prepare` turns an observation as a client sends it into what the policy computes with.
2. `draw` makes an inference's randomness out of its seed.
3. `compile` makes a program of one request shape and batch size; the program computes actions, and captured arrays.
4. `robot_actions` turns the policy's actions into what the robot executes.

Knows no JAX and no torch: what a program gives is whatever `numpy.asarray` takes. docs/policies.md shows a policy of one's own.

B batch, A action horizon, a the policy's action width, r the robot's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from vlascope_latents import CapturePlan, CaptureSpec, CaptureSpecError, ModelLayout, plan_capture
from vlascope_latents.store.index import DECODED

from vlascope_server.robots import RobotSpec


@dataclasses.dataclass(frozen=True)
class RequestShape:
    """What a request asks of a program, but for the numbers that it runs on: the key of programs, batches and queues.

    Attributes:
        capture: what is kept; None keeps nothing. Specs that select the same have equal plans, in whichever form they came.
    """

    capture: CapturePlan | None = None

    def __str__(self) -> str:
        return "without capture" if self.capture is None else f"capturing {self.capture.spec}"


PLAIN = RequestShape()
"""Actions alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyFacts:
    """What a policy says of itself. It does not change while the policy lives.

    Attributes:
        name: of the policy, such as its checkpoint's; runs of a store are called after it.
        model: kind of the model in one word, such as `pi05`.
        description: the same for people, with what else tells this policy from others of its kind.
        source: where the weights come from: a path, a URL, a preset's name.
        robot: whose observations and actions these are.
        image_size: pixels a side that the model sees.
        action_horizon: A, actions in one chunk.
        default_prompt: the instruction that `prepare` takes for observations without one; None where there is none.
        noise_shape: shape of what `draw` gives, where that is standard normal noise that a client may send instead of a seed,
            as to a flow. None for policies that draw something else, or nothing.
        trained_on: what is known of the training data, such as `render` and `assets`.
        record: what a run's metadata keep beside all this, such as the architecture; JSON, but for paths and tuples.
        packages: installed packages whose versions a run's metadata keep.
        accelerated: whether it runs where a larger batch costs little more than a small one, as on a GPU.
    """

    name: str
    model: str
    description: str
    source: str
    robot: RobotSpec
    image_size: int
    action_horizon: int
    default_prompt: str | None = None
    noise_shape: tuple[int, ...] | None = None
    trained_on: Mapping[str, object] = dataclasses.field(default_factory=dict)
    record: Mapping[str, object] = dataclasses.field(default_factory=dict)
    packages: tuple[str, ...] = ()
    accelerated: bool = False


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """One observation as a policy computes with it; a policy derives its own from this one.

    Attributes:
        prompt: the instruction that was used.
        robot_state: as the robot sent it, `robot.state_dim` numbers.
        values: small arrays that a store keeps beside a frame's tensors, under names that are neither in `FRAME_NAMES` nor an
            expert's. Names, shapes and dtypes are the same for every observation. `prompt_mask` says which of the tokens in the
            span `text` are no padding: analyses read it.
        warnings: lines for the client, such as that the prompt was cut.
    """

    prompt: str
    robot_state: Float[np.ndarray, " s"]
    values: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a batch got; rows behind those of its observations are padding.

    Its arrays may still be on their way from the device: `numpy.asarray` of one waits, and may be called from any thread,
    any number of times.

    Attributes:
        actions: [B, A, a], as the policy gives them.
        latents: path -> [B, ...], for each tensor of the capture plan its shape and dtype; bfloat16 as that of ml_dtypes, or as
            uint16 of the same bits.
        decode_steps: expert -> whole numbers [B]: of each expert whose loop is `decode`, how many of its steps are real.
    """

    actions: ArrayLike
    latents: Mapping[str, ArrayLike] = dataclasses.field(default_factory=dict)
    decode_steps: Mapping[str, ArrayLike] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Program:
    """A policy, compiled for one request shape and batch size.

    Attributes:
        size: observations in a batch, at most; the size that was asked for.
        run: (prepared observations, what `draw` gave for each) -> outcome. Called on one thread at a time with 1 to `size`
            observations, which it pads as it likes. No row depends on the others but by rounding.
    """

    size: int
    run: Callable[[Sequence[Any], Sequence[Any]], Outcome]


P = TypeVar("P", bound=Prepared)


class Policy(Protocol[P]):
    """A policy that is ready to run. Every method but `compile` may be called from any thread."""

    @property
    def facts(self) -> PolicyFacts:
        """What it says of itself."""
        ...

    @property
    def layout(self) -> ModelLayout:
        """What there is to capture."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digits that are equal for equal policies: same weights, statistics and configuration."""
        ...

    def prepare(self, observation: Mapping[str, Any]) -> P:
        """Checks one observation as a client sends it, and makes of it what the policy computes with.

        It asks the mapping for the keys that it reads, one by one: a client is told of keys that nobody asked for and that are
        nearly some other.

        Raises:
            RobotInputError: it is not what the robot sends; one line that names the key.
        """
        ...

    def draw(self, seed: int) -> np.ndarray | None:
        """What one inference draws at random, a function of the seed alone; None for a policy that draws nothing."""
        ...

    def compile(self, shape: RequestShape, size: int) -> Program:
        """A program for batches of up to `size`. May take minutes; called on one thread at a time, while programs run."""
        ...

    def robot_actions(self, actions: Float[np.ndarray, "A a"], prepared: P) -> Float[np.ndarray, "A r"]:
        """One row of an outcome's actions as the robot executes it, in float32."""
        ...


def draw_noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A flow's noise of one inference: standard normal float32, a function of the seed alone, on every machine."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def denoise_steps(layout: ModelLayout) -> int | None:
    """Steps from noise to actions; None for a policy without a flow."""
    return next((expert.steps for expert in layout.experts if expert.loop == "denoise"), None)


def usual_spec(layout: ModelLayout) -> CaptureSpec:
    """What is captured of a policy unless told otherwise: `hidden_states`, or everything where no expert has these."""
    usual = CaptureSpec()
    if any(expert.component(name) for expert in layout.experts for name in usual.components):
        return usual
    return CaptureSpec(components="all")


def plan_request(spec: CaptureSpec, layout: ModelLayout) -> CapturePlan:
    """What a spec captures of a policy; the `capture` of a `RequestShape`.

    Raises:
        CaptureSpecError: it cannot be honoured, or names denoise steps of a policy that has none.
    """
    if spec.denoise_steps != "all" and denoise_steps(layout) is None:
        raise CaptureSpecError("denoise_steps", "this policy has no denoise steps: leave it out")
    return plan_capture(spec, layout)


def frame_values(
    prepared: Prepared, actions: Float[np.ndarray, "A r"], seed: int | None, decode_steps: Mapping[str, int]
) -> dict[str, object]:
    """What a store keeps beside the tensors of a frame.

    Args:
        prepared: the observation.
        actions: as the robot executes them.
        seed: of what was drawn; None where nothing was, or where the noise itself was given.
        decode_steps: expert -> how many of its decode steps are real.
    """
    return {
        "actions": actions,
        "state": prepared.robot_state.astype(np.float32),
        **prepared.values,
        "noise_seed": np.int64(-1 if seed is None else seed),
        **({DECODED: decode_steps} if decode_steps else {}),
    }

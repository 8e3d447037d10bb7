"""Action chunks, handed out an action a step. Knows nothing of robots, of sockets or of what an observation holds.

A policy answers with `action_horizon` actions at once. A loop executes the first `replan_steps` of them, then asks again
with what it sees then.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Unpack

import numpy as np

from vlascope_client.errors import PolicyClientError
from vlascope_client.replies import PolicyReply
from vlascope_client.requests import InferOptions, check_options

Observation = Mapping[str, Any]


class Policy(Protocol):
    """What a broker asks; a `PolicyClient` is one."""

    def infer(self, observation: Observation, **options: Unpack[InferOptions]) -> PolicyReply:
        """Actions for an observation."""
        ...


class AsyncPolicy(Protocol):
    """The same, awaited."""

    async def infer(self, observation: Observation, **options: Unpack[InferOptions]) -> PolicyReply:
        """Actions for an observation."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ActionStep:
    """What to do in one step of a loop.

    Attributes:
        action: float32 [action_dim].
        inferred: the policy was asked in this step.
        index: of the action in its chunk.
        reply: that the action is from.
    """

    action: np.ndarray
    inferred: bool
    index: int
    reply: PolicyReply


class _Chunk:
    """The chunk in use, and when it is spent."""

    def __init__(self, policy: Any, replan_steps: int):
        if replan_steps < 1:
            raise ValueError(f"replan_steps: expected at least 1, found {replan_steps}")
        self._policy, self._replan_steps = policy, replan_steps
        self._reply: PolicyReply | None = None
        self._index = 0
        with contextlib.suppress(AttributeError, PolicyClientError):  # not connected yet, or it tells nothing of itself
            self._check(policy.metadata.action_horizon)

    @property
    def replan_steps(self) -> int:
        """Steps from one inference to the next."""
        return self._replan_steps

    @property
    def needs_inference(self) -> bool:
        """The next `act` asks the policy."""
        return self._reply is None or self._index == self._replan_steps

    def reset(self) -> None:
        """Forgets what is left of the chunk: at the start of an episode, or where the world has changed."""
        self._reply, self._index = None, 0

    def _take(self, reply: PolicyReply | None) -> ActionStep:
        if reply is not None:
            self._check(len(reply.actions))
            self._reply, self._index = reply, 0
        current = self._reply
        assert current is not None, "no chunk yet"  # noqa: S101 (needs_inference was true)
        self._index += 1
        return ActionStep(current.actions[self._index - 1], reply is not None, self._index - 1, current)

    def _check(self, horizon: int) -> None:
        if self._replan_steps > horizon:
            raise ValueError(f"replan_steps: {self._replan_steps} is more than the policy's action_horizon, {horizon}")


class ActionChunkBroker(_Chunk):
    """Hands out a policy's actions one a step, and asks it again every `replan_steps`.

    `observation` may be a function, which is called only in steps that ask; options of such steps alone, annotations say,
    are made where `needs_inference` is true:

        extra = {"timestep": t, "annotations": annotations()} if broker.needs_inference else {}
        robot.apply(broker.act(robot.observe, **extra).action)
    """

    def __init__(self, policy: Policy, replan_steps: int):
        """Asks `policy`.

        Raises:
            ValueError: `replan_steps` is below 1 or above the policy's action horizon; where the policy does not tell that
                beforehand, the first `act` raises it.
        """
        super().__init__(policy, replan_steps)

    def act(self, observation: Observation | Callable[[], Observation], **options: Unpack[InferOptions]) -> ActionStep:
        """The next action. Where the policy fails nothing changes, and the next call asks it again.

        Args:
            observation: as of `infer`, or a function that makes it; not looked at in steps that do not ask.
            options: as of `infer`; in steps that do not ask, only their names are looked at.

        Raises:
            TypeError: an option that there is not.
            Exception: what `infer` of the policy raises.
        """
        check_options(options)  # in every step, or a typo would show in the steps that ask alone
        if not self.needs_inference:
            return self._take(None)
        return self._take(self._policy.infer(observation() if callable(observation) else observation, **options))


class AsyncActionChunkBroker(_Chunk):
    """The same over an `AsyncPolicyClient` that is connected."""

    def __init__(self, policy: AsyncPolicy, replan_steps: int):
        """Asks `policy`; raises as `ActionChunkBroker`."""
        super().__init__(policy, replan_steps)

    async def act(
        self, observation: Observation | Callable[[], Observation], **options: Unpack[InferOptions]
    ) -> ActionStep:
        """See `ActionChunkBroker.act`."""
        check_options(options)  # in every step, or a typo would show in the steps that ask alone
        if not self.needs_inference:
            return self._take(None)
        return self._take(await self._policy.infer(observation() if callable(observation) else observation, **options))

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest
from vlascope_client import ActionChunkBroker, AsyncActionChunkBroker, PolicyClient, PolicyReply, ProtocolError
from vlascope_client.chunks import ActionStep

from tests.client.scripted_server import METADATA, scripted_server


@dataclasses.dataclass
class Counter:
    """A policy whose first action's number is that of the inference; fails where `fails` says."""

    horizon: int = 5
    fails: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.asked: list[tuple[Any, dict]] = []

    def infer(self, observation: Any, **options: Any) -> PolicyReply:
        self.asked.append((observation, options))
        number = len(self.asked) - 1
        if number in self.fails:
            raise ProtocolError("no")
        actions = 10.0 * number + np.arange(self.horizon, dtype=np.float32)[:, None]
        return PolicyReply.from_message({"actions": actions})


class AsyncCounter(Counter):
    async def infer(self, observation: Any, **options: Any) -> PolicyReply:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Counter.infer(self, observation, **options)


@pytest.fixture(params=["sync", "async"])
def made(request: pytest.FixtureRequest) -> Any:
    """`made(replan_steps, **policy)`: a policy, its broker, and `act` of it."""

    def make(replan_steps: int, **options: Any) -> tuple[Counter, Any, Any]:
        if request.param == "sync":
            policy = Counter(**options)
            broker = ActionChunkBroker(policy, replan_steps)
            return policy, broker, broker.act
        policy = AsyncCounter(**options)
        broker = AsyncActionChunkBroker(policy, replan_steps)
        return policy, broker, lambda *args, **kwargs: asyncio.run(broker.act(*args, **kwargs))

    return make


class TestBroker:
    def test_asks_every_replan_steps(self, made: Any) -> None:
        policy, broker, act = made(3)
        steps: list[ActionStep] = []
        needed = []
        for t in range(8):
            needed.append(broker.needs_inference)
            steps.append(act({"t": t}, timestep=t))
        assert [float(step.action[0]) for step in steps] == [0, 1, 2, 10, 11, 12, 20, 21]
        assert [step.inferred for step in steps] == needed == [t % 3 == 0 for t in range(8)]
        assert [step.index for step in steps] == [0, 1, 2, 0, 1, 2, 0, 1]
        assert policy.asked == [({"t": t}, {"timestep": t}) for t in (0, 3, 6)]

    def test_observation_is_made_where_it_is_needed(self, made: Any) -> None:
        policy, _, act = made(2)
        made_at: list[int] = []
        for t in range(4):
            act(lambda t=t: made_at.append(t) or {"t": t})
        assert made_at == [0, 2]
        assert [observation for observation, _ in policy.asked] == [{"t": 0}, {"t": 2}]

    def test_an_unknown_option_is_an_error_in_every_step(self, made: Any) -> None:
        policy, _, act = made(3)
        for _ in range(2):  # the first step asks the policy, the second does not
            with pytest.raises(TypeError, match="unknown option 'colect_latents'"):
                act("o", colect_latents=True)
            act("o", timestep=1)
        assert len(policy.asked) == 1

    def test_reset(self, made: Any) -> None:
        _, broker, act = made(3)
        act({})
        broker.reset()
        assert broker.needs_inference
        assert act({}).action[0] == 10

    def test_failure_changes_nothing(self, made: Any) -> None:
        _, broker, act = made(2, fails=(1,))
        act({})
        act({})
        with pytest.raises(ProtocolError):
            act({})
        assert broker.needs_inference
        assert act({}).action[0] == 20

    def test_whole_chunk(self, made: Any) -> None:
        _, _, act = made(5)
        assert [float(act({}).action[0]) for _ in range(6)] == [0, 1, 2, 3, 4, 10]

    def test_more_than_the_horizon(self, made: Any) -> None:
        _, _, act = made(6)
        with pytest.raises(ValueError, match="replan_steps: 6 is more than the policy's action_horizon, 5"):
            act({})

    @pytest.mark.parametrize("replan_steps", [0, -1])
    def test_too_few(self, made: Any, replan_steps: int) -> None:
        with pytest.raises(ValueError, match=f"replan_steps: expected at least 1, found {replan_steps}"):
            made(replan_steps)


def test_client_tells_its_horizon_beforehand() -> None:
    with scripted_server() as server, PolicyClient(server.url) as policy:
        with pytest.raises(ValueError, match="replan_steps: 11 is more than the policy's action_horizon, 10"):
            ActionChunkBroker(policy, 11)
        assert ActionChunkBroker(policy, 10).act({"prompt": "x"}).index == 0
    with scripted_server({"env": METADATA["robot"]}) as server, PolicyClient(server.url) as policy:
        broker = ActionChunkBroker(policy, 11)
        with pytest.raises(ValueError, match="replan_steps: 11"):
            broker.act({"prompt": "x"})

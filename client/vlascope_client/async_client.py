"""The client for asyncio: the same as `PolicyClient`, with every call awaited. Knows nothing of what is sent when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from websockets.asyncio.client import ClientConnection, connect

from vlascope_client.conversation import Conversation
from vlascope_client.replies import EpisodeBegun, EpisodeReceipt, PolicyReply, ServerStatus
from vlascope_client.requests import CaptureRequest, EpisodeRequest, InferOptions
from vlascope_client.steps import Close, Exchange, Open, Sleep, Step, Steps
from vlascope_client.transport import FAILURES, closing, connect_options, translate

T = TypeVar("T")


class AsyncPolicyClient(Conversation):
    """A policy behind a websocket, for asyncio; methods are those of `PolicyClient`.

    Connects when entered, by `connect`, or at the first request. Tasks that share one wait for each other: one connection
    answers one by one. A request that is cancelled costs the connection, and the next one makes a new one.

        async with AsyncPolicyClient("gpu-host:8000") as policy:
            actions = (await policy.infer(observation)).actions
    """

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        self._connection: ClientConnection | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._drive(self._closing(clean=error is None))

    async def connect(self) -> None:
        """See `PolicyClient.connect`."""
        await self._drive(self._connecting())

    async def reconnect(self) -> None:
        """See `PolicyClient.reconnect`."""
        await self._drive(self._reconnecting())

    async def close(self) -> None:
        """See `PolicyClient.close`."""
        await self._drive(self._closing(clean=True))

    async def infer(self, observation: Mapping[str, Any], **options: Unpack[InferOptions]) -> PolicyReply:
        """See `PolicyClient.infer`."""
        return await self._drive(self._inferring(observation, options))

    async def begin_episode(
        self, episode: EpisodeRequest | None = None, *, collect_latents: CaptureRequest = False
    ) -> EpisodeBegun:
        """See `PolicyClient.begin_episode`."""
        return await self._drive(self._beginning(episode, collect_latents))

    async def end_episode(
        self,
        episode: str,
        success: bool | None = None,
        total_steps: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> EpisodeReceipt:
        """See `PolicyClient.end_episode`."""
        return await self._drive(self._ending(episode, success, total_steps, metadata))

    async def plan(self, collect_latents: CaptureRequest = True) -> int:
        """See `PolicyClient.plan`."""
        return await self._drive(self._planning(collect_latents))

    async def status(self) -> ServerStatus:
        """See `PolicyClient.status`."""
        return await self._drive(self._asking_status())

    async def _drive(self, steps: Steps[T]) -> T:
        async with self._lock:
            try:
                step = next(steps)
                while True:
                    try:
                        result = await self._perform(step)
                    except BaseException as error:
                        step = steps.throw(translate(error) if isinstance(error, FAILURES) else error)
                    else:
                        step = steps.send(result)
            except StopIteration as end:
                return end.value

    async def _perform(self, step: Step) -> bytes | str | None:
        match step:
            case Open(url, timeout):
                return await self._open_connection(url, timeout)
            case Exchange(data, timeout):
                connection = self._connection
                assert connection is not None, "exchange before open"  # noqa: S101 (the conversation's own rule)
                async with asyncio.timeout(timeout):
                    await connection.send(data)
                    return await connection.recv()
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Close(clean):
                await self._drop(clean)
        return None

    async def _open_connection(self, url: str, timeout: float) -> bytes | str:
        await self._drop(clean=False)
        async with asyncio.timeout(timeout):
            self._connection = await connect(**connect_options(url, self._headers(), timeout, self._contexts[url]))
            try:
                return await self._connection.recv()
            except BaseException:
                await self._drop(clean=False)
                raise

    async def _drop(self, clean: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            code, connection.close_timeout = closing(clean)
            with contextlib.suppress(*FAILURES):
                await connection.close(code)

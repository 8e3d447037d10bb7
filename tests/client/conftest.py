"""Both twins behind one face, and a server to talk to."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from vlascope_client import AsyncPolicyClient, Backoff, PolicyClient

from tests.client.scripted_server import ScriptedServer, scripted_server

QUICK = Backoff(first=0.01, cap=0.05)


class Awaited:
    """`AsyncPolicyClient` with the calls of `PolicyClient`, on an event loop of its own."""

    def __init__(self, servers: Any, **options: Any):
        self.loop = asyncio.new_event_loop()
        self.client = AsyncPolicyClient(servers, **options)
        try:
            self.connect()
        except BaseException:
            self.loop.close()
            raise

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.client, name)
        if not asyncio.iscoroutinefunction(value):
            return value
        return lambda *args, **kwargs: self.loop.run_until_complete(value(*args, **kwargs))

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *error: Any) -> None:
        self.loop.run_until_complete(self.client.__aexit__(*error))


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """`connect(servers, **options)`: a connected client of either kind that waits little between tries."""
    made: list[Any] = []

    def connect(servers: Any, **options: Any) -> Any:
        kind = PolicyClient if request.param == "sync" else Awaited
        client = kind(servers, **{"retries": 4, "backoff": QUICK, "timeout": 5.0, **options})
        made.append(client)
        return client

    yield connect
    for client in made:
        client.close()
        if isinstance(client, Awaited):
            client.loop.close()


@dataclasses.dataclass(frozen=True)
class Spec:
    """As `vlascope_latents.CaptureSpec`, which knows its map."""

    layers: tuple[int, ...] = (1,)

    def to_map(self) -> dict[str, Any]:
        return {"layers": list(self.layers)}

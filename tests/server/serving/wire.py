"""Speaks the protocol with nothing but websockets and the codec, so that a test may say anything at all."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Iterator
from typing import Any

import numpy as np
import websockets.sync.client
from vlascope_client.codec import pack, unpack


class Wire:
    """One connection.

    Attributes:
        metadata: the server's first message.
    """

    def __init__(self, socket: websockets.sync.client.ClientConnection):
        self.socket = socket
        first = socket.recv(timeout=60)
        assert isinstance(first, bytes)
        self.metadata: dict[str, Any] = unpack(first)

    def send(self, message: Any) -> None:
        self.socket.send(message if isinstance(message, bytes | str) else pack(message))

    def receive(self, seconds: float = 120) -> dict[str, Any]:
        """The reply; an error has a `code`."""
        reply = self.socket.recv(timeout=seconds)
        return json.loads(reply) if isinstance(reply, str) else unpack(reply)

    def ask(self, message: Any) -> dict[str, Any]:
        self.send(message)
        return self.receive()


@contextlib.contextmanager
def connect(url: str, key: str | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Wire]:
    headers = {"Authorization": f"Api-Key {key}"} if key else None
    with websockets.sync.client.connect(
        url, compression=None, max_size=None, additional_headers=headers, ssl=tls, proxy=None
    ) as socket:
        yield Wire(socket)


def observation(seed: int = 0, **fields: Any) -> dict[str, Any]:
    """What LIBERO's arm sends, of noise."""
    rng = np.random.default_rng(seed)
    return {
        "observation/image": rng.integers(0, 256, (128, 128, 3), np.uint8),
        "observation/wrist_image": rng.integers(0, 256, (128, 128, 3), np.uint8),
        "observation/state": rng.standard_normal(8),
        "prompt": "pick up the alphabet soup and place it in the basket",
        "seed": seed,
        **fields,
    }

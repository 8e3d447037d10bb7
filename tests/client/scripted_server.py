"""A server that speaks docs/protocol.md with a policy of no wits, and misbehaves on cue. Knows nothing of the client."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import numpy as np
from vlascope_client.codec import pack, unpack
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response
from websockets.sync.server import ServerConnection, serve

METADATA: dict[str, Any] = {
    "protocol": 1, "server": "vlascope 0.1.0", "checkpoint": "scripted", "model": "pi0", "fingerprint": "aaaa",
    "robot": "libero", "cameras": {"base_0_rgb": "observation/image"}, "image_size": 112, "state_dim": 8, "action_dim": 7,
    "action_horizon": 10, "gripper": "-1 opens, +1 closes", "denoise_steps": 4, "noise_shape": [10, 32],
    "default_prompt": None, "deterministic": True, "trained_on": {"assets": "libero"},
    "capture": {
        "run": "run-0", "experts": ["vlm"], "components": ["hidden_states"], "layers": 2, "denoise_steps": 4,
        "spans": {"vlm": [{"name": "text", "start": 0, "stop": 4}]}, "default_spec": {"layers": "all"}, "frame_bytes": 48,
    },
    "limits": {"message_bytes": 1 << 20, "clients": 4, "requests_in_flight": 4},
}  # fmt: skip
LATENTS = np.array([1.0, -2.5, 3e38, 1e-40], np.float32)
"""What `return_latents` returns, as bfloat16 bits: its upper halves."""

Cue = Callable[["ScriptedServer", ServerConnection, dict], Any]
"""What to do instead of answering a message: returns the frame to send, or None for nothing."""


def drop(server: ScriptedServer, connection: ServerConnection, message: dict) -> None:
    """The connection breaks without a word."""
    connection.socket.shutdown(socket.SHUT_RDWR)


def close(code: int) -> Cue:
    return lambda server, connection, message: connection.close(code)


def error(code: str, **fields: Any) -> Cue:
    return lambda *_: json.dumps({"code": code, "message": f"it is {code}", "field": None, "allowed": [], **fields})


def late(seconds: float) -> Cue:
    def answer(server: ScriptedServer, connection: ServerConnection, message: dict) -> bytes:
        time.sleep(seconds)
        return server.answer(connection, message)

    return answer


def frame(data: bytes | str) -> Cue:
    return lambda *_: data


class ScriptedServer:
    """Runs on a port, in threads.

    Attributes:
        metadata: sent on connect.
        script: cues for the next messages, in order; without one a message is answered.
        refusals: (status, body) for the next handshakes.
        received: (connection number, message) of each message.
        keys: `Authorization` of each handshake.
        close_codes: of each connection that was closed properly or not, in that order; None without a close frame.
    """

    def __init__(self, metadata: dict[str, Any] | None = None, port: int = 0):
        self.metadata = METADATA if metadata is None else metadata
        self.script: deque[Cue] = deque()
        self.refusals: deque[tuple[int, str]] = deque()
        self.received: list[tuple[int, dict]] = []
        self.keys: list[str | None] = []
        self.close_codes: list[int | None] = []
        self.frames: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.tls: ssl.SSLContext | None = None
        self._port = port
        self._connections: list[ServerConnection] = []

    @property
    def messages(self) -> list[dict]:
        return [message for _, message in self.received]

    @property
    def url(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://localhost:{self._port}"

    @property
    def connections(self) -> int:
        """How many were let in."""
        return len(self._connections)

    def start(self) -> None:
        self._server = serve(
            self._converse, "localhost", self._port, process_request=self._handshake, compression=None, max_size=None,
            ssl=self.tls,
        )  # fmt: skip
        self._port = self._server.socket.getsockname()[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """As a process that is killed: nobody is told."""
        stopping = threading.Thread(target=self._server.shutdown, kwargs={"close_connections": False})
        stopping.start()
        while stopping.is_alive():
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)
            stopping.join(0.01)

    def _handshake(self, connection: ServerConnection, request: Any) -> Response | None:
        self.keys.append(request.headers.get("Authorization"))
        if not self.refusals:
            return None
        status, body = self.refusals.popleft()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body.encode()))})
        return Response(status, HTTPStatus(status).phrase, headers, body.encode())

    def _converse(self, connection: ServerConnection) -> None:
        number = len(self._connections)
        self._connections.append(connection)
        try:
            connection.send(pack(self.metadata))
            while True:
                message = unpack(connection.recv())
                self.received.append((number, message))
                cue = self.script.popleft() if self.script else None
                reply = cue(self, connection, message) if cue else self.answer(connection, message)
                if reply is not None:
                    connection.send(reply)
        except ConnectionClosed as closed:
            self.close_codes.append(closed.rcvd.code if closed.rcvd else None)

    def answer(self, connection: ServerConnection, message: dict) -> bytes:
        name = message.get("request")
        episode = (message.get("episode") or {}).get("id") or f"own-{self._connections.index(connection)}"
        if name == "status":
            counts = ("committed", "dropped", "pending", "queue_bytes", "queue_limit", "episodes_open", "clients")
            status = dict.fromkeys((*counts, "requests_in_flight"), 2)
            return pack({"request": name, "ready": True, "run": "run-0", "uptime_s": 3, **status})
        if name == "plan":
            return pack({"request": name, "bytes": 384, "tensors": []})
        if name == "begin_episode":
            return pack({"request": name, "episode": episode, "run": "run-0", "attempt": None})
        if name == "end_episode":
            frames = self.frames.pop(episode, 0)
            fields = {"episode": episode, "run": "run-0", "attempt": 1, "status": "sealed", "dropped": 0, "error": None}
            return pack({"request": name, "frames": frames, **fields})
        reply: dict[str, Any] = {
            "actions": np.arange(70, dtype=np.float32).reshape(10, 7) + 100 * (message.get("timestep") or 0),
            "state": [0.5] * 8,
            "seed": message.get("seed", 7),
            "policy_timing": {"infer_ms": 1.0},
            "server_timing": {"infer_ms": 2.0},
        }
        if message.get("collect_latents"):
            frame = self.frames.get(episode, 0)
            self.frames[episode] = frame + 1
            reply["latents"] = {
                "run": self.metadata["capture"]["run"], "episode": episode, "attempt": 1, "frame": frame, "bytes": 48,
                "queue": {"bytes": 5, "limit": 9},
            }  # fmt: skip
            if message.get("return_latents"):
                bits = (LATENTS.view(np.uint32) >> 16).astype(np.uint16)
                reply["latents"]["tensors"] = {
                    "vlm/hidden_states": {"data": bits, "logical_dtype": "bfloat16", "dims": ["feature"]},
                    "action/v_t": {"data": LATENTS, "logical_dtype": "float32", "dims": ["action"]},
                }
        return pack(reply)


@contextlib.contextmanager
def scripted_server(metadata: dict[str, Any] | None = None, port: int = 0) -> Iterator[ScriptedServer]:
    server = ScriptedServer(metadata, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()

"""The websocket server.

Lifecycle:
1. `start` binds the port; the policy is loaded, nothing is compiled yet. `/healthz` and pings are answered from here on.
2. `warm_up` compiles; then `/readyz` says so. Observations that come before wait.
3. Each connection is answered message by message: the event loop reads and writes, a worker thread does the rest.
4. `stop` refuses new messages, finishes those in flight, seals open episodes as interrupted, and closes.

Errors: a request that is wrong is answered with an error and the connection lives on; a fault of ours is answered with a
number, and logged with its traceback under that number; a connection that breaks takes only its own episodes with it.

Knows nothing of what messages mean.
"""

from __future__ import annotations

import asyncio
import dataclasses
import http
import logging
import ssl
import time
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vlascope_client.codec import pack
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from vlascope_server.serving.access import Access
from vlascope_server.serving.errors import RequestError, error_json
from vlascope_server.serving.session import Service, Session

_log = logging.getLogger(__name__)

_quiet = logging.getLogger("vlascope_server.websockets")
_quiet.setLevel(logging.CRITICAL)
"""Health checks and scanners that hang up are no news, and websockets logs each with a traceback; faults of ours are
logged here."""

_HARD_LIMIT = 2
"""Messages up to this many times the limit are read, and refused by name; longer ones end the connection."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes at most.

    Attributes:
        message_bytes: of one message.
        clients: connections.
        requests_in_flight: messages being answered, of all clients together.
    """

    message_bytes: int = 32 * 10**6
    clients: int = 64
    requests_in_flight: int = 64


class PolicyServer:
    """One policy on one port."""

    def __init__(self, service: Service, metadata: Mapping[str, Any], *, access: Access, limits: Limits):
        self._service, self._access, self._limits = service, access, limits
        self._metadata = pack(metadata)
        self._connections: set[ServerConnection] = set()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ready = self._stopping = False
        self._started = time.monotonic()
        self._server: Server | None = None
        # one thread a client, so that one that waits for room in the store holds up nobody else
        self._workers = ThreadPoolExecutor(limits.clients + 2, thread_name_prefix="session")

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Listens; the port, which is a free one where 0 is asked.

        Raises:
            OSError: the address cannot be had.
        """
        self._server = await serve(
            self._converse,
            host,
            port,
            ssl=tls,
            compression=None,
            max_size=_HARD_LIMIT * self._limits.message_bytes,
            max_queue=1,
            process_request=self._process_request,
            server_header="vlascope",
            logger=_quiet,
        )
        return next(iter(self._server.sockets)).getsockname()[1]

    async def warm_up(self, compiled: Awaitable[None]) -> None:
        """Waits until the policy is compiled, elsewhere; then is ready."""
        await compiled
        self._ready = not self._stopping
        self._service.metrics.ready.set(int(self._ready))

    async def stop(self) -> None:
        """Finishes what is in flight, closes every connection, and ends their episodes."""
        self._stopping, self._ready = True, False
        self._service.metrics.ready.set(0)
        await self._idle.wait()
        if self._server is not None:
            self._server.close(code=1001, reason="the server is shutting down")
            await self._server.wait_closed()
        self._workers.shutdown()

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """HTTP, and refusals before a websocket is opened."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return _response(200, b'{"status": "alive"}')
        if path == "/readyz":
            status = "ready" if self._ready else "shutting down" if self._stopping else "compiling"
            return _response(200 if self._ready else 503, f'{{"status": "{status}"}}'.encode())
        if path not in ("/", "/metrics"):
            return _refusal(404, "not_found", f"{path[:80]}: expected /, /healthz, /readyz or /metrics")
        if not self._access.allows(request.headers.get("Authorization")):
            return _refusal(
                401, "unauthorized", "a key is needed, as `Authorization: Api-Key <key>`; none or a wrong one came"
            )
        if path == "/metrics":
            # the store's numbers wait for its lock, under which it writes to disk
            text = await asyncio.to_thread(self._service.metrics.render)
            return _response(200, text, "text/plain; version=0.0.4; charset=utf-8")
        if self._stopping:
            return _refusal(503, "shutting_down", "the server is shutting down")
        if len(self._connections) >= self._limits.clients:
            return _refusal(
                503, "too_many_clients", f"{self._limits.clients} clients are connected, the most that are let in"
            )
        return None

    async def _converse(self, connection: ServerConnection) -> None:
        session = Session(self._service, self._status)
        self._connections.add(connection)
        self._service.metrics.clients.set(len(self._connections))
        clean = False
        try:
            await connection.send(self._metadata)
            async for message in connection:
                begun = time.perf_counter()
                await connection.send(await self._answer(session, message))
                session.sent(time.perf_counter() - begun)
            clean = not self._stopping
        except ConnectionClosed:
            pass  # a broken connection is the client's news
        except Exception:
            _log.exception("a conversation failed")
        finally:
            closing = asyncio.get_running_loop().run_in_executor(self._workers, lambda: session.close(clean=clean))
            await asyncio.shield(closing)
            # only now: a client that is being sealed still has its thread
            self._connections.discard(connection)
            self._service.metrics.clients.set(len(self._connections))

    async def _answer(self, session: Session, message: bytes | str) -> bytes | str:
        if self._stopping:
            return RequestError("shutting_down", "the server is shutting down: connect again later").to_json()
        if len(message) > self._limits.message_bytes:
            return RequestError(
                "message_too_large", f"message: {len(message)} bytes; expected at most {self._limits.message_bytes}"
            ).to_json()
        if self._in_flight >= self._limits.requests_in_flight:
            return RequestError(
                "overloaded", f"{self._in_flight} requests are in flight, the most that are taken: try again"
            ).to_json()
        self._in_flight += 1
        self._idle.clear()
        self._service.metrics.in_flight.set(self._in_flight)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, session.answer, message)
        finally:
            self._in_flight -= 1
            self._service.metrics.in_flight.set(self._in_flight)
            if not self._in_flight:
                self._idle.set()

    def _status(self) -> dict[str, Any]:
        return {
            "ready": self._ready,
            "clients": len(self._connections),
            "requests_in_flight": self._in_flight,
            "uptime_s": time.monotonic() - self._started,
        }


def _refusal(status: int, code: str, message: str) -> Response:
    return _response(status, error_json(code, message).encode())


def _response(status: int, body: bytes, content_type: str = "application/json") -> Response:
    headers = Headers(
        {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Cache-Control": "no-store",
        }
    )
    return Response(status, http.HTTPStatus(status).phrase, headers, body)

"""The websocket server.

Lifecycle:
1. `start` binds the port; the policy is loaded, nothing is compiled yet. `/healthz` and pings are answered from here on.
2. `warm_up` compiles; then `/readyz` says so. Observations that come before wait.
3. Each connection is answered message by message: the event loop reads and writes, a worker thread does the rest.
4. A client that hangs up while it is being answered is noticed at once: nothing more is compiled or computed for it.
5. `stop` refuses new messages, finishes those in flight that are done within seconds, refuses the others, seals open episodes
   as interrupted, and closes.

Errors: a request that is wrong is answered with an error and the connection lives on; a fault of ours is answered with a
number, and logged with its traceback under that number; a connection that breaks takes only its own episodes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import select
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

from vlascope_server.serving.access import Access, single
from vlascope_server.serving.errors import RequestError, error_json
from vlascope_server.serving.options import Limits
from vlascope_server.serving.service import Service
from vlascope_server.serving.session import Session
from vlascope_server.serving.sockets import BACKLOG, Arrivals, listen

_log = logging.getLogger(__name__)

_quiet = logging.getLogger("vlascope_server.websockets")
_quiet.setLevel(logging.CRITICAL)
"""Health checks and scanners that hang up are no news, and websockets logs each with a traceback; faults of ours are
logged here."""

_FINISH_SECONDS = 3.0
"""After a signal to end: messages in flight that take longer are refused."""

_GOODBYE_SECONDS = 1.0
"""A client may take to close its side of a connection."""

_LOOK_SECONDS = 0.5
"""Between looks whether clients that wait for an answer are still there."""

_HARD_LIMIT = 2
"""Messages up to this many times the limit are read, and refused by name; longer ones end the connection."""


class PolicyServer:
    """One policy on one port."""

    def __init__(self, service: Service, metadata: Mapping[str, object], *, access: Access, limits: Limits):
        self._service, self._access, self._limits = service, access, limits
        self._metadata = pack(metadata)
        # as many from one host as could all be let in, since its clients may start together
        of_a_host = min(limits.max_connecting, max(limits.max_clients, limits.max_connecting // 4))
        self._arrivals = Arrivals(limits.max_connecting, of_a_host)
        self._admitted: set[ServerConnection] = set()
        self._connections: set[ServerConnection] = set()
        self._waiting: set[ServerConnection] = set()
        self._looking: asyncio.Task[None] | None = None
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ready = self._stopping = False
        self._started = time.monotonic()
        self._servers: list[Server] = []
        # one thread a client, so that one that waits for room in the store holds up nobody else
        self._workers = ThreadPoolExecutor(limits.max_clients + 2, thread_name_prefix="session")

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Listens; the port, which is a free one where 0 is asked.

        Raises:
            OSError: the address cannot be had.
        """
        asyncio.get_running_loop().set_exception_handler(_log_in_one_line)
        for listening in listen(host, port, self._arrivals):
            server = await serve(
                self._converse,
                sock=listening,
                backlog=BACKLOG,
                ssl=tls,
                compression=None,
                max_size=_HARD_LIMIT * self._limits.max_message_bytes,
                max_queue=1,
                close_timeout=_GOODBYE_SECONDS,
                process_request=self._process_request,
                server_header="vlascope",
                logger=_quiet,
            )
            self._servers.append(server)
        self._looking = asyncio.create_task(self._look_for_hangups())
        return next(iter(self._servers[0].sockets)).getsockname()[1]

    async def warm_up(self, compiled: Awaitable[None]) -> None:
        """Waits until the policy is compiled, elsewhere; then is ready."""
        await compiled
        self._ready = not self._stopping
        self._service.metrics.ready.set(int(self._ready))

    async def stop(self) -> None:
        """Finishes what is in flight and soon done, closes every connection, and ends their episodes."""
        self._stopping, self._ready = True, False
        self._service.metrics.ready.set(0)
        try:
            async with asyncio.timeout(_FINISH_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("%d requests in flight are refused: they would take too long", self._in_flight)
        # whoever still waits for a program or for a batch is told that it will not come
        self._service.programs.close()
        await asyncio.to_thread(self._service.batcher.close)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._idle.wait()
        if self._looking is not None:
            self._looking.cancel()
        self._arrivals.hang_up()
        for server in self._servers:
            server.close(code=1001, reason="the server is shutting down")
        for server in self._servers:
            await server.wait_closed()
        await asyncio.to_thread(self._workers.shutdown)

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """HTTP, and refusals before a websocket is opened."""
        if self._access.lacks_key(request.headers):
            return _unauthorized()
        if (why := self._access.foreign(request.headers)) is not None:
            return _refusal(403, "forbidden", why)
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return _response(200, b'{"status": "alive"}')
        if path == "/readyz":
            status = "ready" if self._ready else "shutting down" if self._stopping else "compiling"
            return _response(200 if self._ready else 503, f'{{"status": "{status}"}}'.encode())
        if path not in ("/", "/metrics"):
            return _refusal(404, "not_found", f"{path[:80]}: expected /, /healthz, /readyz or /metrics")
        if not self._access.allows(single(request.headers, "Authorization")):
            return _unauthorized()
        if path == "/metrics":
            # the store's numbers wait for its lock, under which it writes to disk
            text = await asyncio.to_thread(self._service.metrics.render)
            return _response(200, text, "text/plain; version=0.0.4; charset=utf-8")
        if self._stopping:
            return _refusal(503, "shutting_down", "the server is shutting down")
        if len(self._connections | self._admitted) >= self._limits.max_clients:
            return _refusal(
                503, "too_many_clients", f"{self._limits.max_clients} clients are connected, the most that are let in"
            )
        self._arrivals.let_in(connection.remote_address)
        self._admitted.add(connection)
        lost = asyncio.ensure_future(connection.wait_closed())
        lost.add_done_callback(lambda _: self._admitted.discard(connection))
        return None

    async def _converse(self, connection: ServerConnection) -> None:
        session = Session(self._service, self._status, _host(connection))
        self._connections.add(connection)
        lost = asyncio.ensure_future(connection.wait_closed())
        lost.add_done_callback(lambda _: session.abandon())
        self._service.metrics.clients.set(len(self._connections))
        clean = False
        try:
            await connection.send(self._metadata)
            async for message in connection:
                begun = time.perf_counter()
                self._waiting.add(connection)
                try:
                    reply = await self._answer(session, message)
                finally:
                    self._waiting.discard(connection)
                await connection.send(reply)
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
        if len(message) > self._limits.max_message_bytes:
            return RequestError(
                "message_too_large", f"message: {len(message)} bytes; expected at most {self._limits.max_message_bytes}"
            ).to_json()
        if self._in_flight >= self._limits.max_in_flight:
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

    async def _look_for_hangups(self) -> None:
        """Ends connections whose clients hung up while they wait: a socket that nobody reads does not say so by itself.

        That is so while a client's next message waits to be read.
        """
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for connection in [connection for connection in self._waiting if _has_hung_up(connection)]:
                connection.transport.abort()

    def _status(self) -> dict[str, object]:
        return {
            "ready": self._ready,
            "clients": len(self._connections),
            "requests_in_flight": self._in_flight,
            "uptime_s": time.monotonic() - self._started,
        }


def _log_in_one_line(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio could tell nobody else. An error of the system, such as no descriptors, needs no traceback."""
    error = context.get("exception")
    details = None if error is None or isinstance(error, OSError) else error
    _log.error("%s (%s)", context["message"], error, exc_info=details)


def _host(connection: ServerConnection) -> str:
    address = connection.remote_address
    return address[0] if address else ""


def _has_hung_up(connection: ServerConnection) -> bool:
    """Whether the other side has closed the socket, read to its end or not; False on systems that do not tell."""
    if not hasattr(select, "POLLRDHUP"):
        return False
    number = connection.transport.get_extra_info("socket").fileno()
    if number < 0:
        return True
    poll = select.poll()
    poll.register(number, select.POLLRDHUP)
    return bool(poll.poll(0))


def _unauthorized() -> Response:
    return _refusal(401, "unauthorized", "a key is needed, as `Authorization: Api-Key <key>`; none or a wrong one came")


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

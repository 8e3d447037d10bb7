"""What only one of the twins has, and what neither needs a server for."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vlascope_client import AsyncPolicyClient, Backoff, PolicyClient, PolicyConnectionError, PolicyTimeoutError
from vlascope_client.codec import pack
from vlascope_client.servers import server_urls

from tests.client.conftest import QUICK
from tests.client.scripted_server import METADATA, ScriptedServer, late

OBSERVATION = {"prompt": "stack the cubes"}


def test_twins_have_the_same_face() -> None:
    def face(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in methods if not name.startswith("_")}

    assert face(PolicyClient) == face(AsyncPolicyClient)
    assert inspect.signature(PolicyClient) == inspect.signature(AsyncPolicyClient)


def test_threads_get_their_own_replies(server: Any) -> None:
    with PolicyClient(server.url) as client:
        found: dict[int, float] = {}

        def ask(n: int) -> None:
            found[n] = float(client.infer(OBSERVATION, timestep=n).actions[0, 0])

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {n: 100.0 * n for n in range(8)}


async def eight_tasks(url: str) -> list[float]:
    async with AsyncPolicyClient(url) as client:
        replies = await asyncio.gather(*(client.infer(OBSERVATION, timestep=n) for n in range(8)))
    return [float(reply.actions[0, 0]) for reply in replies]


def test_tasks_get_their_own_replies(server: Any) -> None:
    assert asyncio.run(eight_tasks(server.url)) == [100.0 * n for n in range(8)]
    assert server.connections == 1


def test_cancelled_request_leaves_no_reply_behind(server: Any) -> None:
    async def body() -> float:
        async with AsyncPolicyClient(server.url, backoff=QUICK) as client:
            server.script.append(late(0.3))
            task = asyncio.create_task(client.infer(OBSERVATION, timestep=1))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return float((await client.infer(OBSERVATION, timestep=2)).actions[0, 0])

    assert asyncio.run(body()) == 200
    assert server.connections == 2


def test_interrupt_leaves_no_reply_behind(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with PolicyClient(server.url) as client:
        exchange = client._exchange

        def interrupted(data: bytes, timeout: float) -> Any:
            exchange_once = client._connection
            assert exchange_once is not None
            exchange_once.send(data)
            monkeypatch.setattr(client, "_exchange", exchange)
            raise KeyboardInterrupt

        monkeypatch.setattr(client, "_exchange", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.infer(OBSERVATION, timestep=1)
        assert client.infer(OBSERVATION, timestep=2).actions[0, 0] == 200


def test_async_client_before_it_is_connected(server: Any) -> None:
    async def body() -> int:
        client = AsyncPolicyClient(server.url)
        with pytest.raises(PolicyConnectionError, match="metadata: not connected yet"):
            _ = client.metadata
        await client.infer(OBSERVATION)
        await client.close()
        return client.metadata.action_horizon

    assert asyncio.run(body()) == 10


def test_peer_that_reads_nothing() -> None:
    """A message larger than the sockets' buffers blocks in `send`, which knows no timeout."""
    from websockets.sync.server import serve

    free = threading.Event()

    def converse(connection: Any) -> None:
        connection.send(pack(METADATA))
        free.wait(20)

    with serve(converse, "localhost", 0, max_queue=1, compression=None, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = PolicyClient(f"localhost:{server.socket.getsockname()[1]}", timeout=0.5, first_timeout=0.5, retries=0)
        begun = time.monotonic()
        image = np.zeros(1 << 20, np.uint8)
        with pytest.raises(PolicyTimeoutError):
            client.infer({f"image_{n}": image for n in range(40)})
        assert time.monotonic() - begun < 5
        free.set()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


def test_tls(connect: Any, certificate: tuple[Path, Path]) -> None:
    key, cert = certificate
    server = ScriptedServer()
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(cert, key)
    server.start()
    try:
        assert connect(server.url, tls=cert).infer(OBSERVATION).actions.shape == (10, 7)
        assert connect(server.url, tls=ssl.create_default_context(cafile=str(cert))).status().ready
        begun = time.monotonic()
        with pytest.raises(PolicyConnectionError, match=r"its certificate is not trusted: self.signed certificate"):
            connect(server.url, retries=50)
        assert time.monotonic() - begun < 1  # nothing that a second try could mend
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        ("robot:8000", ("ws://robot:8000",)),
        ("ws://robot:8000", ("ws://robot:8000",)),
        ("wss://robot", ("wss://robot",)),
        ("[::1]:8000", ("ws://[::1]:8000",)),
        (["a:1", "wss://b:2"], ("ws://a:1", "wss://b:2")),
    ],
)
def test_addresses(given: Any, urls: tuple[str, ...]) -> None:
    assert server_urls(given) == urls


@pytest.mark.parametrize(
    "given", ["http://robot:8000", "robot:port", "robot:99999", "", "ws://", ["a:1", "tcp://b:2"], []]
)
def test_what_is_no_address(given: Any) -> None:
    with pytest.raises(ValueError, match=r"expected (at least one, such as )?ws://"):
        PolicyClient(given)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout": 0}, "timeout: expected seconds above 0, found 0"),
        ({"first_timeout": -1}, "first_timeout: expected seconds above 0"),
        ({"first_contact_timeout": "x"}, "first_contact_timeout: expected seconds above 0, found 'x'"),
        ({"timeout": None}, "timeout: expected seconds above 0, found None"),
        ({"connect_timeout": True}, "connect_timeout: expected seconds above 0, found True"),
        ({"retries": -1}, "retries: expected a whole number, 0 or more, found -1"),
        ({"retries": 1.5}, "retries: expected a whole number, 0 or more, found 1.5"),
        ({"servers": "wss://robot", "tls": "/nowhere.pem"}, r"tls: /nowhere.pem: expected a file of certificates"),
    ],
)
def test_what_is_no_option(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PolicyClient(**{"servers": "robot:8000", **options})


def test_backoff() -> None:
    steady = list(itertools.islice(Backoff(first=0.5, cap=3, jitter=0).delays(), 5))
    assert steady == [0.5, 1, 2, 3, 3]
    spread = [list(itertools.islice(Backoff(first=0.5, cap=3).delays(), 5)) for _ in range(50)]
    for n, longest in enumerate(steady):
        column = [delays[n] for delays in spread]
        assert all(longest / 2 <= delay <= longest for delay in column)
        assert len(set(column)) > 40
    for wrong in ({"first": 0}, {"first": 2, "cap": 1}, {"jitter": 2}):
        with pytest.raises(ValueError, match="backoff: expected"):
            Backoff(**wrong)


def test_closed_client_holds_no_socket(server: Any) -> None:
    with PolicyClient(server.url) as client:
        assert client._connection is not None
        sock: socket.socket = client._connection.socket
    assert sock.fileno() == -1

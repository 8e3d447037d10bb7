"""A web page is no client: a foreign `Origin` and a foreign `Host` are refused unless an option allows them."""

from __future__ import annotations

import json
import socket

import pytest
from vlascope_server.serving.access import Access
from vlascope_server.serving.errors import ServeError
from websockets.datastructures import Headers

from tests.server.serving.live_server import LiveServer, serve
from tests.server.serving.wire import connect, observation

KEY = "correct-horse-battery-staple"
HANDSHAKE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
             "Sec-WebSocket-Version: 13")  # fmt: skip
PATHS = ("/", "/metrics", "/healthz", "/readyz", "/anything")


def own_names() -> set[str]:
    name = socket.gethostname()
    return {name, f"{name.partition('.')[0]}.local", socket.getfqdn(), f"{name}.", "localhost.", "localhost.:8000"}


def status(server: LiveServer, path: str, *headers: str) -> int:
    """Of a request with exactly these headers."""
    host, port = server.url.removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        lines = "".join(f"{header}\r\n" for header in (*headers, *(HANDSHAKE if path == "/" else ())))
        raw.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        reply = raw.recv(4096).decode(errors="replace")
    if " 403 " in reply.splitlines()[0]:
        body = json.loads(reply.partition("\r\n\r\n")[2])
        assert body["code"] == "forbidden"
        assert "--allow-" in body["message"] or "expected one Host" in body["message"]
    return int(reply.split()[1])


@pytest.mark.parametrize("path", PATHS)
def test_pages_are_refused_everywhere(server, path):
    good = f"Host: {server.url.removeprefix('ws://')}"
    for refused in (
        ("Host: rebound.evil.example",),
        ("Host: rebound.evil.example:8000",),
        ("Host: 127.0.0.1.evil.example",),
        ("Host: localhost.evil.example",),
        (good, "Origin: https://evil.example"),
        (good, "Origin: null"),
        (good, "Origin: http://localhost:3000"),
        (good, f"Origin: https://{good.removeprefix('Host: ')}.evil.example"),
        (good, good),
        (good, "Origin: http://a.example", f"Origin: http://{good.removeprefix('Host: ')}"),
        (),
    ):
        assert status(server, path, *refused) == 403, refused


def test_programs_are_let_in(server):
    port = server.url.rsplit(":", 1)[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", "[::1]:80", "10.0.0.7", *own_names()):
        assert status(server, "/healthz", f"Host: {host}") == 200
        assert status(server, "/", f"Host: {host}") == 101
    # some libraries for programs send the server's own origin
    assert status(server, "/", f"Host: localhost:{port}", f"Origin: http://localhost:{port}") == 101
    with connect(server.url) as wire:
        assert "actions" in wire.ask(observation())


def test_what_options_allow():
    options = ("--allow-host", "gpu.example", "--allow-origin", "https://pages.example", "--warm-up", "none")
    with serve(*options, ready=False) as server:
        for path, fine in (("/", 101), ("/healthz", 200)):
            assert status(server, path, "Host: gpu.example:8000") == fine
            assert status(server, path, "Host: gpu.example", "Origin: https://pages.example") == fine
            assert status(server, path, "Host: gpu.example", "Origin: https://other.example") == 403
            assert status(server, path, "Host: other.example") == 403


def test_who_knows_the_key_may_call_the_server_by_any_name():
    access = Access(KEY)
    named = {"Host": "gpu.example:8000"}
    assert access.foreign(Headers(named)) is not None
    assert access.foreign(Headers({**named, "Authorization": f"Api-Key {KEY}x"})) is not None
    assert access.foreign(Headers({**named, "Authorization": f"Api-Key {KEY}"})) is None
    assert (
        access.foreign(Headers({**named, "Authorization": f"Api-Key {KEY}", "Origin": "https://x.example"})) is not None
    )


def test_a_name_without_the_key_is_told_that_the_key_is_missing(tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY)
    with serve("--api-key-file", str(file), "--warm-up", "none", ready=False) as server:
        for path in PATHS:
            assert status(server, path, "Host: gpu.example:8000") == 401
            assert status(server, path, "Host: gpu.example", f"Authorization: Api-Key {KEY}x") == 401
            assert status(server, path) == 403  # no Host at all
            assert status(server, path, "Host: localhost", "Origin: https://evil.example") == 403
        assert status(server, "/healthz", "Host: localhost") == 200
        assert status(server, "/", "Host: gpu.example", f"Authorization: Api-Key {KEY}") == 101


def test_a_machines_names_are_looked_up_once(monkeypatch):
    monkeypatch.setattr("socket.getfqdn", lambda: "GPU.lab.example")
    access, other = Access(None), Access(None, ["a.example."])
    monkeypatch.setattr("socket.getfqdn", None)
    for name in ("gpu.lab.example", "gpu.lab.example.:8000"):
        assert access.foreign(Headers({"Host": name})) is None
    assert access.foreign(Headers({"Host": "gpu.lab.example.."})) is not None
    assert other.foreign(Headers({"Host": "a.example"})) is None


def test_any_host_and_origin():
    assert Access(None, ["*"], ["*"]).foreign(Headers({"Host": "x.example", "Origin": "https://y.example"})) is None


@pytest.mark.parametrize("host", ["http://a.example", "a.example:8000", "", "a b"])
def test_no_name_of_a_host(host):
    with pytest.raises(ServeError, match="--allow-host"):
        Access(None, [host])


@pytest.mark.parametrize("origin", ["a.example", "https://a.example/", "https://", "a.example:80"])
def test_no_origin(origin):
    with pytest.raises(ServeError, match="--allow-origin"):
        Access(None, [], [origin])

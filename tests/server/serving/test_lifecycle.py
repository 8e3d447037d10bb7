"""From the first ping to the last signal, and who is let in."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import numpy as np
import pytest
from vlascope_latents.store import LatentStore, RunWriter, verify
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.server.serving.live_server import serve
from tests.server.serving.wire import connect, observation

KEY = "correct-horse-battery-staple"


@pytest.fixture
def nothing_compiled(tmp_path, monkeypatch):
    """A cache folder that holds no program yet."""
    monkeypatch.setenv("VLASCOPE_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("nothing_compiled")
def test_pings_are_answered_while_the_model_compiles():
    with serve("--warm-up", "none", ready=False) as server, connect(server.url) as wire:
        wire.send(observation())
        replied = threading.Event()
        reply: list[dict] = []

        def wait() -> None:
            reply.append(wire.receive())
            replied.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        pongs = 0
        while not replied.is_set():
            assert wire.socket.ping().wait(60)
            assert server.get("/healthz") == (200, '{"status": "alive"}')
            pongs += not replied.is_set()
        waiting.join()
        # both came back, and the observation was still waiting for its program
        assert pongs >= 1
        assert reply[0]["actions"].shape == (10, 7)


@pytest.mark.usefixtures("nothing_compiled")
def test_ready_means_compiled(tmp_path):
    with serve("--store", str(tmp_path / "runs"), ready=False) as server:
        assert server.get("/readyz")[0] == 503
        with connect(server.url) as wire:
            assert wire.ask({"request": "status"})["ready"] is False
            server.wait_ready()
            assert wire.ask({"request": "status"})["ready"] is True
            logged = server.output.count("compiling for")
            assert logged == 2
            assert ", capturing hidden_states of every expert, every layer, every denoise step" in server.output
            assert "CaptureSpec(" not in server.output
            wire.ask(observation(collect_latents=True))
            wire.ask(observation())
            assert server.output.count("compiling for") == logged
        assert "\nready\n" in server.output


def test_sigterm_finishes_what_is_in_flight_and_seals(tmp_path):
    with serve("--store", str(tmp_path)) as server, connect(server.url) as wire:
        for number in range(5):
            wire.ask(observation(number, collect_latents=True, episode={"id": "going-on"}))
        # a spec that is not compiled yet keeps this request in flight for a while
        wire.send(observation(collect_latents={"layers": [1]}, episode={"id": "in-flight"}))
        until(lambda: server.get("/metrics")[1].count("vlascope_requests_in_flight 1.0"))
        server.process.send_signal(signal.SIGTERM)
        reply = wire.receive()
        with pytest.raises(ConnectionClosed) as closed:
            wire.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert server.process.wait(60) == 0
    episodes = {episode.id: episode for episode in LatentStore(tmp_path).episodes()}
    expected = {"going-on": ("interrupted", 5)}
    if "actions" in reply:
        expected["in-flight"] = ("interrupted", 1)
    else:  # where compiling takes longer than the server takes to end
        assert reply["code"] == "shutting_down"
    assert {name: (e.status, e.frames) for name, e in episodes.items()} == expected
    assert not list(verify(LatentStore(tmp_path).episodes()))
    assert "Traceback" not in server.output


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_end_at_once_tears_nothing(tmp_path, how):
    with serve("--store", str(tmp_path)) as server:
        acknowledged = 0
        with connect(server.url) as wire:
            for number in range(5):
                wire.ask(observation(number, collect_latents=True, episode={"id": "cut-off"}))
            until(lambda: wire.ask({"request": "status"})["committed"] == 5)
            acknowledged = wire.ask({"request": "status"})["committed"]
            wire.ask(observation(collect_latents=True, episode={"id": "cut-off"}))
            if how == signal.SIGTERM:
                wire.send(observation(collect_latents={"layers": [2]}, episode={"id": "waits"}))
                until(lambda: server.get("/metrics")[1].count("vlascope_requests_in_flight 1.0"))
                server.process.send_signal(signal.SIGTERM)
                until(lambda: "a second signal" in server.output)
            server.process.send_signal(how)
            server.process.wait(60)
    RunWriter.recover(server.run)
    episode = LatentStore(tmp_path).episode("cut-off")
    assert episode.status == "interrupted"
    assert episode.frames >= acknowledged
    assert not list(verify(LatentStore(server.run).episodes()))


def test_a_key_is_asked_for_at_the_handshake(tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    with serve("--api-key-file", str(file), "--warm-up", "none") as server:
        for wrong in (None, "wrong", KEY[:-1], KEY + "x"):
            with pytest.raises(InvalidStatus) as refused, connect(server.url, key=wrong):
                pass
            assert refused.value.response.status_code == 401
            body = json.loads(refused.value.response.body or b"")
            assert body["code"] == "unauthorized"
            assert KEY not in body["message"]
        assert server.get("/metrics")[0] == 401
        assert server.get("/metrics", {"Authorization": f"Api-Key {KEY}"})[0] == 200
        assert server.get("/healthz")[0] == 200
        with connect(server.url, key=KEY) as wire:
            assert wire.ask(observation())["actions"].shape == (10, 7)
        assert KEY not in server.output


def test_more_clients_or_requests_than_allowed_are_refused():
    with serve("--max-clients", "2", "--max-in-flight", "1") as server:
        with connect(server.url) as first, connect(server.url) as second:
            with pytest.raises(InvalidStatus) as refused, connect(server.url):
                pass
            assert refused.value.response.status_code == 503
            assert json.loads(refused.value.response.body or b"")["code"] == "too_many_clients"
            first.send(observation(return_latents=True, collect_latents={"layers": [1]}))
            until(lambda: server.get("/metrics")[1].count("vlascope_requests_in_flight 1.0"))
            assert second.ask(observation())["code"] == "overloaded"
            assert "actions" in first.receive()
            assert "actions" in second.ask(observation())
        until(lambda: server.get("/metrics")[1].count("vlascope_clients 0.0"))
        with connect(server.url) as third:
            assert "actions" in third.ask(observation())


def test_a_slow_client_holds_nobody_up():
    with serve() as server, connect(server.url) as slow, connect(server.url) as quick:
        # replies that nobody reads, until the socket takes no more
        def flood() -> None:
            with contextlib.suppress(ConnectionClosed, OSError):
                for _ in range(200):
                    slow.send(observation(return_latents=True, collect_latents=True))

        threading.Thread(target=flood, daemon=True).start()
        time.sleep(1)
        for seed in range(10):
            assert quick.ask(observation(seed))["actions"].shape == (10, 7)
        slow.socket.socket.shutdown(socket.SHUT_RDWR)


def test_over_tls(tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    with serve("--tls-cert", str(cert), "--tls-key", str(key), "--warm-up", "none", ready=False) as server:
        assert server.url.startswith("wss://")
        trust = ssl.create_default_context(cafile=cert)
        with connect(server.url, tls=trust) as wire:
            np.testing.assert_array_equal(wire.ask(observation())["state"], observation()["observation/state"])


def until(done, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)

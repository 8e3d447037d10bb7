"""What happens when servers come and go; of both twins."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from vlascope_client import (
    EpisodeInterruptedError,
    PolicyConnectionError,
    PolicyError,
    PolicyTimeoutError,
    SpecMismatchError,
)
from vlascope_client.codec import pack

from tests.client.scripted_server import METADATA, ScriptedServer, close, drop, error, late, scripted_server

OBSERVATION = {"prompt": "stack the cubes"}


def eventually(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()


def unused_port() -> int:
    with scripted_server() as server:
        return int(server.url.rpartition(":")[2])


class TestRepeated:
    @pytest.mark.parametrize("cue", [drop, close(1000), close(1012), error("shutting_down")])
    def test_what_stored_nothing(self, connect: Any, server: Any, cue: Any) -> None:
        client = connect(server.url)
        server.script.extend([cue, cue])
        assert client.infer(OBSERVATION, episode="e", timestep=4).actions[0, 0] == 400
        assert [number for number, _ in server.received] == [0, 1, 2]
        assert all(message == server.messages[0] for message in server.messages)

    def test_lost_while_nobody_looked(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        client.infer(OBSERVATION)
        server.stop()
        server.start()
        assert client.status().ready
        assert server.connections == 2

    def test_server_that_restarts_in_mid_request(self, connect: Any, server: Any) -> None:
        client = connect(server.url, retries=50)

        def restart(*_: Any) -> None:
            def work() -> None:
                server.stop()
                time.sleep(0.2)
                server.start()

            threading.Thread(target=work).start()

        server.script.append(restart)
        assert client.infer(OBSERVATION).actions.shape == (10, 7)
        assert server.connections == 2

    def test_not_for_ever(self, connect: Any, server: Any) -> None:
        client = connect(server.url, retries=2)
        server.script.extend([drop] * 3)
        with pytest.raises(PolicyConnectionError, match=r"was lost .*; the request was sent 3 times"):
            client.infer(OBSERVATION)
        assert len(server.messages) == 3
        assert client.infer(OBSERVATION).actions.shape == (10, 7)

    def test_capture_without_a_store(self, connect: Any) -> None:
        capture = {**METADATA["capture"], "run": None}
        with scripted_server({**METADATA, "capture": capture}) as server:
            client = connect(server.url)
            server.script.append(drop)
            assert client.infer(OBSERVATION, collect_latents=True, return_latents=True).latents.run is None

    def test_message_that_is_too_large_is_not(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        server.script.append(close(1009))
        with pytest.raises(PolicyError, match=r"expected at most 1048576 \[message_too_large\]"):
            client.infer(OBSERVATION)
        assert client.status().ready
        assert len(server.messages) == 2


class TestEpisodes:
    @pytest.mark.parametrize("episode", ["e", None])
    @pytest.mark.parametrize("cue", [drop, error("shutting_down")])
    def test_a_frame_is_never_sent_twice(self, connect: Any, server: Any, episode: str | None, cue: Any) -> None:
        client = connect(server.url)
        client.infer(OBSERVATION, collect_latents=True, episode=episode)
        server.script.append(cue)
        with pytest.raises(EpisodeInterruptedError, match="run the episode again from its start") as caught:
            client.infer(OBSERVATION, collect_latents=True, episode=episode)
        assert caught.value.episode == (episode or "own-0")
        assert len(server.messages) == 2
        assert client.infer(OBSERVATION, collect_latents=True, episode=episode).latents.episode == (episode or "own-1")
        assert server.connections == 2

    def test_the_first_frame_may_have_been_stored(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        server.script.append(drop)
        with pytest.raises(EpisodeInterruptedError, match=r"^episode e: interrupted, because the connection to ws://"):
            client.infer(OBSERVATION, collect_latents=True, episode="e")

    def test_inference_without_capture_between_frames(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        client.infer(OBSERVATION, collect_latents=True, episode="e")
        server.script.append(drop)
        with pytest.raises(EpisodeInterruptedError):
            client.infer(OBSERVATION, episode="e")
        assert len(server.messages) == 2

    def test_every_episode_is_told_once(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        for episode in "abc":
            client.infer(OBSERVATION, collect_latents=True, episode=episode)
        client.infer(OBSERVATION, episode="plain")
        server.script.append(drop)
        with pytest.raises(EpisodeInterruptedError, match="episode a"):
            client.infer(OBSERVATION, collect_latents=True, episode="a")
        client.infer(OBSERVATION, episode="plain")
        with pytest.raises(EpisodeInterruptedError, match="episode b"):
            client.infer(OBSERVATION, episode="b")
        client.begin_episode("c")  # who begins anew need not be told
        for episode in "abc":
            client.infer(OBSERVATION, collect_latents=True, episode=episode)
            assert client.end_episode(episode).frames >= 1
        assert client.end_episode("plain").frames == 0

    def test_refused_frame_leaves_nothing_to_lose(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        server.script.append(error("invalid_spec"))
        with pytest.raises(PolicyError):
            client.infer(OBSERVATION, collect_latents={"layers": [99]}, episode="e")
        server.script.append(drop)
        assert client.infer(OBSERVATION, episode="e").actions.shape == (10, 7)

    def test_begun_with_a_spec_has_its_place_in_the_store(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        client.begin_episode("e", collect_latents=True)
        client.begin_episode("f")
        server.script.append(drop)
        client.status()
        assert client.infer(OBSERVATION, episode="f").actions.shape == (10, 7)
        with pytest.raises(EpisodeInterruptedError):
            client.infer(OBSERVATION, episode="e")

    def test_end_that_was_lost(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        client.infer(OBSERVATION, collect_latents=True, episode="e")
        server.script.append(drop)
        with pytest.raises(EpisodeInterruptedError, match="before it confirmed the end"):
            client.end_episode("e", success=True)
        assert len(server.messages) == 2

    def test_end_of_an_episode_without_frames_is_repeated(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        client.infer(OBSERVATION, episode="e")
        server.script.append(drop)
        assert client.end_episode("e").status == "sealed"
        # the server has forgotten it with the connection
        assert [m.get("request") for m in server.messages[1:]] == ["end_episode", "begin_episode", "end_episode"]

    def test_ended_episode_is_not_lost(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        own = client.infer(OBSERVATION, collect_latents=True).latents.episode
        client.end_episode(own)
        client.infer(OBSERVATION, collect_latents=True, episode="e")
        client.end_episode("e")
        server.script.append(drop)
        assert client.infer(OBSERVATION).actions.shape == (10, 7)
        assert client.infer(OBSERVATION, collect_latents=True, episode="e").latents.frame == 0

    def test_reconnecting_seals_the_connections_own_episode(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        client.infer(OBSERVATION, collect_latents=True)
        client.infer(OBSERVATION, collect_latents=True, episode="e")
        client.reconnect()
        assert eventually(lambda: server.close_codes == [1000])
        assert client.infer(OBSERVATION, collect_latents=True).latents.episode == "own-1"
        with pytest.raises(EpisodeInterruptedError):
            client.infer(OBSERVATION, episode="e")

    def test_server_that_has_not_noticed_yet(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        client.infer(OBSERVATION, collect_latents=True, episode="e")
        server.script.extend([drop, error("episode_in_use"), error("episode_in_use")])
        with pytest.raises(EpisodeInterruptedError):
            client.infer(OBSERVATION, collect_latents=True, episode="e")
        assert client.infer(OBSERVATION, collect_latents=True, episode="e").latents.episode == "e"
        server.script.append(error("episode_in_use"))
        with pytest.raises(PolicyError, match="episode_in_use"):
            client.infer(OBSERVATION, collect_latents=True, episode="somebody-else's")


class TestTime:
    def test_late_reply_meets_no_other_request(self, connect: Any, server: Any) -> None:
        client = connect(server.url, timeout=0.3, first_timeout=0.3)
        server.script.append(late(0.6))
        with pytest.raises(PolicyTimeoutError, match=r"sent no reply within 0\.3 s: the connection was given up"):
            client.infer(OBSERVATION, timestep=1)
        assert client.infer(OBSERVATION, timestep=2).actions[0, 0] == 200
        assert server.connections == 2
        assert eventually(lambda: server.close_codes == [1011])

    def test_timeout_comes_in_time(self, connect: Any, server: Any) -> None:
        client = connect(server.url, first_timeout=0.2)
        server.script.append(late(2))
        begun = time.monotonic()
        with pytest.raises(PolicyTimeoutError):
            client.infer(OBSERVATION)
        assert time.monotonic() - begun < 0.8

    def test_late_frame_interrupts_its_episode(self, connect: Any, server: Any) -> None:
        client = connect(server.url, timeout=0.3, first_timeout=0.3)
        server.script.append(late(0.5))
        with pytest.raises(EpisodeInterruptedError, match=r"sent no reply within 0\.3 s"):
            client.infer(OBSERVATION, collect_latents=True, episode="e")
        assert client.infer(OBSERVATION, collect_latents=True, episode="e").latents.episode == "e"

    def test_first_reply_of_a_program_may_take_longer(self, connect: Any, server: Any) -> None:
        client = connect(server.url, timeout=0.3, first_timeout=5)
        spec = {"layers": [0]}
        server.script.extend([late(0.5)] * 2)
        client.infer(OBSERVATION)
        client.infer(OBSERVATION, collect_latents=spec, episode="e")
        for options in ({}, {"collect_latents": spec, "episode": "f"}):
            server.script.append(late(0.5))
            with pytest.raises((PolicyTimeoutError, EpisodeInterruptedError)):
                client.infer(OBSERVATION, **options)
            client.infer(OBSERVATION)
            client.begin_episode("f")
            client.infer(OBSERVATION, collect_latents=spec, episode="f")

    def test_overloaded(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        server.script.extend([error("overloaded")] * 3)
        assert client.infer(OBSERVATION, collect_latents=True, episode="e").latents.frame == 0
        assert (len(server.messages), server.connections) == (4, 1)

    def test_overloaded_until_the_timeout(self, connect: Any, server: Any) -> None:
        client = connect(server.url, timeout=0.3)
        server.script.extend([error("overloaded")] * 1000)
        begun = time.monotonic()
        with pytest.raises(PolicyError, match="overloaded"):
            client.infer(OBSERVATION)
        assert time.monotonic() - begun < 0.4
        assert len(server.messages) > 3

    def test_server_that_says_nothing(self, connect: Any) -> None:
        import socket

        with socket.create_server(("localhost", 0)) as deaf:
            port = deaf.getsockname()[1]
            begun = time.monotonic()
            with pytest.raises(PolicyConnectionError, match=rf"localhost:{port}: "):
                connect(f"localhost:{port}", connect_timeout=0.2, retries=1)
            assert time.monotonic() - begun < 2


class TestServers:
    def test_the_first_that_answers(self, connect: Any, server: Any) -> None:
        dead = unused_port()
        with scripted_server() as other:
            client = connect([f"localhost:{dead}", server.url, other.url])
            assert client.url == server.url
            server.stop()
            assert client.infer(OBSERVATION).actions.shape == (10, 7)
            assert client.url == other.url
            server.start()
            assert client.infer(OBSERVATION).actions.shape == (10, 7)
            assert client.url == other.url  # it stays where it is
            client.reconnect()
            assert client.url == server.url

    def test_full_server_sends_us_on(self, connect: Any, server: Any) -> None:
        with scripted_server() as other:
            server.refusals.append((503, '{"code": "too_many_clients", "message": "full"}'))
            assert connect([server.url, other.url]).url == other.url

    def test_server_that_comes_up(self, connect: Any) -> None:
        server = ScriptedServer(port=unused_port())
        timer = threading.Timer(0.2, server.start)
        timer.start()
        try:
            assert connect(server.url, retries=100).metadata.robot == "libero"
        finally:
            timer.join()
            server.stop()

    def test_nobody_there(self, connect: Any) -> None:
        dead = unused_port()
        with pytest.raises(
            PolicyConnectionError, match=rf"no server answered \(3 tries\): ws://localhost:{dead}: "
        ) as e:
            connect(f"localhost:{dead}", retries=2)
        assert "refused" in str(e.value)

    def test_the_first_contact_is_given_up_after_its_own_time(self, connect: Any, caplog: Any) -> None:
        dead = unused_port()
        begun = time.monotonic()
        with (
            caplog.at_level("INFO", "vlascope_client"),
            pytest.raises(PolicyConnectionError, match=r"no server answered within 0\.3 s \(\d+ tries\): ") as e,
        ):
            connect(f"localhost:{dead}", retries=10_000, first_contact_timeout=0.3)
        assert "refused" in str(e.value)
        assert 0.3 <= time.monotonic() - begun < 5
        (tries,) = map(int, re.findall(r"\((\d+) tries\)", str(e.value)))
        said = [message for message in caplog.messages if "trying again" in message]
        assert said[0].startswith(f"no server answered (ws://localhost:{dead}: ")
        counted = re.findall(r"still no server after (\d+) tries, 0 s \(ws://", "\n".join(said[1:]))
        assert [int(number) for number in counted] == [2**k for k in range(1, 20) if 2**k < tries]
        assert len(said) == 1 + len(counted)

    def test_the_error_says_which_limit_ended_the_first_contact(self, connect: Any) -> None:
        dead = f"localhost:{unused_port()}"
        with pytest.raises(
            PolicyConnectionError, match=r"no server answered \(1 try in 0\.\d s of 30: retries=0 allows no more\): ws"
        ):
            connect(dead, retries=0, first_contact_timeout=30)
        with pytest.raises(PolicyConnectionError, match="no server answered: ws"):
            connect(dead, retries=0)

    def test_a_server_that_answered_once_is_waited_for_as_ever(self, connect: Any) -> None:
        server = ScriptedServer(port=unused_port())
        server.start()
        timer = threading.Timer(0.4, server.start)
        try:
            client = connect(server.url, retries=100, first_contact_timeout=0.1)
            server.stop()
            timer.start()
            assert client.infer(OBSERVATION).actions.shape == (10, 7)
        finally:
            timer.join()
            server.stop()

    def test_another_policy(self, connect: Any, server: Any) -> None:
        client, careless = connect(server.url), connect(server.url, allow_policy_change=True)
        server.metadata = {**METADATA, "fingerprint": "bbbb"}
        for cue_and_ask in (client, careless):
            server.script.append(drop)
            if cue_and_ask is careless:
                assert careless.infer(OBSERVATION).actions.shape == (10, 7)
                continue
            for _ in range(2):  # and it stays so
                with pytest.raises(SpecMismatchError, match="fingerprint: expected 'aaaa', found 'bbbb'"):
                    client.infer(OBSERVATION)
        assert careless.metadata.fingerprint == "bbbb"


class TestClosing:
    def test_close_codes(self, connect: Any, server: Any) -> None:
        with connect(server.url) as client:
            client.infer(OBSERVATION)
        assert eventually(lambda: server.close_codes == [1000])
        with pytest.raises(ZeroDivisionError), connect(server.url):
            raise ZeroDivisionError
        assert eventually(lambda: server.close_codes == [1000, 1011])

    def test_closed_client(self, connect: Any, server: Any) -> None:
        client = connect(server.url)
        client.close()
        client.close()
        with pytest.raises(PolicyConnectionError, match="the client is closed: `connect` opens it again"):
            client.infer(OBSERVATION)
        client.connect()
        assert client.infer(OBSERVATION).actions.shape == (10, 7)
        assert server.connections == 2

    def test_metadata_that_is_an_error(self, connect: Any) -> None:
        with scripted_server() as server:
            server.metadata = {"protocol": "one"}
            with pytest.raises(Exception, match=r"metadata.protocol: expected int, found str 'one'"):
                connect(server.url)
            assert eventually(lambda: server.close_codes == [1000])
            assert pack(server.metadata)

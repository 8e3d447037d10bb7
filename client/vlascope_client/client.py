"""The client for scripts and robot loops: every call waits for its reply. Knows nothing of what is sent when."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from websockets.sync.client import ClientConnection, connect

from vlascope_client.conversation import Conversation
from vlascope_client.replies import EpisodeBegun, EpisodeReceipt, PolicyReply, ServerStatus
from vlascope_client.requests import CaptureRequest, EpisodeRequest, InferOptions
from vlascope_client.steps import Close, Exchange, Open, Sleep, Step, Steps
from vlascope_client.transport import FAILURES, closing, connect_options, translate

T = TypeVar("T")


class PolicyClient(Conversation):
    """A policy behind a websocket; `Conversation` documents the options and the rules, docs/protocol.md the messages.

    Making one connects. Made for one thread at a time: threads that share one wait for each other.

        with PolicyClient("gpu-host:8000") as policy:
            actions = policy.infer(observation).actions
    """

    def __post_init__(self) -> None:
        """Checks the options and connects; raises what `connect` does."""
        super().__post_init__()
        self._connection: ClientConnection | None = None
        self._lock = threading.Lock()
        self.connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._drive(self._closing(clean=error is None))

    def connect(self) -> None:
        """Connects if there is no connection; opens a closed client again.

        Raises:
            PolicyConnectionError: no server answered, or one refused.
            SpecMismatchError: the policy is not the expected one.
            ProtocolError: the server speaks a newer protocol, or none.
        """
        self._drive(self._connecting())

    def reconnect(self) -> None:
        """Closes the connection properly and makes a new one; raises what `connect` does."""
        self._drive(self._reconnecting())

    def close(self) -> None:
        """Closes the connection. Episodes that are open become `interrupted`."""
        self._drive(self._closing(clean=True))

    def infer(self, observation: Mapping[str, Any], **options: Unpack[InferOptions]) -> PolicyReply:
        """Actions for an observation: the robot's own keys and `prompt`, none of which is changed.

        Args:
            observation: as docs/protocol.md says; options may be keys of it too, as openpi's clients send them.
            options: see `InferOptions`.

        Raises:
            PolicyError: the server answered with an error.
            EpisodeInterruptedError: the episode has frames in the store and its connection was lost.
            PolicyTimeoutError: no reply in time.
            PolicyConnectionError, SpecMismatchError, ProtocolError: as `connect`.
            ValueError: the observation cannot travel.
        """
        return self._drive(self._inferring(observation, options))

    def begin_episode(
        self, episode: EpisodeRequest | None = None, *, collect_latents: CaptureRequest = False
    ) -> EpisodeBegun:
        """Opens an episode before its first observation; never needed. Raises what `infer` does.

        Args:
            episode: as of `infer`; the server makes an id where there is none.
            collect_latents: takes its place in the store now, with this spec.
        """
        return self._drive(self._beginning(episode, collect_latents))

    def end_episode(
        self,
        episode: str,
        success: bool | None = None,
        total_steps: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> EpisodeReceipt:
        """Seals an episode, and waits until every frame of it is on disk. Raises what `infer` does.

        Args:
            episode: its id.
            success: whether it reached its goal; None where that is not known.
            total_steps: environment steps; None where that is not known.
            metadata: what only the end tells, such as which object was lifted first; kept beside the metadata that the episode
                began with, under other names. At most 16 KiB of JSON. A map that is refused leaves the episode open.
        """
        return self._drive(self._ending(episode, success, total_steps, metadata))

    def plan(self, collect_latents: CaptureRequest = True) -> int:
        """Bytes of one frame that this spec would capture; nothing is captured. Raises what `infer` does."""
        return self._drive(self._planning(collect_latents))

    def status(self) -> ServerStatus:
        """How the server is. Raises what `infer` does."""
        return self._drive(self._asking_status())

    def _drive(self, steps: Steps[T]) -> T:
        with self._lock:
            try:
                step = next(steps)
                while True:
                    try:
                        result = self._perform(step)
                    except BaseException as error:
                        step = steps.throw(translate(error) if isinstance(error, FAILURES) else error)
                    else:
                        step = steps.send(result)
            except StopIteration as end:
                return end.value

    def _perform(self, step: Step) -> bytes | str | None:
        match step:
            case Open(url, timeout):
                return self._open_connection(url, timeout)
            case Exchange(data, timeout):
                return self._exchange(data, timeout)
            case Sleep(seconds):
                time.sleep(seconds)
            case Close(clean):
                self._drop(clean)
        return None

    def _open_connection(self, url: str, timeout: float) -> bytes | str:
        self._drop(clean=False)
        until = time.monotonic() + timeout
        # entered, and not only called: what a bare call returns changes with the versions of websockets
        connection = connect(**connect_options(url, self._headers(), timeout, self._contexts[url])).__enter__()
        self._connection = connection
        try:
            return connection.recv(timeout=max(0.0, until - time.monotonic()))
        except BaseException:
            self._drop(clean=False)
            raise

    def _exchange(self, data: bytes, timeout: float) -> bytes | str:
        connection = self._connection
        assert connection is not None, "exchange before open"  # noqa: S101 (the conversation's own rule)
        until = time.monotonic() + timeout
        # `send` knows no timeout, and would wait for a peer that reads nothing
        watch = threading.Timer(timeout, _cut, [connection.socket])
        watch.daemon = True
        watch.start()
        try:
            connection.send(data)
        except FAILURES as error:
            if time.monotonic() >= until:
                raise TimeoutError from error
            raise
        finally:
            watch.cancel()
        return connection.recv(timeout=max(0.0, until - time.monotonic()))

    def _drop(self, clean: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            code, connection.close_timeout = closing(clean)
            with contextlib.suppress(*FAILURES):
                connection.close(code)


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)

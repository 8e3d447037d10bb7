"""A client's side of the conversation: what is sent when, what is repeated, and what a reply or a failure means.

Its methods are generators of the steps of `steps.py`, and each twin (`client.py`, `async_client.py`) performs those in its
own way, so that there is one set of rules. Knows nothing of sockets, threads or event loops.

The rules:
1. Servers are tried in the order given and the first that answers is taken, at every connect. A round in which none
   answered is repeated up to `retries` times with growing delays; where none has ever answered, until
   `first_contact_timeout` is over. The first such round is logged, then the second, the fourth, the eighth and so on.
2. What a server says of itself is compared with what was expected, and after a reconnect with what was there before.
3. A request is repeated on a new connection, up to `retries` times, unless its episode has frames in the store: that
   episode is over, and the first request that names it says so.
4. `overloaded` is tried again until `timeout`.
5. A connection on which a reply is still due (a timeout, an interrupt) is given up, so that no reply meets the wrong request.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlascope_client.codec import pack
from vlascope_client.errors import (
    PolicyClientError,
    PolicyConnectionError,
    PolicyError,
    PolicyTimeoutError,
    ProtocolError,
    SpecMismatchError,
)
from vlascope_client.fields import read
from vlascope_client.open_episodes import OpenEpisodes
from vlascope_client.protocol import OWN_FIELDS
from vlascope_client.replies import EpisodeBegun, EpisodeReceipt, PolicyReply, ServerStatus, read_error, read_frame
from vlascope_client.requests import (
    CaptureRequest,
    EpisodeRequest,
    InferOptions,
    Message,
    begin_message,
    end_message,
    infer_message,
    plan_message,
)
from vlascope_client.servers import Backoff, server_urls, tls_context
from vlascope_client.spec import ExpectedSpec, PolicySpec
from vlascope_client.steps import Close, Exchange, Lost, Open, Refused, Sleep, Steps

_log = logging.getLogger(__name__)

_SHORTEST_TRY = 1.0
"""Seconds."""

_PASSING = (429, 502, 503, 504)
"""HTTP statuses of a server that may let us in later."""


@dataclasses.dataclass(eq=False, repr=False)
class Conversation:
    """Options and state that both clients share.

    Attributes:
        servers: one address or several, in order of preference: `ws://host:port`, `wss://host:port`, `host:port`.
        api_key: sent as `Authorization: Api-Key <key>`.
        expects: compared with the server's spec at every connect.
        timeout: seconds that a reply may take.
        first_timeout: the same, for the first reply of a connection with its capture spec: the server may compile first.
        connect_timeout: seconds that one server may take to let us in.
        first_contact_timeout: seconds that all tries together may take until a server has answered once; None: `retries`
            alone counts. What answered once is tried again `retries` times.
        retries: how often a round through the servers, or a request, is repeated.
        backoff: delays before those.
        tls: for `wss://`, an `ssl.SSLContext` or a file of CA certificates; None trusts what the system trusts.
        allow_policy_change: after a reconnect another policy (fingerprint) may answer.
    """

    servers: str | Sequence[str]
    _: dataclasses.KW_ONLY
    api_key: str | None = None
    expects: ExpectedSpec | None = None
    timeout: float = 60.0
    first_timeout: float = 600.0
    connect_timeout: float = 10.0
    first_contact_timeout: float | None = None
    retries: int = 10
    backoff: Backoff = dataclasses.field(default_factory=Backoff)
    tls: ssl.SSLContext | str | Path | None = None
    allow_policy_change: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        self._urls = server_urls(self.servers)
        self._contexts = {url: tls_context(url, self.tls) for url in self._urls}
        for name in ("timeout", "first_timeout", "connect_timeout", "first_contact_timeout"):
            seconds = getattr(self, name)
            if seconds is None and name == "first_contact_timeout":
                continue
            if not isinstance(seconds, int | float | np.number) or isinstance(seconds, bool) or not seconds > 0:
                raise ValueError(f"{name}: expected seconds above 0, found {seconds!r}")
        if not isinstance(self.retries, int | np.integer) or isinstance(self.retries, bool) or self.retries < 0:
            raise ValueError(f"retries: expected a whole number, 0 or more, found {self.retries!r}")
        self._raw: dict[str, Any] | None = None
        self._spec: PolicySpec | None = None
        self._url = self._urls[0]
        self._connected = self._closed = False
        self._compiled: set[bytes] = set()
        self._episodes = OpenEpisodes()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._urls)}>"

    @property
    def metadata(self) -> PolicySpec:
        """What the server says of its policy.

        Raises:
            PolicyConnectionError: there was no connection yet.
            ProtocolError: the server is no vlascope server; `raw_metadata` holds what it says.
        """
        if self._raw is None:
            raise PolicyConnectionError("metadata: not connected yet: enter the client with `with`, or call `connect`")
        if self._spec is None:
            raise ProtocolError(f"{self._url}: its metadata has no `protocol`: no vlascope server; see `raw_metadata`")
        return self._spec

    @property
    def raw_metadata(self) -> Mapping[str, Any]:
        """The server's first message as it came; of any server that openpi's clients know. Empty before connecting."""
        return self._raw or {}

    @property
    def url(self) -> str:
        """Of the server that is or was connected last."""
        return self._url

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Api-Key {self.api_key}"} if self.api_key else {}

    def _connecting(self) -> Steps[None]:
        self._closed = False
        if not self._connected:
            yield from self._open()

    def _reconnecting(self) -> Steps[None]:
        yield from self._leaving("the client reconnected", clean=True)
        self._episodes.forgive(None)  # the server has sealed it: that connection was closed properly
        yield from self._connecting()

    def _closing(self, clean: bool) -> Steps[None]:
        self._closed = True
        yield from self._leaving("the client closed", clean)
        self._episodes = OpenEpisodes()

    def _inferring(self, observation: Mapping[str, Any], options: InferOptions) -> Steps[PolicyReply]:
        message = infer_message(observation, options)
        yield from self._ready()
        if self._spec is None and (ours := [name for name in OWN_FIELDS if name in message]):
            raise self._unsupported(ours[0])
        capture = message.get("collect_latents") if message.get("collect_latents") is not False else None
        episode = message.get("episode", {}).get("id")
        stores = capture is not None and self._spec is not None and self._spec.capture.run is not None
        reply = yield from self._asking(message, episode, stores=stores, compiles=pack(capture))
        parsed = PolicyReply.from_message(reply)
        if episode is None and parsed.latents is not None:
            self._episodes.name_own(parsed.latents.episode)
        return parsed

    def _beginning(self, episode: EpisodeRequest | None, collect_latents: CaptureRequest) -> Steps[EpisodeBegun]:
        message = begin_message(episode, collect_latents)
        yield from self._ours("begin_episode")
        name = message["episode"].get("id")
        self._episodes.forgive(name)
        stores = message.get("collect_latents", False) is not False and self.metadata.capture.run is not None
        if name is None:
            reply = yield from self._asking(message, None, names_episode=False)
        else:
            reply = yield from self._asking(message, name, stores=stores)
        begun = EpisodeBegun.from_message(reply)
        self._episodes.note(begun.episode, stores)
        return begun

    def _ending(
        self, episode: str, success: bool | None, total_steps: int | None, metadata: Mapping[str, Any] | None
    ) -> Steps[EpisodeReceipt]:
        message = end_message(episode, success, total_steps, metadata)
        yield from self._ours("end_episode")
        reply = yield from self._asking(message, episode, ends=True)
        self._episodes.ended(episode)
        return EpisodeReceipt.from_message(reply)

    def _planning(self, collect_latents: CaptureRequest) -> Steps[int]:
        message = plan_message(collect_latents)
        yield from self._ours("plan")
        reply = yield from self._asking(message, None, names_episode=False)
        return read(reply, "bytes", int, "plan")

    def _asking_status(self) -> Steps[ServerStatus]:
        yield from self._ours("status")
        reply = yield from self._asking({"request": "status"}, None, names_episode=False)
        return ServerStatus.from_message(reply)

    def _ready(self) -> Steps[None]:
        if self._closed:
            raise PolicyConnectionError("the client is closed: `connect` opens it again")
        if not self._connected:
            yield from self._open()

    def _ours(self, feature: str) -> Steps[None]:
        yield from self._ready()
        if self._spec is None:
            raise self._unsupported(feature)

    def _unsupported(self, feature: str) -> ProtocolError:
        return ProtocolError(f"{feature}: {self._url} is no vlascope server (its metadata has no `protocol`)")

    def _open(self) -> Steps[None]:
        """Rule 1."""
        delays = self.backoff.delays()
        failures: list[str] = []
        refusal: tuple[int | None, str | None] = (None, None)
        begun = time.monotonic()
        patience = self.first_contact_timeout if self._raw is None and self.first_contact_timeout else math.inf
        tries = 0
        for attempt in range(self.retries + 1):
            if attempt:
                gone = time.monotonic() - begun
                if gone >= patience:
                    break
                _log_no_answer(attempt, gone, failures)
                yield Sleep(min(next(delays), patience - gone))
            failures, refusal, tries = [], (None, None), attempt + 1
            for url in self._urls:
                # the last tries of a first contact may be short, but not so short that a server on this machine misses them
                limit = min(self.connect_timeout, max(_SHORTEST_TRY, patience - (time.monotonic() - begun)))
                try:
                    greeting = yield Open(url, limit)
                except (Lost, TimeoutError) as error:
                    failures.append(f"{url}: {str(error) or f'no answer within {limit:.3g} s'}")
                except Refused as refused:
                    error = read_error(refused.body)
                    text = f"{url}: refused with HTTP {refused.status}: {error}"
                    if refused.status not in _PASSING:
                        raise PolicyConnectionError(text, refused.status, error.code or None) from None
                    failures.append(text)
                    refusal = (refused.status, error.code or None)
                else:
                    try:
                        self._greeted(url, greeting)
                    except PolicyClientError:
                        yield Close(clean=True)
                        raise
                    return
        counted = f"{tries} {'tries' if tries > 1 else 'try'}"
        gone = time.monotonic() - begun
        if patience == math.inf:
            ended = f" ({counted})" if self.retries else ""
        elif gone >= patience:
            ended = f" within {patience:g} s ({counted})"
        else:
            # whoever gave both limits is told which of them ended it
            ended = f" ({counted} in {gone:.1f} s of {patience:g}: retries={self.retries} allows no more)"
        raise PolicyConnectionError(f"no server answered{ended}: {'; '.join(failures)}", *refusal)

    def _greeted(self, url: str, greeting: bytes | str) -> None:
        """Rule 2."""
        raw = read_frame(greeting)
        spec = PolicySpec.from_metadata(raw) if "protocol" in raw else None
        mismatches = self.expects.mismatches(spec) if self.expects else []
        if self._raw is not None and not self.allow_policy_change:
            before, after = (found.fingerprint if found else None for found in (self._spec, spec))
            if before != after:
                mismatches.append(("fingerprint", before, after))
        if mismatches:
            raise SpecMismatchError(url, mismatches)
        self._raw, self._spec, self._url = raw, spec, url
        self._connected = True
        self._compiled.clear()

    def _asking(
        self,
        message: Message,
        episode: str | None,
        *,
        names_episode: bool = True,
        stores: bool = False,
        ends: bool = False,
        compiles: bytes | None = None,
    ) -> Steps[dict[str, Any]]:
        """Rules 3 to 5: the reply to `message`.

        Args:
            message: the request.
            episode: id of its episode; None for the connection's own.
            names_episode: False where it has none.
            stores: it leaves a frame, or a place for frames, in the store.
            ends: it seals its episode.
            compiles: names the program that it needs, where it needs one.
        """
        data = pack(message)
        delays, repeats = self.backoff.delays(), 0
        until, stored_before = time.monotonic() + self.timeout, False
        while True:
            yield from self._ready()
            if names_episode:
                self._episodes.check(episode)
                if ends and self._episodes.was_forgotten(episode):
                    yield from self._asking(begin_message(episode, False), episode)
                else:
                    stored_before = self._episodes.note(episode, stores)
            timeout = self.timeout if compiles is None or compiles in self._compiled else self.first_timeout
            try:
                reply = read_frame((yield Exchange(data, timeout)))
            except PolicyError as error:
                if names_episode and stores and not stored_before:
                    self._episodes.stored_nothing(episode)
                again = error.code == "overloaded" or (
                    error.code == "episode_in_use" and names_episode and self._episodes.was_lost(episode)
                )
                if again and (delay := next(delays)) < until - time.monotonic():
                    yield Sleep(delay)
                    continue
                if error.code != "shutting_down":
                    raise
                reason = f"{self._url} is shutting down"
            except ProtocolError:
                yield from self._leaving("the server sent no message of this protocol", clean=False)
                raise
            except TimeoutError:
                reason = f"{self._url} sent no reply within {timeout:g} s"
                yield from self._leaving(reason, clean=False)
                if names_episode:
                    self._episodes.check(episode)
                raise PolicyTimeoutError(
                    f"{reason}: the connection was given up, the next request makes a new one"
                ) from None
            except Lost as lost:
                if lost.too_large:
                    yield from self._leaving(f"a message of {len(data)} bytes was too large", clean=False)
                    limit = self._spec.limits.get("message_bytes") if self._spec else None
                    raise PolicyError(
                        "message_too_large", f"message: {len(data)} bytes; expected at most {limit or 'what it takes'}"
                    ) from None
                reason = f"the connection to {self._url} was lost ({lost})"
            except BaseException:
                self._gone("the client gave up waiting for a reply")
                raise
            else:
                if compiles is not None:
                    self._compiled.add(compiles)
                return reply
            if ends:
                reason += ", before it confirmed the end"
            yield from self._leaving(reason, clean=False)
            if names_episode:
                self._episodes.check(episode)
            if repeats == self.retries:
                raise PolicyConnectionError(f"{reason}; the request was sent {repeats + 1} times")
            if repeats:
                yield Sleep(next(delays))
            repeats += 1
            _log.info("%s; the request is sent again", reason)

    def _leaving(self, reason: str, clean: bool) -> Steps[None]:
        clean = clean and self._connected
        self._gone(reason)
        yield Close(clean)

    def _gone(self, reason: str) -> None:
        self._connected = False
        self._episodes.connection_lost(reason)


def _log_no_answer(tries: int, seconds: float, failures: Sequence[str]) -> None:
    """Says that no server answered, after 1, 2, 4, 8, … tries: a server that is away for long is a few lines."""
    if tries == 1:
        _log.info("no server answered (%s); trying again", "; ".join(failures))
    elif tries & (tries - 1) == 0:
        _log.info("still no server after %d tries, %.0f s (%s); trying again", tries, seconds, "; ".join(failures))

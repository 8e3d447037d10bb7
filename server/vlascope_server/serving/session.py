"""One client's conversation, message by message: bytes in, bytes out. Runs on worker threads, never on the event loop."""

from __future__ import annotations

import dataclasses
import logging
import time
import traceback
import zlib
from collections.abc import Callable, Mapping

from vlascope_client.codec import pack

from vlascope_server.policies.programs import ProgramsClosedError
from vlascope_server.serving.episodes import OpenEpisode
from vlascope_server.serving.errors import RequestError, error_json
from vlascope_server.serving.inference import Inference
from vlascope_server.serving.messages import BeginEpisode, EndEpisode, EpisodeInfo, Infer, Plan, Status, read_request
from vlascope_server.serving.service import Service
from vlascope_server.serving.waiting import ClientGoneError, Waiter

_log = logging.getLogger(__name__)

_KINDS = {Infer: "infer", BeginEpisode: "begin_episode", EndEpisode: "end_episode", Plan: "plan", Status: "status"}
_STORE_NUMBERS = ("committed", "bytes", "dropped", "pending", "queue_bytes", "queue_limit", "episodes_open")


class Session:
    """One client. Its messages are answered one after the other."""

    def __init__(self, service: Service, status: Callable[[], Mapping[str, object]], host: str = ""):
        """Starts a conversation.

        Args:
            service: that answers.
            status: gives what the server itself adds to a status reply.
            host: the machine that the client connects from.
        """
        self._service, self._status = service, status
        self._waiter = Waiter(service, host)
        self._own: OpenEpisode | None = None
        self._news: list[str] = []
        self._previous_total: float | None = None

    def answer(self, data: bytes | str) -> bytes | str:
        """The reply to one message: packed, or an error as text. Never raises."""
        begun = time.perf_counter()
        kind, outcome = "unknown", "ok"
        try:
            request = read_request(data)
            kind = _KINDS[type(request)]
            match request:
                case Infer():
                    reply = self._infer(request, begun)
                case BeginEpisode():
                    reply = self._begin(request)
                case EndEpisode():
                    reply = self._end(request)
                case Plan():
                    reply = self._plan(request)
                case Status():
                    reply = {"request": "status", **self._status(), **self._store_status()}
            return pack(reply)
        except RequestError as error:
            outcome = error.code
            return error.to_json()
        except ClientGoneError:
            outcome = "gone"
            return error_json("internal", "the client hung up before it was answered")
        except ProgramsClosedError:
            outcome = "shutting_down"
            return error_json(outcome, "the server is shutting down: connect again later")
        except Exception as error:
            outcome, number = "internal", _fault_number(error)
            # in the text itself: each fault is logged, once a second where it repeats
            _log.exception(f"fault {number}")
            return error_json(outcome, f"the server failed; its log says more under {number}")
        finally:
            self._service.metrics.requests.labels(kind, outcome).inc()

    def sent(self, seconds: float) -> None:
        """Told how long the last message took, sending included."""
        self._previous_total = seconds
        self._service.metrics.stages.labels("total").observe(seconds)

    def abandon(self) -> None:
        """Told that the client hung up, from any thread: what is still to be compiled or computed for it is not."""
        self._waiter.hang_up()

    def close(self, *, clean: bool) -> None:
        """Ends the episodes that are open."""
        self.abandon()
        for sealed in self._service.episodes.release(self, clean=clean):
            if sealed.episode.writer is None:
                continue
            _log.info("episode %s: %s with its connection, %d frames", sealed.episode.id, sealed.status, sealed.frames)

    def _infer(self, request: Infer, begun: float) -> dict[str, object]:
        inference = Inference(self._service, self._waiter, request, begun)
        episode = self._episode(request, inference.prepared.prompt)
        try:
            reply = inference.run(episode)
        except BaseException:
            self._withdraw(episode)
            raise
        episode.accepted = True
        episode.inferences += 1
        warnings = [*self._news, *inference.warnings()]
        self._news.clear()
        if warnings:
            reply["warnings"] = warnings
        timing = {"infer_ms": 1e3 * (time.perf_counter() - begun)}
        if self._previous_total is not None:
            timing["prev_total_ms"] = 1e3 * self._previous_total
        return {**reply, "server_timing": timing}

    def _episode(self, request: Infer, prompt: str) -> OpenEpisode:
        """The episode of an observation; one of the connection's own where it names none, another for another prompt."""
        if request.episode is not None and request.episode.id is not None:
            return self._service.episodes.begin(self, request.episode)
        if self._own is not None and request.collect and self._own.instruction not in (None, prompt):
            self._service.episodes.check_disk(self._own)  # which would refuse the next one
            sealed = self._service.episodes.end(self, self._own.id)
            self._own = None
            if sealed.error is not None:
                self._news.append(
                    f"episode {sealed.episode.id}: ended as {sealed.status} where the prompt changed: {sealed.error}"
                )
        if self._own is None:
            info = request.episode or EpisodeInfo(None, {})
            self._own = self._service.episodes.begin(self, info, implicit=True)
        return self._own

    def _withdraw(self, episode: OpenEpisode) -> None:
        """Told that a message was refused: an episode that only refused messages spoke of has not begun."""
        self._service.episodes.withdraw(episode)
        if self._own is episode and not episode.accepted:
            self._own = None

    def _begin(self, request: BeginEpisode) -> dict[str, object]:
        service = self._service
        plan = service.plan(request.collect) if request.collect else None
        episode = service.episodes.begin(self, request.episode)
        try:
            if plan is not None:
                service.episodes.open_writer(episode, plan)
        except BaseException:
            self._withdraw(episode)
            raise
        episode.accepted = True
        attempt = episode.writer.attempt if episode.writer else None
        return {"request": "begin_episode", "episode": episode.id, "run": service.run, "attempt": attempt}

    def _plan(self, request: Plan) -> dict[str, object]:
        plan = self._service.plan(request.collect)
        tensors = []
        for site in plan.sites:
            fields = dataclasses.asdict(site.tensor) | {"reaches_actions": site.reaches_actions}
            tensors.append({name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()})
        return {"request": "plan", "bytes": plan.nbytes, "tensors": tensors}

    def _end(self, request: EndEpisode) -> dict[str, object]:
        sealed = self._service.episodes.end(
            self, request.episode, request.success, request.total_steps, request.metadata
        )
        if self._own is sealed.episode:
            self._own = None
        writer = sealed.episode.writer
        return {
            "request": "end_episode",
            "episode": sealed.episode.id,
            "run": self._service.run if writer else None,
            "attempt": writer.attempt if writer else None,
            "status": sealed.status,
            "frames": sealed.frames,
            "dropped": sealed.dropped,
            "error": sealed.error,
        }

    def _store_status(self) -> dict[str, object]:
        run = self._service.episodes.run
        status: Mapping[str, int] = run.status() if run else dict.fromkeys(_STORE_NUMBERS, 0)
        return {"run": self._service.run, **status}


def _fault_number(error: BaseException) -> str:
    """The same for the same fault: where it repeats, it is not logged each time. A policy's fault is told by what caused it."""
    while error.__cause__ is not None:
        error = error.__cause__
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{zlib.crc32(f'{type(error).__name__} {last.filename} {last.lineno}'.encode()):08x}"

"""One client's conversation, message by message: bytes in, bytes out. Runs on worker threads, never on the event loop.

Knows nothing of sockets.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import secrets
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import numpy as np
from vlascope_client.codec import pack
from vlascope_latents import CapturePlan, CaptureSpec, CaptureSpecError
from vlascope_latents.store import StoreError
from vlascope_latents.store.frame_slot import FrameSlot

from vlascope_server.policies import (
    Policy,
    PreparedObservation,
    Programs,
    ProgramsClosedError,
    TooManyJobsError,
    draw_noise,
)
from vlascope_server.policies.compile_queue import JOBS_OF_A_CLIENT
from vlascope_server.robots import RobotInputError
from vlascope_server.serving.batcher import Activity, Batcher, Sample
from vlascope_server.serving.episodes import Episodes, OpenEpisode
from vlascope_server.serving.errors import RequestError, error_json
from vlascope_server.serving.messages import (
    BeginEpisode,
    EndEpisode,
    EpisodeInfo,
    Infer,
    Plan,
    Status,
    read_request,
    spec_error,
)
from vlascope_server.serving.metrics import Metrics
from vlascope_server.serving.typos import Typos

_log = logging.getLogger(__name__)

T = TypeVar("T")

_KINDS = {Infer: "infer", BeginEpisode: "begin_episode", EndEpisode: "end_episode", Plan: "plan", Status: "status"}


class Seeds:
    """Seeds for observations that bring neither seed nor noise: a sequence that the server's own seed fixes."""

    def __init__(self, seed: int | None):
        self.first = secrets.randbits(63) if seed is None else seed
        self._random = np.random.default_rng(self.first)
        self._lock = threading.Lock()

    def next(self) -> int:
        """The next seed."""
        with self._lock:
            return int(self._random.integers(2**63))


@dataclasses.dataclass(frozen=True)
class Service:
    """What all sessions share.

    Attributes:
        policy: whose observations these are.
        programs: compiled for it.
        batcher: runs them.
        activity: who asks.
        episodes: keeps what is captured.
        metrics: counts.
        default_spec: for `collect_latents: true`.
        seeds: of the noise.
        typos: finds keys that nobody reads.
    """

    policy: Policy
    programs: Programs
    batcher: Batcher
    activity: Activity
    episodes: Episodes
    metrics: Metrics
    default_spec: CaptureSpec
    seeds: Seeds
    typos: Typos

    @property
    def run(self) -> str | None:
        """Name of the run that frames go to."""
        return self.episodes.run.path.name if self.episodes.run else None


@dataclasses.dataclass(eq=False)
class _Capture:
    """What is to become of one inference's hidden states."""

    plan: CapturePlan
    episode: OpenEpisode
    slot: FrameSlot | None
    stored: bool


class _ClientGoneError(Exception):
    """The client hung up: nobody reads what would be computed."""


class Session:
    """One client. Its messages are answered one after the other.

    Attributes:
        host: the machine that it connects from.
    """

    def __init__(self, service: Service, status: Callable[[], Mapping[str, Any]], host: str = ""):
        """Starts a conversation; `status()` gives what the server itself adds to a status reply."""
        self._service, self._status, self.host = service, status, host
        self._gone: Future[None] = Future()
        self._sample: Future[Sample] | None = None
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
        except _ClientGoneError:
            outcome = "gone"
            return error_json("internal", "the client hung up before it was answered")
        except ProgramsClosedError:
            outcome = "shutting_down"
            return error_json(outcome, "the server is shutting down: connect again later")
        except Exception as error:
            outcome, number = "internal", _fault_number(error)
            _log.exception(
                f"fault {number}"
            )  # in the text itself: each fault is logged, once a second where it repeats
            return error_json(outcome, f"the server failed; its log says more under {number}")
        finally:
            self._service.metrics.requests.labels(kind, outcome).inc()

    def sent(self, seconds: float) -> None:
        """Told how long the last message took, sending included."""
        self._previous_total = seconds
        self._service.metrics.stages.labels("total").observe(seconds)

    def abandon(self) -> None:
        """Told that the client hung up, from any thread: what is still to be compiled or computed for it is not."""
        if self._gone.done():
            return
        self._gone.set_result(None)
        if (sample := self._sample) is not None:
            sample.cancel()
        self._service.programs.gone(self)
        self._service.activity.gone(self)

    def close(self, *, clean: bool) -> None:
        """Ends the episodes that are open."""
        self.abandon()
        for sealed in self._service.episodes.release(self, clean=clean):
            if sealed.episode.writer is None:
                continue
            _log.info("episode %s: %s with its connection, %d frames", sealed.episode.id, sealed.status, sealed.frames)

    def _infer(self, request: Infer, begun: float) -> dict[str, Any]:
        service, stages = self._service, self._service.metrics.stages
        read = time.perf_counter()
        try:
            prepared = service.policy.prepare(request.observation)
        except RobotInputError as error:
            raise RequestError("invalid_observation", str(error), error.field) from None
        noise, seed = self._noise(request)
        transformed = time.perf_counter()
        spec = service.default_spec if request.collect is True else request.collect or None
        # nothing is begun or ended for a spec that is refused
        plan = None if spec is None else self._planned(spec)
        service.activity.asked(self, spec)
        episode, capture = self._episode(request, prepared.prompt), None
        timestep = episode.inferences if request.timestep is None else request.timestep
        try:
            capture = self._capture(request, plan, episode, prepared, timestep)
            reserved = time.perf_counter()
            sample = self._computed(prepared, noise, spec)
            actions = service.policy.robot_actions(sample.actions, prepared)
            latents = self._keep(capture, request, prepared, sample, actions, timestep, seed) if capture else None
        except BaseException as error:
            if capture and capture.slot is not None:
                capture.slot.release(error)
            self._withdraw(episode)
            raise
        episode.accepted = True
        episode.inferences += 1
        done = time.perf_counter()
        seconds = {
            "read": read - begun,
            "transform": transformed - read,
            "reserve": reserved - transformed,
            "queue": sample.queue_seconds,
            "model": sample.model_seconds,
            "reply": done - reserved - sample.queue_seconds - sample.model_seconds,
        }
        for stage, value in seconds.items():
            stages.labels(stage).observe(value)
        warnings = [*self._news, *service.typos.warnings(request.observation)]
        self._news.clear()
        reply: dict[str, Any] = {
            "actions": actions,
            # a list, since openpi-client's ActionChunkBroker slices every array by the step
            "state": prepared.robot_state.tolist(),
            "seed": seed,
            "policy_timing": {
                "infer_ms": 1e3 * (done - begun),
                "transform_ms": 1e3 * (transformed - begun),
                "queue_ms": 1e3 * (sample.queue_seconds + reserved - transformed),
                "model_ms": 1e3 * sample.model_seconds,
                "batch": sample.batch,
            },
        }
        if latents is not None:
            reply["latents"] = latents
        if prepared.truncated:
            length = service.policy.config.max_token_len
            warnings.append(
                f"prompt: {prepared.truncated} tokens did not fit into {length}: the policy has not seen them"
            )
        if warnings:
            reply["warnings"] = warnings
        reply["server_timing"] = {"infer_ms": 1e3 * (time.perf_counter() - begun)}
        if self._previous_total is not None:
            reply["server_timing"]["prev_total_ms"] = 1e3 * self._previous_total
        return reply

    def _wait_until_compiled(self, spec: CaptureSpec) -> None:
        program = self._wanted(lambda: self._service.programs.want(spec, 1, self))
        if not program.done():
            either: list[Future[Any]] = [program, self._gone]
            concurrent.futures.wait(either, return_when=concurrent.futures.FIRST_COMPLETED)
            self._check_not_gone()
        program.result()

    def _computed(self, prepared: PreparedObservation, noise: np.ndarray, spec: CaptureSpec | None) -> Sample:
        """Waits for the batch that the observation is part of."""
        self._sample = future = self._wanted(lambda: self._service.batcher.submit(prepared, noise, spec, self))
        if self._gone.done():  # after it was kept: `abandon` has seen it, or is seen here
            future.cancel()
        try:
            sample = future.result()
        except CancelledError:
            raise _ClientGoneError from None
        finally:
            self._sample = None
        self._check_not_gone()
        return sample

    def _wanted(self, ask: Callable[[], Future[T]]) -> Future[T]:
        """Has something compiled or computed, unless the client has gone."""
        self._check_not_gone()
        try:
            future = ask()
        except TooManyJobsError:
            raise RequestError(
                "overloaded",
                f"{JOBS_OF_A_CLIENT} programs are being compiled for this connection: wait for one of them",
            ) from None
        if self._gone.done():  # the programs were told before they were asked
            self._service.programs.gone(self)
        return future

    def _check_not_gone(self) -> None:
        if self._gone.done():
            raise _ClientGoneError

    def _noise(self, request: Infer) -> tuple[np.ndarray, int | None]:
        shape = self._service.policy.noise_shape
        if request.noise is None:
            seed = self._service.seeds.next() if request.seed is None else request.seed
            return draw_noise(seed, shape), seed
        if request.noise.shape != shape:
            raise RequestError("invalid_field", f"noise: expected shape {shape}, found {request.noise.shape}", "noise")
        return request.noise, None

    def _episode(self, request: Infer, prompt: str) -> OpenEpisode:
        """The episode of an observation; one of the connection's own where it names none, another for another prompt."""
        if request.episode is not None and request.episode.id is not None:
            return self._service.episodes.begin(self, request.episode)
        if self._own is not None and request.collect and self._own.instruction not in (None, prompt):
            self._service.episodes.check_disk(self._own)  # which would refuse the next one
            sealed = self._service.episodes.end(self, self._own.id, None, None)
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

    def _capture(
        self, request: Infer, plan: CapturePlan | None, episode: OpenEpisode, prepared: PreparedObservation, timestep: int
    ) -> _Capture | None:  # fmt: skip
        if plan is None:
            return None
        service = self._service
        # a program that is still to be compiled must not hold room that others could use
        self._wait_until_compiled(plan.spec)
        if service.episodes.run is None and request.return_latents:
            return _Capture(plan, episode, None, stored=False)
        slot = service.episodes.reserve(episode, plan, prepared.prompt, request.annotations, timestep)
        return _Capture(plan, episode, slot, stored=True)

    def _keep(
        self,
        capture: _Capture,
        request: Infer,
        prepared: PreparedObservation,
        sample: Sample,
        actions: np.ndarray,
        timestep: int,
        seed: int | None,
    ) -> dict[str, Any]:
        """Gives the frame its number and sends it on its way; what the reply says of it."""
        service, writer = self._service, capture.episode.writer
        frame = None
        if capture.slot is not None:
            times = 1 - np.array(capture.plan.denoise_steps, np.float32) / service.policy.num_steps
            values = {
                "actions": actions,
                "state": prepared.robot_state.astype(np.float32),
                "prompt_mask": prepared.mask,
                "denoise_time": times,
                "noise_seed": np.int64(-1 if seed is None else seed),
                **({"annotations": request.annotations} if request.annotations else {}),
            }
            try:
                frame = capture.slot.number(timestep, values)
            except StoreError as error:
                raise RequestError("store_failed", str(error)) from None
            service.episodes.fill(capture.slot, sample.tensors, service.metrics.stages.labels("fill").observe)
            capture.slot = None  # it is another thread's now
        used, limit = service.episodes.run.queue if service.episodes.run else (0, 0)
        latents: dict[str, Any] = {
            "run": service.run if capture.stored else None,
            "episode": capture.episode.id,
            "attempt": writer.attempt if writer else None,
            "frame": frame,
            "bytes": capture.plan.nbytes,
            "queue": {"bytes": used, "limit": limit},
        }
        if request.return_latents:
            latents["tensors"] = _tensors(capture.plan, sample)
        return latents

    def _begin(self, request: BeginEpisode) -> dict[str, Any]:
        service = self._service
        plan = self._planned(request.collect) if request.collect else None
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

    def _plan(self, request: Plan) -> dict[str, Any]:
        plan = self._planned(request.collect)
        tensors = [
            {"path": t.path, "dims": list(t.dims), "shape": list(t.shape), "dtype": t.dtype} for t in plan.tensors
        ]
        return {"request": "plan", "bytes": plan.nbytes, "tensors": tensors}

    def _planned(self, collect: CaptureSpec | bool) -> CapturePlan:
        """What a spec captures, true being the server's default."""
        spec = self._service.default_spec if isinstance(collect, bool) else collect
        try:
            return self._service.programs.plan(spec)
        except CaptureSpecError as error:
            raise spec_error(error) from None

    def _end(self, request: EndEpisode) -> dict[str, Any]:
        sealed = self._service.episodes.end(self, request.episode, request.success, request.total_steps)
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

    def _store_status(self) -> dict[str, Any]:
        run = self._service.episodes.run
        names = ("committed", "bytes", "dropped", "pending", "queue_bytes", "queue_limit", "episodes_open")
        status: Mapping[str, int] = run.status() if run else dict.fromkeys(names, 0)
        return {"run": self._service.run, **status}


def _fault_number(error: Exception) -> str:
    """The same for the same fault: where it repeats, it is not logged each time."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{zlib.crc32(f'{type(error).__name__} {last.filename} {last.lineno}'.encode()):08x}"


def _tensors(plan: CapturePlan, sample: Sample) -> dict[str, Any]:
    arrays = sample.tensors()
    return {
        tensor.path: {
            "data": arrays[tensor.path].view(np.uint16) if tensor.dtype == "bfloat16" else arrays[tensor.path],
            "logical_dtype": tensor.dtype,
            "dims": list(tensor.dims),
        }
        for tensor in plan.tensors
    }

"""Compiled sampling programs, one a capture spec and batch size, made on a thread of their own when first wanted.

Compiling takes seconds to minutes; whoever has a program that is ready goes on meanwhile. Knows nothing of requests.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from vlascope_latents import CapturePlan, CaptureSpec, plan_capture

from vlascope_server.model import Observation, sample_actions
from vlascope_server.model.taps import Latents
from vlascope_server.policies.policy import Policy

_log = logging.getLogger(__name__)

_KEPT_SPECS = 8
"""Specs, besides none, whose programs stay: each costs memory, and a client may name any number of them."""


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program.

    Attributes:
        size: observations in a batch.
        run: (observation, noise) -> actions and latents, still being computed on the device.
    """

    size: int
    run: Callable[[Observation, np.ndarray], tuple[jax.Array, Latents]]


class Programs:
    """The programs of one policy. Every method may be called from any thread.

    Attributes:
        sizes: batch sizes that may be compiled, ascending.
        on_done: called after each attempt to compile.
    """

    def __init__(self, policy: Policy, max_batch: int, *, pad: bool):
        """Compiles nothing yet.

        Args:
            policy: to compile for.
            max_batch: the greatest size; the others are the powers of two below.
            pad: run a batch in the next greater size rather than in smaller ones: right where a larger batch costs little
                more, as on a GPU, and wrong where it costs its size, as on a CPU.
        """
        self.on_done: Callable[[], None] = lambda: None
        self.sizes = tuple(
            dict.fromkeys([*(2**k for k in range(max_batch.bit_length()) if 2**k < max_batch), max_batch])
        )
        self._policy, self._pad = policy, pad
        self._lock = threading.Lock()
        self._closed = False
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compiler")
        self._programs: OrderedDict[CaptureSpec | None, dict[int, Future[Program]]] = OrderedDict()
        self._plan = functools.lru_cache(256)(lambda spec: plan_capture(spec, policy.layout))

    def plan(self, spec: CaptureSpec) -> CapturePlan:
        """What a spec captures of this policy.

        Raises:
            CaptureSpecError: it cannot be honoured.
        """
        return self._plan(spec)

    def size_for(self, count: int) -> int:
        """The size for `count` observations; the greatest where they are more."""
        if self._pad:
            return next((size for size in self.sizes if size >= count), self.sizes[-1])
        return max(size for size in self.sizes if size <= count)

    def want(self, spec: CaptureSpec | None, size: int) -> Future[Program]:
        """Has a program compiled, once; the future fails where it cannot be."""
        with self._lock:
            made = self._programs.setdefault(spec, {})
            self._programs.move_to_end(spec)
            if size in made and not made[size].cancelled():
                return made[size]
            if self._closed:
                made[size] = Future()
                made[size].set_exception(RuntimeError("the server is shutting down"))
                return made[size]
            future = made[size] = self._compiler.submit(self._compile, spec, size)
            self._forget()
        # without the lock: who is told holds one of its own, and asks for programs while it does
        future.add_done_callback(lambda _: self.on_done())
        return future

    def ready(self, spec: CaptureSpec | None, count: int) -> Program | None:
        """The program to run `count` observations with now: the best size where it is ready, else the largest below.

        None where nothing is ready. What is missing is being compiled after this call.
        """
        best = self.size_for(count)
        self.want(spec, best)
        with self._lock:
            made = dict(self._programs.get(spec, {}))
        done = {size: f for size, f in made.items() if f.done() and not f.cancelled() and f.exception() is None}
        if best in done:
            return done[best].result()
        below = [size for size in done if size < best]
        return done[max(below)].result() if below else None

    def failure(self, spec: CaptureSpec | None) -> BaseException | None:
        """Why a spec has no program at all; None where one may still come."""
        with self._lock:
            first = self._programs.get(spec, {}).get(self.sizes[0])
        return first.exception() if first is not None and first.done() and not first.cancelled() else None

    def close(self) -> None:
        """Lets go of what waits to be compiled."""
        with self._lock:
            self._closed = True
        self._compiler.shutdown(wait=False, cancel_futures=True)

    def _forget(self) -> None:
        """Lets the specs go that were asked for longest ago; never one that somebody waits for, who would only ask again."""
        specs = {spec: made for spec, made in self._programs.items() if spec is not None}
        compiled = [spec for spec, made in specs.items() if all(future.done() for future in made.values())]
        for spec in compiled[: max(0, len(specs) - _KEPT_SPECS)]:
            del self._programs[spec]

    def _compile(self, spec: CaptureSpec | None, size: int) -> Program:
        policy = self._policy
        noise = jax.ShapeDtypeStruct((size, *policy.noise_shape), np.float32)
        what = "without capture" if spec is None else f"with {spec}"
        _log.info("compiling for a batch of %d, %s", size, what)
        try:
            lowered = sample_actions.lower(
                policy.params, policy.config, policy.batch_shape(size), noise, num_steps=policy.num_steps, capture=spec
            )
            compiled = lowered.compile()
        except Exception:
            _log.exception("compiling for a batch of %d, %s, failed", size, what)
            raise
        return Program(size, lambda observation, noise: compiled(policy.params, observation, noise))

"""Puts a server together from its options, and runs it until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from vlascope_base.files import partial_path
from vlascope_base.options import record_of
from vlascope_latents import CapturePlan, CaptureSpecError
from vlascope_latents.store import RunWriter, StoreError
from vlascope_latents.store.run_folder import ReadableBy, make_missing_folder

from vlascope_server.policies.checked import CheckedPolicy
from vlascope_server.policies.contract import PLAIN, Policy, PolicyFacts, RequestShape, usual_spec
from vlascope_server.policies.programs import Programs
from vlascope_server.policies.runs import describe_run
from vlascope_server.serving.access import Access, check_host, is_address, read_key, tls_context
from vlascope_server.serving.batcher import Activity, Batcher
from vlascope_server.serving.episodes import Episodes
from vlascope_server.serving.errors import ServeError
from vlascope_server.serving.metadata import server_metadata
from vlascope_server.serving.monitoring import Metrics, OncePerSecond
from vlascope_server.serving.options import ServeOptions, WarmUp
from vlascope_server.serving.server import PolicyServer
from vlascope_server.serving.service import Seeds, Service
from vlascope_server.serving.sockets import episodes_to_hold, raise_limit
from vlascope_server.serving.typos import Typos

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Started:
    """What is being served, for people.

    Attributes:
        url: of the websocket.
        policy: what the served policy says of itself.
        fingerprint: of the policy.
        run: folder that frames go to.
        plan: of a frame with the default spec.
        seed: of what observations draw; None where they draw nothing.
    """

    url: str
    policy: PolicyFacts
    fingerprint: str
    run: Path | None
    plan: CapturePlan
    seed: int | None


def serve(
    load: Callable[[], Policy[Any]],
    options: ServeOptions,
    started: Callable[[Started], None] = lambda started: None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serves a policy until SIGTERM or SIGINT; a second one exits at once. Runs on the main thread.

    Args:
        load: gives the policy; called once it is known that the options go together, since it may take minutes.
        options: how it is served.
        started: called when connections are taken.
        ready: called when the policy is compiled.

    Raises:
        ServeError: the options do not go together, or the address cannot be had.
        StoreError: the store cannot be written.
        VlascopeError: whatever `load` raises.
    """
    with _no_folder_left_empty(options.store):
        _serve(load, options, started, ready)


def _serve(
    load: Callable[[], Policy[Any]],
    options: ServeOptions,
    started: Callable[[Started], None],
    ready: Callable[[], None],
) -> None:
    key = read_key(options.api_key_file) if options.api_key_file else None
    check_host(options.host, has_key=key is not None, insecure=options.insecure)
    named = (options.host, *options.allow_host) if not is_address(options.host) else options.allow_host
    access = Access(key, named, options.allow_origin)
    tls = tls_context(options.tls_cert, options.tls_key)
    options.check()
    if options.store is not None:
        check_writable(options.store, options.readable_by)
    most = episodes_to_hold(raise_limit(), options.limits, writers=options.writers)
    limits = dataclasses.replace(options.limits, max_episodes=most)
    service, plan = _assemble(load, options, most)
    metadata = server_metadata(service.policy, plan, service.run, limits, deterministic=options.deterministic)
    server = PolicyServer(service, metadata, access=access, limits=limits)
    run, listening = service.episodes.run, False

    def say_started(port: int) -> None:
        nonlocal listening
        listening = True
        scheme, host = "wss" if tls else "ws", f"[{options.host}]" if ":" in options.host else options.host
        url, policy = f"{scheme}://{host}:{port}", service.policy
        path, seed = run.path if run else None, _noise_seed(policy, service.seeds.first)
        started(Started(url, policy.facts, policy.fingerprint, path, plan, seed))

    try:
        with _bounded_log():
            asyncio.run(_run(server, service, options, tls, say_started, ready))
    finally:
        service.programs.close()
        service.batcher.close()
        service.episodes.close()
        if run is not None and not listening:
            shutil.rmtree(run.path, ignore_errors=True)  # a server that never was leaves no empty run
    if service.programs.compiling or service.batcher.computing:
        _leave_at_once()


@contextlib.contextmanager
def _no_folder_left_empty(path: Path | None) -> Iterator[None]:
    """Takes away at the end which of `path` and the folders above it were not there before, and hold nothing then."""
    missing = [] if path is None else [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
    try:
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # it holds a run, of this server or of another one, or never came to be
                folder.rmdir()


def _assemble(
    load: Callable[[], Policy[Any]], options: ServeOptions, most_episodes: int
) -> tuple[Service, CapturePlan]:
    """The policy and everything that answers for it, and what it captures unless told otherwise."""
    policy = CheckedPolicy(load())
    accelerated = policy.facts.accelerated
    max_batch = 1 if options.deterministic else options.max_batch or (8 if accelerated else 4)
    programs = Programs(policy, max_batch, pad=accelerated)
    spec = options.capture or usual_spec(policy.layout)
    try:
        plan = programs.plan(spec)
    except CaptureSpecError as error:
        raise ServeError(f"--capture: {error.message}") from None
    seeds = Seeds(options.seed)
    run = None if options.store is None else _create_run(options, options.store, policy, plan, seeds.first)
    activity, metrics = Activity(), Metrics(run.status if run else None)
    batcher = Batcher(
        programs,
        max_wait=options.max_wait_ms / 1e3,
        active_clients=activity.count,
        on_batch=lambda size, seconds: metrics.batch.observe(size),
    )
    service = Service(
        policy=policy,
        programs=programs,
        batcher=batcher,
        activity=activity,
        episodes=Episodes(run, min_free=options.min_free, most=most_episodes),
        metrics=metrics,
        default_spec=spec,
        seeds=seeds,
        typos=Typos(policy.prepare),
    )
    return service, plan


async def _run(
    server: PolicyServer,
    service: Service,
    options: ServeOptions,
    tls: ssl.SSLContext | None,
    listening: Callable[[int], None],
    ready: Callable[[], None],
) -> None:
    """Listens, compiles, and stops when a signal comes; tells `listening` the port."""
    stop = _on_signals()
    try:
        port = await server.start(options.host, options.port, tls)
    except OSError as error:
        raise ServeError(
            f"--host {options.host} --port {options.port}: cannot listen there ({os.strerror(error.errno or 0)}):"
            " choose another"
        ) from None
    listening(port)
    warming = asyncio.ensure_future(server.warm_up(_compile(service, options.warm_up)))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([warming, stopping], return_when=asyncio.FIRST_COMPLETED)
    if warming.done() and not stop.is_set():
        warming.result()
        ready()
    await stopping
    _log.info("shutting down: finishing what is in flight; a second signal exits at once")
    warming.cancel()
    await server.stop()


async def _compile(service: Service, warm_up: WarmUp) -> None:
    """Compiles what clients are likely to ask for, before they ask."""
    programs = service.programs
    shapes = [PLAIN]
    if service.episodes.run is not None:
        shapes.append(RequestShape(service.plan(True)))
    sizes = {"none": (), "single": programs.sizes[:1], "all": programs.sizes}[warm_up]
    await asyncio.gather(*[asyncio.wrap_future(programs.want(shape, n)) for n in sizes for shape in shapes])


@contextlib.contextmanager
def _bounded_log() -> Iterator[None]:
    """Logs what repeats itself once a second."""
    repeats = OncePerSecond()
    for handler in logging.getLogger().handlers:
        handler.addFilter(repeats)
    try:
        yield
    finally:
        for handler in logging.getLogger().handlers:
            handler.removeFilter(repeats)


def _leave_at_once() -> NoReturn:
    """Ends the process. Everything is closed; only XLA still compiles or computes, which nothing can interrupt."""
    _log.info("what is being compiled or computed is given up")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def check_writable(folder: Path, readable_by: ReadableBy = "owner") -> None:
    """Makes a folder of runs where there is none and writes a byte into it.

    Raises:
        ServeError: it cannot be written.
    """
    probe = partial_path(folder / "probe")
    try:
        make_missing_folder(folder, readable_by)
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        raise ServeError(
            f"--store {folder}: cannot be written ({error.strerror}): choose a folder that can, or make room"
        ) from None


def _create_run(options: ServeOptions, store: Path, policy: Policy[Any], plan: CapturePlan, seed: int) -> RunWriter:
    model = describe_run(policy, record_of(dataclasses.replace(options, capture=plan.spec)), _noise_seed(policy, seed))
    if plan.nbytes > options.queue_bytes:
        raise StoreError(f"--queue-bytes {options.queue_bytes}: one frame takes {plan.nbytes} bytes: raise it")
    return RunWriter.create(
        store, policy.facts.name, policy.layout, model, readable_by=options.readable_by, memory_bytes=options.queue_bytes,
        workers=options.writers, on_full=options.on_full,
    )  # fmt: skip


def _noise_seed(policy: Policy[Any], seed: int) -> int | None:
    """The seed of what observations draw; None where they draw nothing."""
    return None if policy.draw(seed) is None else seed


def _on_signals() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process. What is committed is on disk already."""
    stop = asyncio.Event()

    def handle() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle)
    return stop

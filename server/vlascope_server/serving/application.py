"""Puts a server together from its options, and runs it until a signal ends it.

Knows nothing of command lines.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import jax
from vlascope_base.provenance import provenance
from vlascope_latents import CapturePlan, CaptureSpec, CaptureSpecError, plan_capture
from vlascope_latents.store import RunWriter, StoreError
from vlascope_latents.store.access import ReadableBy, make_missing_folder

from vlascope_server.cache import use_compilation_cache
from vlascope_server.policies import Policy, PolicyOptions, Programs
from vlascope_server.serving.access import Access, check_host, is_address, read_key, tls_context
from vlascope_server.serving.batcher import Activity, Batcher
from vlascope_server.serving.descriptors import episodes_to_hold, raise_limit
from vlascope_server.serving.episodes import Episodes
from vlascope_server.serving.errors import ServeError
from vlascope_server.serving.metadata import server_metadata
from vlascope_server.serving.metrics import Metrics
from vlascope_server.serving.repeats import OncePerSecond
from vlascope_server.serving.server import Limits, PolicyServer
from vlascope_server.serving.session import Seeds, Service
from vlascope_server.serving.typos import Typos

_log = logging.getLogger(__name__)

_PACKAGES = ("vlascope-server", "vlascope-latents", "jax", "jaxlib", "numpy", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """How a policy is served.

    Attributes:
        checkpoint: a path, a URL or a preset's name.
        policy: what else there is to say of it.
        store: folder of runs; None captures only what is returned.
        readable_by: who may read the run, and the folder of runs where it is made.
        host: to listen on.
        port: 0 for a free one.
        capture: the spec that `collect_latents: true` means.
        max_batch: observations in a batch at most; None is 8, and 4 on a CPU, where more gains nothing.
        max_wait: seconds that one waits for others.
        deterministic: batches of one.
        seed: of the noise of observations that bring none; drawn, and said, where None.
        queue_bytes: of frames on their way to disk.
        on_full: what happens when they are that many.
        min_free: bytes that stay free on the store's disk.
        writers: threads that write.
        api_key_file: holds the key that clients must know.
        tls_cert: for wss.
        tls_key: for wss.
        insecure: allows other machines to connect without a key.
        allow_hosts: names that a request may call this server by, beside its machine's own and addresses in numbers.
        allow_origins: sites whose web pages may connect.
        limits: what is taken at most.
        warm_up: compile nothing, what a single client needs, or every batch size, before being ready.
    """

    checkpoint: str
    policy: PolicyOptions = PolicyOptions()  # noqa: RUF009
    store: Path | None = None
    readable_by: ReadableBy = "owner"
    host: str = "127.0.0.1"
    port: int = 8000
    capture: CaptureSpec = CaptureSpec()  # noqa: RUF009
    max_batch: int | None = None
    max_wait: float = 0.005
    deterministic: bool = False
    seed: int | None = None
    queue_bytes: int = 1 << 30
    on_full: Literal["block", "drop"] = "block"
    min_free: int = 1 << 30
    writers: int = 4
    api_key_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    limits: Limits = Limits()  # noqa: RUF009
    warm_up: Literal["none", "single", "all"] = "single"


@dataclasses.dataclass(frozen=True)
class Started:
    """What is being served, for people.

    Attributes:
        url: of the websocket.
        policy: that is served.
        run: folder that frames go to.
        plan: of a frame with the default spec.
        seed: of the noise.
    """

    url: str
    policy: Policy
    run: Path | None
    plan: CapturePlan
    seed: int


def serve(options: ServeOptions, started: Callable[[Started], None], ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT; a second one exits at once.

    Args:
        options: how.
        started: called when connections are taken.
        ready: called when the policy is compiled.

    Raises:
        ServeError: the options do not go together, or the address cannot be had.
        CheckpointError: the policy cannot be loaded.
        StoreError: the store cannot be written.
    """
    key = read_key(options.api_key_file) if options.api_key_file else None
    check_host(options.host, has_key=key is not None, insecure=options.insecure)
    named = (options.host, *options.allow_hosts) if not is_address(options.host) else options.allow_hosts
    access = Access(key, named, options.allow_origins)
    tls = tls_context(options.tls_cert, options.tls_key)
    _check(options)
    if options.store is not None:
        check_writable(options.store, options.readable_by)
    limits = dataclasses.replace(
        options.limits,
        episodes=episodes_to_hold(
            raise_limit(),
            clients=options.limits.clients,
            connecting=options.limits.connecting,
            writers=options.writers,
            asked=options.limits.episodes,
        ),
    )
    use_compilation_cache()
    policy = Policy.load(options.checkpoint, options.policy)
    try:
        plan = plan_capture(options.capture, policy.layout)
    except CaptureSpecError as error:
        raise ServeError(f"--capture: {error.message}") from None
    seeds = Seeds(options.seed)
    run = None if options.store is None else _create_run(options, options.store, policy, seeds.first)
    episodes = Episodes(run, min_free=options.min_free, most=limits.episodes or 0)
    activity, metrics = Activity(), Metrics(run.status if run else None)
    on_cpu = jax.default_backend() == "cpu"
    max_batch = 1 if options.deterministic else options.max_batch or (4 if on_cpu else 8)
    programs = Programs(policy, max_batch, pad=not on_cpu)
    batcher = Batcher(
        policy,
        programs,
        max_wait=options.max_wait,
        active_clients=activity.count,
        on_batch=lambda size, seconds: metrics.batch.observe(size),
    )
    typos = Typos(policy.pipeline.robot)
    service = Service(policy, programs, batcher, activity, episodes, metrics, options.capture, seeds, typos)
    metadata = server_metadata(
        policy, plan, service.run, dataclasses.asdict(limits), deterministic=options.deterministic
    )
    listening = False
    server = PolicyServer(service, metadata, access=access, limits=limits)

    async def compile_all() -> None:
        specs = [None] if run is None else [None, options.capture]
        sizes = {"none": (), "single": programs.sizes[:1], "all": programs.sizes}[options.warm_up]
        await asyncio.gather(*[asyncio.wrap_future(programs.want(spec, n)) for n in sizes for spec in specs])

    async def run_server() -> None:
        nonlocal listening
        stop = _on_signals()
        try:
            port = await server.start(options.host, options.port, tls)
        except OSError as error:
            raise ServeError(
                f"--host {options.host} --port {options.port}: cannot listen there ({os.strerror(error.errno or 0)}):"
                " choose another"
            ) from None
        listening = True
        scheme, host = "wss" if tls else "ws", f"[{options.host}]" if ":" in options.host else options.host
        started(Started(f"{scheme}://{host}:{port}", policy, run.path if run else None, plan, seeds.first))
        warming = asyncio.ensure_future(server.warm_up(compile_all()))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait([warming, stopping], return_when=asyncio.FIRST_COMPLETED)
        if warming.done() and not stop.is_set():
            warming.result()
            ready()
        await stopping
        _log.info("shutting down: finishing what is in flight; a second signal exits at once")
        warming.cancel()
        await server.stop()

    repeats = OncePerSecond()
    for handler in logging.getLogger().handlers:
        handler.addFilter(repeats)
    try:
        asyncio.run(run_server())
    finally:
        for handler in logging.getLogger().handlers:
            handler.removeFilter(repeats)
        programs.close()
        batcher.close()
        episodes.close()
        if run is not None and not listening:
            shutil.rmtree(run.path, ignore_errors=True)  # a server that never was leaves no empty run
    if programs.compiling or batcher.computing:
        _leave_at_once()


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
    probe = folder / f".{os.getpid()}.partial"
    try:
        make_missing_folder(folder, readable_by)
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        raise ServeError(
            f"--store {folder}: cannot be written ({error.strerror}): choose a folder that can, or make room"
        ) from None


def _check(options: ServeOptions) -> None:
    for name, value, least in (
        ("--max-batch", 1 if options.max_batch is None else options.max_batch, 1),
        ("--max-wait-ms", 1e3 * options.max_wait, 0),
        ("--port", options.port, 0),
        ("--writers", options.writers, 1),
        ("--max-clients", options.limits.clients, 1),
        ("--max-in-flight", options.limits.requests_in_flight, 1),
        ("--max-connecting", options.limits.connecting, 4),
        ("--max-episodes", 1 if options.limits.episodes is None else options.limits.episodes, 1),
        ("--max-message-bytes", options.limits.message_bytes, 1024),
    ):
        if value < least:
            raise ServeError(f"{name}: expected at least {least}, found {value}")
    if options.port > 65535:
        raise ServeError(f"--port: expected 0 to 65535, found {options.port}")
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise ServeError(f"--seed: expected 0 to 2^63-1, found {options.seed}")


def _create_run(options: ServeOptions, store: Path, policy: Policy, seed: int) -> RunWriter:
    model: dict[str, Any] = {
        "checkpoint": options.checkpoint,
        "fingerprint": policy.fingerprint,
        "configuration": dataclasses.asdict(policy.config),
        "record": dataclasses.asdict(policy.checkpoint.record),
        "robot": policy.pipeline.robot.spec.name,
        "denoise_steps": policy.num_steps,
        "noise_seed": seed,
        "options": _plain(dataclasses.asdict(options)),
        **provenance(*_PACKAGES),
        "device": jax.devices()[0].device_kind,
    }
    frame = plan_capture(options.capture, policy.layout).nbytes
    if frame > options.queue_bytes:
        raise StoreError(f"--queue-bytes {options.queue_bytes}: one frame takes {frame} bytes: raise it")
    return RunWriter.create(
        store, policy.name, policy.layout, model, readable_by=options.readable_by, memory_bytes=options.queue_bytes,
        workers=options.writers, on_full=options.on_full,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """As JSON takes it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


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

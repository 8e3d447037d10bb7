"""A policy server in a process of its own, and what can be seen of it from outside: memory, and how fast its loop answers."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import websockets.sync.client
from common import memory_of
from vlascope_client.codec import pack, unpack

Ask = Callable[[dict[str, Any]], dict[str, Any]]

FULL = "pi0-drawn"
_DRAWN = f"""
import dataclasses, sys
from vlascope_server.commands import main
from vlascope_server.model.config import full_size
from vlascope_server.presets import SEEDED
SEEDED["{FULL}"] = dataclasses.replace(full_size(), cameras=("base_0_rgb", "left_wrist_0_rgb"))
sys.exit(main())
"""
"""`vlascope-server` that also knows the published size, with weights drawn as those of `tiny`: no checkpoint to write."""


class Served:
    """A server that runs.

    Attributes:
        url: of the websocket.
        pid: of its process.
        log: what it prints goes here.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path):
        self._process, self.log, self.pid = process, log, process.pid
        self.url = self._wait(lambda: self._listening())

    def ready(self) -> bool:
        """Whether /readyz says so."""
        return self.status("/readyz") == 200

    def status(self, path: str) -> int:
        """Of a GET, on a connection of its own."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def wait_ready(self, seconds: float = 1200) -> None:
        """Returns once the policy is compiled."""
        self._wait(self.ready, seconds)

    @contextlib.contextmanager
    def client(self) -> Iterator[Ask]:
        """A connection: a message in, its reply out; an error ends the benchmark."""
        with websockets.sync.client.connect(
            self.url, compression=None, max_size=None, open_timeout=60, ping_timeout=None, proxy=None
        ) as socket:
            socket.recv()

            def ask(message: dict[str, Any]) -> dict[str, Any]:
                socket.send(pack(message))
                reply = socket.recv()
                if isinstance(reply, str):
                    raise SystemExit(f"the server refused: {reply}")
                return unpack(reply)

            yield ask

    def memory(self) -> dict[str, int]:
        """Bytes: proportional set size, resident set size, and how much of the latter is no file."""
        return memory_of(self.pid)

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _listening(self) -> str | None:
        found = re.search(r"^listening (\S+)$", self.log.read_text(encoding="utf-8"), re.MULTILINE)
        return found and found[1]

    def _wait(self, done: Callable[[], Any], seconds: float = 600) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := done()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{self.log.read_text(encoding='utf-8')}")
            time.sleep(0.05)
        return value


@contextlib.contextmanager
def serving(checkpoint: str, folder: Path, *options: str) -> Iterator[Served]:
    """`vlascope-server serve` on a free port, with an empty compilation cache, until the block ends."""
    command = [sys.executable, *(("-c", _DRAWN) if checkpoint == FULL else ("-m", "vlascope_server"))]
    command += ["serve", "--checkpoint", checkpoint, "--port", "0", *options]
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_PYTHON_CLIENT_PREALLOCATE"}
    environment = {**inherited, "PYTHONUNBUFFERED": "1", "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
    log = folder / "server.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield Served(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_SLEEP = 0.001


class LoopProbe:
    """How long websocket pings, `/healthz` and a bare sleep take in a stretch of time: three threads, 20 times a second.

    The sleep's overshoot is the machine's share: what a thread waits for a core here, without any server.
    """

    def __init__(self, served: Served, interval: float = 0.05):
        """Starts with the `with` block, and ends with it."""
        self._served, self._interval = served, interval
        self._stop = threading.Event()
        self._seconds: dict[str, list[float]] = {"ping": [], "healthz": [], "sleep": []}
        self._pool = ThreadPoolExecutor(3)
        self._runs: list[Future[None]] = []

    def __enter__(self) -> LoopProbe:
        self._runs = [self._pool.submit(call) for call in (self._ping, self._healthz, self._sleep)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for run in self._runs:
            run.result()

    def milliseconds(self) -> dict[str, dict[str, float]]:
        """By kind: median, 99th percentile, longest, and how many."""
        return {
            kind: {
                "p50": 1e3 * float(np.percentile(seconds, 50)),
                "p99": 1e3 * float(np.percentile(seconds, 99)),
                "max": 1e3 * max(seconds),
                "count": len(seconds),
            }
            for kind, seconds in self._seconds.items()
            if seconds
        }

    def _ping(self) -> None:
        url = self._served.url
        with websockets.sync.client.connect(
            url, compression=None, open_timeout=60, ping_interval=None, proxy=None
        ) as socket:
            socket.recv()
            self._repeat("ping", lambda: socket.ping().wait(60))

    def _healthz(self) -> None:
        self._repeat("healthz", lambda: self._served.status("/healthz"))

    def _sleep(self) -> None:
        self._repeat("sleep", lambda: time.sleep(_SLEEP))

    def _repeat(self, kind: str, call: Callable[[], object]) -> None:
        while not self._stop.wait(self._interval):
            begun = time.perf_counter()
            call()
            self._seconds[kind].append(time.perf_counter() - begun - (_SLEEP if kind == "sleep" else 0))

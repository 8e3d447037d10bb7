"""A real `vlascope-server serve` in a process of its own, for tests that speak to it over the wire."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path


@dataclasses.dataclass
class LiveServer:
    """A server that runs.

    Attributes:
        url: of the websocket.
        process: the server's.
        lines: what it printed so far, stdout and stderr.
    """

    url: str
    process: subprocess.Popen
    lines: list[str]

    @property
    def http_url(self) -> str:
        return self.url.replace("ws", "http", 1)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def run(self) -> Path:
        """The run's folder."""
        found = re.search(r"^storing +(\S+)$", self.output, re.MULTILINE)
        assert found, self.output
        return Path(found[1])

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and body of one of the HTTP endpoints."""
        request = urllib.request.Request(self.http_url + path, headers=headers or {})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wait_ready(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while self.get("/readyz")[0] != 200:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextlib.contextmanager
def serve(
    *options: str, checkpoint: str = "tiny", ready: bool = True, files: int | None = None
) -> Iterator[LiveServer]:
    """Starts a server on a free port, waits until it is ready unless told, and ends it with the block.

    `files` is how many it may have open at most.
    """
    command = [
        sys.executable,
        "-m",
        "vlascope_server",
        "serve",
        "--checkpoint",
        checkpoint,
        "--port",
        "0",
        *options,
    ]
    if files is not None:
        command = ["bash", "-c", f'ulimit -n {files}; exec "$@"', "bash", *command]
    with run_server(command, ready=ready) as server:
        yield server


@contextlib.contextmanager
def run_server(command: Sequence[str], *, ready: bool = True) -> Iterator[LiveServer]:
    """Starts the server of a command that prints `listening URL`, as `serve` does."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    lines: list[str] = []
    listening = threading.Event()

    def collect() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("listening"):
                listening.set()
        listening.set()

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    try:
        assert listening.wait(120), "".join(lines)
        found = re.search(r"^listening (\S+)$", "".join(lines), re.MULTILINE)
        assert found, "".join(lines)
        server = LiveServer(found[1], process, lines)
        if ready:
            server.wait_ready()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reader.join(10)

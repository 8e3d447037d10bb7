"""The clients of the soak test: some that do their work, some that do every other thing a client can do.

Each runs until `stop` is set, and keeps what the server acknowledged. Knows nothing of the store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import xxhash
from vlascope_client.codec import pack
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.server.serving.wire import Wire, connect, observation

SPECS = (
    {"layers": [3], "spans": ["text", "action"], "reduction": "mean"},
    {"layers": [0, 5], "experts": ["vlm"], "spans": ["text"]},
    True,
)
HOSTILE_SPECS = (
    {"layers": [99]},
    {"spans": ["sound"]},
    {"components": {}},
    [1],
    {"layers": [[1]]},
    "x",
)
SERVERS_FAULT = ("internal", "store_failed")


@dataclasses.dataclass
class Kept:
    """What the server told the clients, written by all of their threads.

    Attributes:
        receipts: of `end_episode`.
        tickets: (episode, attempt) -> frame numbers handed out.
        checksums: (episode, attempt, frame) -> tensor path -> XXH3-64 of what came back.
        committed: the largest count that a status said.
        interrupted: (episode, attempt) of those left open on purpose.
        counts: of everything done.
        wrong: what should not have been answered.
    """

    receipts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    tickets: dict[tuple[str, int], list[int]] = dataclasses.field(default_factory=dict)
    checksums: dict[tuple[str, int, int], dict[str, str]] = dataclasses.field(default_factory=dict)
    committed: int = 0
    interrupted: set[tuple[str, int]] = dataclasses.field(default_factory=set)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def keep(self, latents: dict[str, Any]) -> tuple[str, int]:
        """Notes a ticket, and the tensors that came with it."""
        key = latents["episode"], latents["attempt"]
        sums = {
            path: xxhash.xxh3_64_hexdigest(tensor["data"].tobytes())
            for path, tensor in latents.get("tensors", {}).items()
        }
        with self.lock:
            self.tickets.setdefault(key, []).append(latents["frame"])
            if sums:
                self.checksums[*key, latents["frame"]] = sums
            self.counts["frames"] += 1
        return key

    def refused(self, reply: dict[str, Any], *codes: str) -> None:
        """Expects an error, one of `codes` where there are any; the server's own faults never."""
        code = reply.get("code")
        self.count(f"refused {code}")
        if code in SERVERS_FAULT or (codes and code not in codes):
            with self.lock:
                self.wrong.append(f"expected {codes or 'any error'}, found {str(reply)[:300]}")


class Client(threading.Thread):
    """One client, on a thread of its own."""

    def __init__(self, url: str, number: int, kept: Kept, stop: threading.Event):
        super().__init__(daemon=True)
        self.url, self.number, self.kept, self.stop = url, number, kept, stop
        self.random = random.Random(number)  # noqa: S311
        self.error: BaseException | None = None
        self._names = itertools.count()

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self.once()
        except BaseException as error:  # the test raises it
            self.error = error

    def once(self) -> None:
        """One thing that this client does."""
        raise NotImplementedError

    def name(self) -> str:
        """An id that nobody took."""
        return f"{type(self).__name__.lower()}{self.number}-{next(self._names)}"

    def frame(self, episode: str, spec: Any, **fields: Any) -> dict[str, Any]:
        return observation(self.random.randrange(2**31), episode={"id": episode}, collect_latents=spec, **fields)


class Honest(Client):
    """Episodes from the first observation to the receipt, some observations captured, some returned, some neither."""

    def once(self) -> None:
        with connect(self.url) as wire:
            for _ in range(self.random.randint(1, 4)):
                self.episode(wire)

    def episode(self, wire: Wire) -> None:
        # one in three comes again, for another attempt
        name = self.name() if self.random.random() < 0.7 else f"again{self.number}"
        spec = self.random.choice(SPECS)
        for number in range(self.random.randint(2, 8)):
            if number and self.random.random() < 0.3:
                assert wire.ask(observation(number))["actions"].shape == (10, 7)
                self.kept.count("plain")
            reply = wire.ask(self.frame(name, spec, return_latents=spec is not True, annotations={"step": number}))
            self.kept.keep(reply["latents"])
        if self.random.random() < 0.5:
            status = wire.ask({"request": "status"})
            with self.kept.lock:
                self.kept.committed = max(self.kept.committed, status["committed"])
        receipt = wire.ask({"request": "end_episode", "episode": name, "success": True, "total_steps": 9})
        with self.kept.lock:
            self.kept.receipts.append(receipt)


class Killed(Client):
    """A process that captures until a SIGKILL ends it between two messages or in one."""

    def once(self) -> None:
        command = [sys.executable, "-m", "tests.server.serving.soak_clients", self.url, self.name()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(self.random.randint(1, 5)):
                line = process.stdout.readline()
                assert line, "the client ended by itself"
                key = self.kept.keep(json.loads(line))
            time.sleep(self.random.random() * 0.05)
            process.send_signal(signal.SIGKILL)
        self.kept.interrupted.add(key)
        self.kept.count("killed")


class Garbage(Client):
    """Bytes that are no message, messages that were bitten, specs and episodes that are none; the connection lives on."""

    def once(self) -> None:
        with connect(self.url) as wire:
            for _ in range(20):
                self.kept.refused(wire.ask(self.random.randbytes(self.random.randint(0, 3000))), "bad_message")
                self.kept.refused(wire.ask("text"), "bad_message")
                message = self.frame("garbage", self.random.choice(HOSTILE_SPECS))
                self.kept.refused(wire.ask(message), "invalid_spec", "invalid_field")
                self.kept.refused(wire.ask({"request": "end_episode", "episode": "nobody"}), "unknown_episode")
                self.bitten(wire)

    def bitten(self, wire: Wire) -> None:
        """A sound message with a few of its bytes changed: it may still be one."""
        content = bytearray(pack(observation(1, timestep=1, annotations={"a": [1.0]})))
        for _ in range(self.random.randint(1, 4)):
            # the head and the tail: what lies between are pixels
            place = self.random.choice((self.random.randrange(200), -1 - self.random.randrange(300)))
            content[place] = self.random.randrange(256)
        reply = wire.ask(bytes(content))
        if "code" in reply:
            self.kept.refused(reply)
        else:
            self.kept.count("bitten and well")


class Oversized(Client):
    """Messages above the limit, which are refused, and far above, which end the connection."""

    def once(self) -> None:
        with connect(self.url) as wire:
            limit = wire.metadata["limits"]["message_bytes"]
            for _ in range(3):
                self.kept.refused(wire.ask({"x": b"\0" * (limit + 1)}), "message_too_large")
            assert wire.ask(observation())["actions"].shape == (10, 7)
            with contextlib.suppress(ConnectionClosed):
                wire.send(b"\0" * (5 * limit))
                raise AssertionError(f"expected the connection to end, found {wire.receive()}")
            assert wire.socket.close_code == 1009, wire.socket.close_code
            self.kept.count("closed for size")
        time.sleep(0.2)


class Vanishing(Client):
    """Half a message, and the connection is reset; its episode had frames."""

    def once(self) -> None:
        with connect(self.url) as wire:
            name = self.name()
            for _ in range(self.random.randint(1, 3)):
                key = self.kept.keep(wire.ask(self.frame(name, SPECS[0]))["latents"])
            content = Frame(Opcode.BINARY, pack(observation())).serialize(mask=True)
            wire.socket.socket.sendall(content[: len(content) // 2])
            reset(wire.socket.socket)
        with self.kept.lock:
            self.kept.interrupted.add(key)
            self.kept.counts["vanished"] += 1


class Deaf(Client):
    """Asks for a megabyte a reply, never reads one, and goes."""

    def once(self) -> None:
        address = urlsplit(self.url)
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.sendall(
                f"GET / HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            raw.settimeout(2)
            with contextlib.suppress(TimeoutError, OSError):
                for _ in range(40):  # until the server takes no more, which is what it should do
                    message = self.frame(f"deaf{self.number}", SPECS[1], return_latents=True)
                    raw.sendall(Frame(Opcode.BINARY, pack(message)).serialize(mask=True))
            self.stop.wait(self.random.random() * 3)
            reset(raw)
        self.kept.count("deaf")
        time.sleep(0.2)


def reset(raw: socket.socket) -> None:
    """Ends a connection without a goodbye."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        raw.shutdown(socket.SHUT_RDWR)


def clients(url: str, kept: Kept, stop: threading.Event) -> list[Client]:
    """Eight of them."""
    kinds = (Honest, Honest, Honest, Killed, Garbage, Oversized, Vanishing, Deaf)
    return [kind(url, number, kept, stop) for number, kind in enumerate(kinds)]


def captures_until_killed(url: str, episode: str) -> None:
    """The process of `Killed`: prints each ticket once it has it."""
    with connect(url) as wire:
        for number in itertools.count():
            latents = wire.ask(observation(number, episode={"id": episode}, collect_latents=SPECS[0]))["latents"]
            print(json.dumps(latents), flush=True)


if __name__ == "__main__":
    os.nice(5)
    captures_until_killed(sys.argv[1], sys.argv[2])

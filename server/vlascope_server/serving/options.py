"""How a policy is served: the options that the server runs on, whichever policy it is. Imports no JAX."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes
from vlascope_base.options import Bytes

from vlascope_server.options import Capture, StoreOptions
from vlascope_server.serving.errors import ServeError

EPISODES_OF_A_CLIENT = 32
"""Episodes that one client may have open at a time: the store holds a file open for each."""


WarmUp = Literal["none", "single", "all"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes at most."""

    max_clients: int = 64
    """Connections at a time."""
    max_in_flight: int = 64
    """Requests being answered at a time, of all clients together."""
    max_connecting: int = 128
    """Sockets that have not finished their handshake, at a time; a quarter of them, or `--max-clients`, from one host."""
    max_episodes: int | None = None
    """Episodes open in the store at a time; unless told, 32 a client, or fewer where the limit of open files is low."""
    max_message_bytes: Bytes = 32 * 10**6
    """Bytes of one message."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeOptions(StoreOptions):
    """How a policy is served."""

    store: Path | None = None
    """Folder of runs; a new run is made in it. Without one, nothing can be captured but what is returned."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines reach needs a key."""
    port: int = 8000
    """0 takes a free one."""
    capture: Capture = None
    """The spec that `collect_latents: true` means, as JSON (docs/model.md); every layer and token unless told."""
    max_batch: int | None = None
    """Observations in one batch at most; 8 unless told, and 4 on a CPU, where more gains nothing."""
    max_wait_ms: float = 5.0
    """How long an observation waits for those of other active clients."""
    deterministic: bool = False
    """Batches of one: the same request gives the same bits whoever else is connected."""
    seed: int | None = None
    """Seed of the noise of observations that bring none; drawn and printed unless told."""
    on_full: Literal["block", "drop"] = "block"
    """A full queue makes the policy wait, or drops whole frames and counts them."""
    api_key_file: Path | None = None
    """A file with the key that clients must send."""
    tls_cert: Path | None = None
    """Certificate chain (PEM), for wss://."""
    tls_key: Path | None = None
    """Its key (PEM)."""
    insecure: bool = False
    """Lets other machines connect without a key."""
    allow_host: tuple[str, ...] = ()
    """Names that requests may call this server by; its machine's own and addresses in numbers need none. `*` is any."""
    allow_origin: tuple[str, ...] = ()
    """Sites whose web pages may connect, such as https://example.org; none unless told. `*` is any."""
    limits: OmitArgPrefixes[Limits] = dataclasses.field(default_factory=Limits)
    warm_up: WarmUp = "single"
    """What is compiled before /readyz: nothing, what a single client needs, or every batch size."""

    def check(self) -> None:
        """Compares numbers with what they may be.

        Raises:
            ServeError: one is out of range.
        """
        limits = self.limits
        for name, value, least in (
            ("--max-batch", 1 if self.max_batch is None else self.max_batch, 1),
            ("--max-wait-ms", self.max_wait_ms, 0),
            ("--port", self.port, 0),
            ("--writers", self.writers, 1),
            ("--max-clients", limits.max_clients, 1),
            ("--max-in-flight", limits.max_in_flight, 1),
            ("--max-connecting", limits.max_connecting, 4),
            ("--max-episodes", 1 if limits.max_episodes is None else limits.max_episodes, 1),
            ("--max-message-bytes", limits.max_message_bytes, 1024),
        ):
            if value < least:
                raise ServeError(f"{name}: expected at least {least}, found {value}")
        if self.port > 65535:
            raise ServeError(f"--port: expected 0 to 65535, found {self.port}")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ServeError(f"--seed: expected 0 to 2^63-1, found {self.seed}")

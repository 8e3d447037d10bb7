"""`vlascope-server serve`: a policy on a websocket."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlascope_server.commands.options import LogLevel

if TYPE_CHECKING:
    from vlascope_latents import CaptureSpec

    from vlascope_server.serving.application import Started


@dataclasses.dataclass(frozen=True)
class Serve:
    """Serves a policy over openpi's websocket protocol, and keeps its hidden states where a client asks for them."""

    checkpoint: str = "tiny"
    """A step folder, its params/, a safetensors file, a URL, or a preset's name."""
    store: Path | None = None
    """Folder of runs; a new run is made in it. Without one, nothing can be captured but what is returned."""
    readable_by: Literal["owner", "group", "everyone"] = "owner"
    """Who may read the run, and the folder of runs where it is made: its owner alone, its group, or everyone."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines reach needs a key."""
    port: int = 8000
    """0 takes a free one."""
    robot: str | None = None
    """Whose observations these are: libero, droid or aloha; the checkpoint says so where it knows."""
    num_steps: int = 10
    """Denoise steps from noise to actions."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of parameters and activations; auto is bfloat16 on an accelerator and float32 on a CPU."""
    default_prompt: str | None = None
    """The instruction for observations without one."""
    preset: str | None = None
    """Fills in what the checkpoint's own files do not say."""
    asset_id: str | None = None
    """Which statistics, where the checkpoint has several."""
    action_horizon: int | None = None
    """Actions in one chunk, where the checkpoint does not say."""
    max_token_len: int | None = None
    """Text tokens, padding included, where the checkpoint does not say."""
    tokenizer: Path | None = None
    """A SentencePiece model; the checkpoint's own unless told."""
    capture: str | None = None
    """The spec that `collect_latents: true` means, as JSON (docs/model.md); every layer and token unless told."""
    max_batch: int | None = None
    """Observations in one batch at most; 8 unless told, and 4 on a CPU."""
    max_wait_ms: float = 5.0
    """How long an observation waits for those of other active clients."""
    deterministic: bool = False
    """Batches of one: the same request gives the same bits whoever else is connected."""
    seed: int | None = None
    """Of the noise of observations that bring none; drawn and printed unless told."""
    queue_bytes: str = "1GB"
    """Memory for frames on their way to disk."""
    on_full: Literal["block", "drop"] = "block"
    """A full queue makes the policy wait, or drops whole frames and counts them."""
    min_free: str = "1GB"
    """Captures are refused while the store's disk has less free."""
    writers: int = 4
    """Threads that write frames."""
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
    max_clients: int = 64
    """Connections at a time."""
    max_in_flight: int = 64
    """Requests being answered at a time."""
    max_connecting: int = 128
    """Sockets that have not finished their handshake, at a time; a quarter of them, or `--max-clients`, from one host."""
    max_episodes: int | None = None
    """Episodes open in the store at a time; unless told, 32 a client, or fewer where the limit of open files is low."""
    max_message_bytes: str = "32MB"
    """Of one message."""
    warm_up: Literal["none", "single", "all"] = "single"
    """What is compiled before /readyz: nothing, what a single client needs, or every batch size."""
    log_level: LogLevel = "info"
    """How much to log, to stderr."""

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        from vlascope_base.text import parse_bytes

        from vlascope_server.policies import PolicyOptions
        from vlascope_server.serving.application import ServeOptions, serve
        from vlascope_server.serving.errors import ServeError
        from vlascope_server.serving.server import Limits

        def size(option: str, text: str) -> int:
            try:
                return parse_bytes(text)
            except ValueError as error:
                raise ServeError(f"{option}: {error}") from None

        options = ServeOptions(
            checkpoint=self.checkpoint,
            policy=PolicyOptions(
                robot=self.robot,
                num_steps=self.num_steps,
                dtype=self.dtype,
                default_prompt=self.default_prompt,
                preset=self.preset,
                asset_id=self.asset_id,
                tokenizer=self.tokenizer,
                action_horizon=self.action_horizon,
                max_token_len=self.max_token_len,
            ),
            store=self.store,
            readable_by=self.readable_by,
            host=self.host,
            port=self.port,
            capture=_spec(self.capture),
            max_batch=self.max_batch,
            max_wait=self.max_wait_ms / 1e3,
            deterministic=self.deterministic,
            seed=self.seed,
            queue_bytes=size("--queue-bytes", self.queue_bytes),
            on_full=self.on_full,
            min_free=size("--min-free", self.min_free),
            writers=self.writers,
            api_key_file=self.api_key_file,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            insecure=self.insecure,
            allow_hosts=self.allow_host,
            allow_origins=self.allow_origin,
            limits=Limits(
                size("--max-message-bytes", self.max_message_bytes),
                self.max_clients,
                self.max_in_flight,
                self.max_connecting,
                self.max_episodes,
            ),
            warm_up=self.warm_up,
        )
        serve(options, _print_started, lambda: print("ready", flush=True))


def _spec(text: str | None) -> CaptureSpec:
    from vlascope_latents import CaptureSpec, CaptureSpecError

    from vlascope_server.serving.errors import ServeError

    try:
        return CaptureSpec() if text is None else CaptureSpec.from_map(json.loads(text))
    except CaptureSpecError as error:
        raise ServeError(f"--capture: {error.message}") from None
    except ValueError as error:
        raise ServeError(f"--capture: expected JSON such as '{{\"layers\": [5]}}' ({error})") from None


def _print_started(started: Started) -> None:
    from vlascope_base.text import readable_bytes

    policy, spec = started.policy, started.policy.pipeline.robot.spec
    model = "pi0.5" if policy.config.pi05 else "pi0"
    print(
        f"serving   {policy.name} ({model}, {policy.config.dtype}, {policy.num_steps} denoise steps, {policy.fingerprint})"
    )
    chunk = f"{policy.config.action_horizon} actions of {spec.action_dim}"
    print(f"robot     {spec.name}: cameras {', '.join(spec.cameras.values())}; {chunk}")
    print(f"storing   {started.run or 'nothing: no --store was given'}")
    print(f"a frame   {readable_bytes(started.plan.nbytes)} with the default capture; noise seed {started.seed}")
    print(f"listening {started.url}")
    sys.stdout.flush()
    logging.getLogger(__name__).info("compiling; requests that come now wait")

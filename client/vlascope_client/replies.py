"""A server's replies as values. Knows nothing of sockets or of when a request is repeated."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from vlascope_client.codec import MessageError, unpack
from vlascope_client.errors import PolicyError, ProtocolError
from vlascope_client.fields import read, read_optional


@dataclasses.dataclass(frozen=True, eq=False)
class LatentsTicket:
    """What became of the hidden states of one inference. Queued, not on disk: `end_episode` says what was committed.

    Attributes:
        run: that the frame goes to; None where the server has no store.
        episode: its id.
        attempt: of the episode, from 1; None without a store.
        frame: its number in the episode; None where it was dropped, or without a store.
        bytes: of the frame.
        queue_bytes, queue_limit: of the server's queue to disk.
        tensors: with `return_latents`, path such as `vlm/hidden_states` -> float32 array; bfloat16 is widened, exactly.
        dims: path -> names of that array's axes.
    """

    run: str | None
    episode: str | None
    attempt: int | None
    frame: int | None
    bytes: int
    queue_bytes: int
    queue_limit: int
    tensors: Mapping[str, np.ndarray]
    dims: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyReply:
    """Actions for one observation.

    Attributes:
        actions: float32 [action_horizon, action_dim], the caller's own: may be written to.
        state: float64 [state_dim], as the server read it; empty where it says nothing.
        seed: of the noise; None where the observation brought its own.
        policy_timing, server_timing: milliseconds by name, see docs/protocol.md.
        latents: where they were asked.
        warnings: for people, such as a prompt that was cut.
        raw: the reply as it came.
    """

    actions: np.ndarray
    state: np.ndarray
    seed: int | None
    policy_timing: Mapping[str, float]
    server_timing: Mapping[str, float]
    latents: LatentsTicket | None
    warnings: tuple[str, ...]
    raw: Mapping[str, Any] = dataclasses.field(repr=False)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> PolicyReply:
        """Reads the reply to an observation, of a vlascope or of an openpi server.

        Raises:
            ProtocolError: a field is missing or of another type.
        """
        actions = np.array(read(message, "actions", np.ndarray, "reply"), np.float32)
        if actions.ndim != 2:
            raise ProtocolError(f"reply.actions: expected [action_horizon, action_dim], found shape {actions.shape}")
        latents = read_optional(message, "latents", dict, "reply")
        return cls(
            actions=actions,
            state=_numbers(message.get("state")),
            seed=read_optional(message, "seed", int, "reply"),
            policy_timing=read_optional(message, "policy_timing", dict, "reply") or {},
            server_timing=read_optional(message, "server_timing", dict, "reply") or {},
            latents=_ticket(latents) if latents is not None else None,
            warnings=tuple(read_optional(message, "warnings", list, "reply") or ()),
            raw=message,
        )


@dataclasses.dataclass(frozen=True)
class EpisodeBegun:
    """An episode that is open on this connection; `attempt` is None until its first captured frame, unless a spec was given."""

    episode: str
    run: str | None
    attempt: int | None

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> EpisodeBegun:
        """Reads the reply to `begin_episode`; raises `ProtocolError`."""
        where = "begin_episode"
        return cls(
            read(message, "episode", str, where),
            read_optional(message, "run", str, where),
            read_optional(message, "attempt", int, where),
        )


@dataclasses.dataclass(frozen=True)
class EpisodeReceipt:
    """An episode that has ended, with every frame of it that is on disk.

    Attributes:
        status: `interrupted` where frames could not be written.
        frames: committed.
        dropped: that found the server's queue full.
        error: what went wrong, where it is `interrupted`.
    """

    episode: str
    run: str | None
    attempt: int | None
    status: Literal["sealed", "interrupted"]
    frames: int
    dropped: int
    error: str | None = None

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> EpisodeReceipt:
        """Reads the reply to `end_episode`; raises `ProtocolError`."""
        where = "end_episode"
        status = read(message, "status", str, where)
        if status not in ("sealed", "interrupted"):
            raise ProtocolError(f"{where}.status: expected sealed or interrupted, found {status!r}")
        return cls(
            read(message, "episode", str, where),
            read_optional(message, "run", str, where),
            read_optional(message, "attempt", int, where),
            status,
            read(message, "frames", int, where),
            read(message, "dropped", int, where),
            read_optional(message, "error", str, where),
        )


@dataclasses.dataclass(frozen=True)
class ServerStatus:
    """How a server is: frames `committed` to disk, `dropped` and `pending`; bytes of its queue; who uses it."""

    ready: bool
    run: str | None
    committed: int
    dropped: int
    pending: int
    queue_bytes: int
    queue_limit: int
    episodes_open: int
    clients: int
    requests_in_flight: int
    uptime_s: float

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> ServerStatus:
        """Reads the reply to `status`; raises `ProtocolError`."""
        where = "status"
        counts = {
            field.name: read(message, field.name, int, where)
            for field in dataclasses.fields(cls)
            if field.type == "int"
        }
        return cls(
            ready=read(message, "ready", bool, where),
            run=read_optional(message, "run", str, where),
            uptime_s=read(message, "uptime_s", float, where),
            **counts,
        )


def read_frame(frame: bytes | str) -> dict[str, Any]:
    """The map in one frame.

    Raises:
        PolicyError: a text frame: the server's error.
        ProtocolError: no msgpack map.
    """
    if isinstance(frame, str):
        raise read_error(frame)
    try:
        message = unpack(frame)
    except MessageError as error:
        raise ProtocolError(f"reply: {error}") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"reply: expected a map, found {type(message).__name__}")
    return message


def read_error(text: str) -> PolicyError:
    """The error in a text frame or in the body of a refusal; free text, as openpi servers send it, has no code."""
    try:
        error = json.loads(text)
    except ValueError:
        error = None
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        return PolicyError("", text.strip() or "an error without words")
    allowed = error.get("allowed")
    return PolicyError(
        error["code"],
        str(error.get("message") or error["code"]),
        error.get("field") if isinstance(error.get("field"), str) else None,
        allowed if isinstance(allowed, list) else (),
    )


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 of the bfloat16 numbers whose bits are given as uint16; exact: a bfloat16 is the upper half of a float32."""
    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)


def _ticket(latents: Mapping[str, Any]) -> LatentsTicket:
    where = "reply.latents"
    queue = read_optional(latents, "queue", dict, where) or {}
    tensors, dims = {}, {}
    for path, tensor in (read_optional(latents, "tensors", dict, where) or {}).items():
        at = f"{where}.tensors.{path}"
        if not isinstance(tensor, dict):
            raise ProtocolError(f"{at}: expected a map of data, logical_dtype and dims, found {type(tensor).__name__}")
        data, dtype = read(tensor, "data", np.ndarray, at), read(tensor, "logical_dtype", str, at)
        if (dtype, data.dtype) not in (("bfloat16", np.uint16), ("float32", np.float32)):
            raise ProtocolError(f"{at}: expected bfloat16 as uint16 or float32, found {dtype} as {data.dtype}")
        tensors[path] = widen_bfloat16(data) if dtype == "bfloat16" else data
        dims[path] = tuple(read(tensor, "dims", list, at))
    return LatentsTicket(
        run=read_optional(latents, "run", str, where),
        episode=read_optional(latents, "episode", str, where),
        attempt=read_optional(latents, "attempt", int, where),
        frame=read_optional(latents, "frame", int, where),
        bytes=read(latents, "bytes", int, where),
        queue_bytes=read_optional(queue, "bytes", int, where) or 0,
        queue_limit=read_optional(queue, "limit", int, where) or 0,
        tensors=tensors,
        dims=dims,
    )


def _numbers(value: Any) -> np.ndarray:
    try:
        return np.array(() if value is None else value, np.float64)
    except (TypeError, ValueError):
        raise ProtocolError(f"reply.state: expected numbers, found {type(value).__name__}") from None

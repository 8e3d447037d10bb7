"""What a server says of its policy, what a client expects of it, and the comparison of both.

Knows nothing of sockets or of what a policy computes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vlascope_client.errors import ProtocolError
from vlascope_client.fields import read, read_optional
from vlascope_client.protocol import VERSION


@dataclasses.dataclass(frozen=True)
class TokenSpan:
    """Consecutive tokens with a name: positions `start` up to, not including, `stop`."""

    name: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class CaptureOffer:
    """What a server can capture.

    Attributes:
        run: that frames go to; None where the server has no store.
        experts, components: that a capture spec may name.
        layers: how many there are, in the expert that has most.
        denoise_steps: how many there are; None of a policy without a flow.
        spans: expert -> its tokens, in order.
        default_spec: what `collect_latents=True` captures.
        frame_bytes: of one frame of it.
    """

    run: str | None
    experts: tuple[str, ...]
    components: tuple[str, ...]
    layers: int
    denoise_steps: int | None
    spans: Mapping[str, tuple[TokenSpan, ...]]
    default_spec: Mapping[str, Any]
    frame_bytes: int


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """A server's metadata; docs/protocol.md says what each field means.

    Attributes:
        cameras: image slot of the model -> key of that image in an observation.
        image_size: pixels a side that the model sees.
        state_dim, action_dim: numbers in a state and in an action.
        action_horizon: actions in one chunk.
        denoise_steps: from noise to actions; None of a policy without a flow.
        noise_shape: of an observation's `noise`; None of a policy that takes none.
        limits: of messages and clients, by name.
        raw: the metadata as they came, with fields that this version does not know.
    """

    protocol: int
    server: str
    checkpoint: str
    model: str
    fingerprint: str
    robot: str
    cameras: Mapping[str, str]
    image_size: int
    state_dim: int
    action_dim: int
    action_horizon: int
    gripper: str
    denoise_steps: int | None
    noise_shape: tuple[int, ...] | None
    default_prompt: str | None
    deterministic: bool
    trained_on: Mapping[str, Any]
    capture: CaptureOffer
    limits: Mapping[str, int]
    raw: Mapping[str, Any] = dataclasses.field(repr=False)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> PolicySpec:
        """Reads a vlascope server's first message; unknown fields are kept in `raw`.

        Raises:
            ProtocolError: a newer protocol than ours, or a field that is missing or of another type.
        """
        where = "metadata"
        if (protocol := read(metadata, "protocol", int, where)) > VERSION:
            raise ProtocolError(
                f"the server speaks protocol {protocol}, this client up to {VERSION}: upgrade vlascope-client"
            )
        simple = {name: read(metadata, name, kind, where) for name, kind in _SIMPLE.items()}
        noise = read_optional(metadata, "noise_shape", list, where)
        capture, at = read(metadata, "capture", dict, where), "metadata.capture"
        return cls(
            **simple,
            denoise_steps=read_optional(metadata, "denoise_steps", int, where),
            noise_shape=None if noise is None else tuple(noise),
            default_prompt=read_optional(metadata, "default_prompt", str, where),
            capture=CaptureOffer(
                run=read_optional(capture, "run", str, at),
                experts=tuple(read(capture, "experts", list, at)),
                components=tuple(read(capture, "components", list, at)),
                layers=read(capture, "layers", int, at),
                denoise_steps=read_optional(capture, "denoise_steps", int, at),
                spans={
                    expert: tuple(_span(span, f"{at}.spans.{expert}") for span in spans)
                    for expert, spans in read(capture, "spans", dict, at).items()
                },
                default_spec=read(capture, "default_spec", dict, at),
                frame_bytes=read(capture, "frame_bytes", int, at),
            ),
            raw=metadata,
        )


_SIMPLE: dict[str, type] = {
    "protocol": int, "server": str, "checkpoint": str, "model": str, "fingerprint": str, "robot": str, "cameras": dict,
    "image_size": int, "state_dim": int, "action_dim": int, "action_horizon": int, "gripper": str,
    "deterministic": bool, "trained_on": dict, "limits": dict,
}  # fmt: skip


def _span(value: Any, where: str) -> TokenSpan:
    if not isinstance(value, dict):
        raise ProtocolError(f"{where}: expected maps of name, start and stop, found {type(value).__name__}")
    return TokenSpan(read(value, "name", str, where), read(value, "start", int, where), read(value, "stop", int, where))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpectedSpec:
    """What a client was written for. Fields that are None are not compared, the others before any work starts.

    Attributes:
        cameras: image slot -> key in the observation, all of them.
        trained_on: entries that the server's `trained_on` must hold, for example `{"assets": "libero"}`.
        store: whether the server must have (or must not have) a store to capture into.
    """

    robot: str | None = None
    cameras: Mapping[str, str] | None = None
    image_size: int | None = None
    state_dim: int | None = None
    action_dim: int | None = None
    action_horizon: int | None = None
    gripper: str | None = None
    denoise_steps: int | None = None
    model: str | None = None
    checkpoint: str | None = None
    fingerprint: str | None = None
    deterministic: bool | None = None
    trained_on: Mapping[str, Any] | None = None
    store: bool | None = None

    def mismatches(self, spec: PolicySpec | None) -> list[tuple[str, object, object]]:
        """(field, expected, found) of what differs; everything does where the server declares no spec (None)."""
        found: list[tuple[str, object, object]] = []
        for field in dataclasses.fields(self):
            name, expected = field.name, getattr(self, field.name)
            if expected is None:
                continue
            if spec is None:
                found.append((name, expected, None))
            elif name == "store":
                if expected != (spec.capture.run is not None):
                    wanted = "a server with one: vlascope-server serve --store FOLDER" if expected else "none"
                    found.append((name, wanted, spec.capture.run or "none"))
            elif name == "trained_on":
                have = spec.trained_on
                found += [(f"{name}.{key}", v, have.get(key)) for key, v in expected.items() if have.get(key) != v]
            elif getattr(spec, name) != expected:
                found.append((name, expected, getattr(spec, name)))
        return found

"""Requests as maps, checked as far as a client can. Knows nothing of sockets or of replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np

from vlascope_client.protocol import OWN_FIELDS

Message = dict[str, Any]


@runtime_checkable
class HasMap(Protocol):
    """A value that knows its map, such as `vlascope_latents.CaptureSpec`."""

    def to_map(self) -> Mapping[str, Any]:
        """The map that travels."""
        ...


CaptureRequest = bool | None | Mapping[str, Any] | HasMap
EpisodeRequest = str | Mapping[str, Any]


class InferOptions(TypedDict, total=False):
    """What may come with an observation; docs/protocol.md documents each.

    Keys:
        collect_latents: True for the server's default spec, or a spec: a map, or an object with `to_map()`.
        episode: its id, or a map of `id`, `suite`, `task_id`, `task_name`, `task_instruction`, `episode_index`, `init_state`,
            `seed`, `metadata`. Its instruction is the `prompt` that is sent. Without it the frame goes to an episode of the
            connection's own.
        timestep: environment step of this observation.
        annotations: name -> number or small numeric array of this moment, stored with the frame.
        seed: of what the policy draws, 0 to 2^63-1; one that draws nothing acts the same with any.
        noise: the noise itself, float [noise_shape]; not together with `seed`.
        return_latents: send what was captured in the reply too.
    """

    collect_latents: CaptureRequest
    episode: EpisodeRequest | None
    timestep: int | None
    annotations: Mapping[str, Any] | None
    seed: int | None
    noise: np.ndarray | None
    return_latents: bool


def infer_message(observation: Mapping[str, Any], options: InferOptions) -> Message:
    """An observation with its options. Neither is changed; options that are None or False are left out.

    Raises:
        ValueError: the observation is a request, or holds an option that is given beside it too.
        TypeError: an option that there is not.
    """
    check_options(options)
    if "request" in observation:
        raise ValueError("observation: has a key `request`, which would make it no observation: rename it")
    message = dict(observation)
    for name, value in options.items():
        if value is None or value is False:
            continue
        if name in message:
            raise ValueError(f"{name}: is in the observation and given beside it: leave one out")
        message[name] = value
    if "collect_latents" in message:
        message["collect_latents"] = capture_map(message["collect_latents"])
    if "episode" in message:
        message["episode"] = episode_map(message["episode"])
    return message


def check_options(options: Mapping[str, Any]) -> None:
    """Raises TypeError for an option of `infer` that there is not."""
    if unknown := [name for name in options if name not in OWN_FIELDS]:
        raise TypeError(f"infer: unknown option {unknown[0]!r}; expected {', '.join(OWN_FIELDS)}")


def plan_message(collect_latents: CaptureRequest) -> Message:
    """Asks what a capture would weigh."""
    return {"request": "plan", "collect_latents": capture_map(collect_latents)}


def begin_message(episode: EpisodeRequest | None, collect_latents: CaptureRequest) -> Message:
    """Opens an episode, and its place in the store where `collect_latents` is given."""
    message: Message = {"request": "begin_episode", "episode": episode_map(episode or {})}
    if collect_latents is not None and collect_latents is not False:
        message["collect_latents"] = capture_map(collect_latents)
    return message


def end_message(
    episode: str, success: bool | None, total_steps: int | None, metadata: Mapping[str, Any] | None
) -> Message:
    """Seals an episode. numpy's booleans and numbers are as welcome as Python's.

    Raises:
        ValueError: `metadata` is no map.
    """
    message: Message = {
        "request": "end_episode",
        "episode": {"id": episode},
        "success": None if success is None else bool(success),
        "total_steps": None if total_steps is None else int(total_steps),
    }
    if metadata is not None:
        if not isinstance(metadata, Mapping):
            raise ValueError(f"metadata: expected a map, found {type(metadata).__name__}")
        message["metadata"] = _plain(metadata)
    return message


def _plain(value: Any) -> Any:
    """Maps, lists and numbers of numpy as Python's own; what is none of these, as it is."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def capture_map(spec: CaptureRequest) -> bool | dict[str, Any]:
    """A capture spec as it travels.

    Raises:
        ValueError: it is neither a boolean, a map, nor has `to_map()`.
    """
    if isinstance(spec, bool):
        return spec
    if isinstance(spec, HasMap):
        spec = spec.to_map()
    if not isinstance(spec, Mapping):
        raise ValueError(f"collect_latents: expected a boolean, a map or a CaptureSpec, found {type(spec).__name__}")
    return dict(spec)


def episode_map(episode: EpisodeRequest) -> dict[str, Any]:
    """An episode as it travels; text is its id."""
    if isinstance(episode, str):
        return {"id": episode}
    if not isinstance(episode, Mapping):
        raise ValueError(f"episode: expected its id or a map, found {type(episode).__name__}")
    return dict(episode)

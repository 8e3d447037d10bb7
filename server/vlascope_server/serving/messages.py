"""Reads what a client sent: which request it is, with every field of the protocol checked.

What the robot's own keys hold is checked by the robot.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

import numpy as np
from vlascope_base.text import why_unkept
from vlascope_client.codec import MessageError, unpack
from vlascope_client.protocol import OWN_FIELDS, PROMPT_CHARACTERS
from vlascope_client.wording import short
from vlascope_latents import CaptureSpec, CaptureSpecError
from vlascope_latents.store.errors import StoreError
from vlascope_latents.store.run_folder import check_episode_id, check_name
from vlascope_latents.store.sealing import RESERVED, check_metadata

from vlascope_server.serving.errors import RequestError

_EPISODE_TEXT = ("suite", "task_name", "task_instruction")
_EPISODE_NUMBERS = ("task_id", "episode_index", "init_state", "seed")
_TEXT_CHARACTERS = 4096
_METADATA_BYTES = 16 << 10
ANNOTATIONS = 64
ANNOTATION_NUMBERS = 4096
_SPEC_ARRAY_BYTES = 4096
_LARGEST = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class EpisodeInfo:
    """Which episode a message belongs to.

    Attributes:
        id: None for one that the server names.
        metadata: what is kept with the episode.
    """

    id: str | None
    metadata: Mapping[str, object]


@dataclasses.dataclass(frozen=True, eq=False)
class Infer:
    """An observation, and what is asked beside actions.

    Attributes:
        observation: the robot's keys.
        collect: true for the server's default spec, a spec, or None.
        episode: None for the connection's own.
        timestep: None where the client counts nothing.
        annotations: name -> float32 array.
        seed: of the noise.
        noise: float32, instead of a seed.
        return_latents: send what was captured.
    """

    observation: Mapping[str, Any]
    collect: CaptureSpec | bool
    episode: EpisodeInfo | None
    timestep: int | None
    annotations: Mapping[str, np.ndarray]
    seed: int | None
    noise: np.ndarray | None
    return_latents: bool


@dataclasses.dataclass(frozen=True)
class BeginEpisode:
    """Names an episode before its first observation."""

    episode: EpisodeInfo
    collect: CaptureSpec | bool


@dataclasses.dataclass(frozen=True)
class EndEpisode:
    """Seals an episode; `metadata` is what is kept with it beside what it began with."""

    episode: str
    success: bool | None
    total_steps: int | None
    metadata: Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Asks what a spec would capture."""

    collect: CaptureSpec | bool


@dataclasses.dataclass(frozen=True)
class Status:
    """Asks how the server is."""


Request = Infer | BeginEpisode | EndEpisode | Plan | Status
REQUESTS = ("begin_episode", "end_episode", "plan", "status")


def read_request(data: bytes | str) -> Request:
    """The request in one frame.

    Raises:
        RequestError: it is none, or a field is wrong.
    """
    if isinstance(data, str):
        raise RequestError("bad_message", "message: expected a binary frame with a msgpack map, found a text frame")
    try:
        message = unpack(data)
    except MessageError as error:
        raise RequestError("bad_message", str(error)) from None
    if not isinstance(message, dict):
        raise RequestError("bad_message", f"message: expected one msgpack map, found {type(message).__name__}")
    if "request" not in message:
        return _infer(message)
    name = _plain(message["request"])
    if not isinstance(name, str):
        raise RequestError("unknown_request", f"request: unknown: {short(name)}", "request", REQUESTS)
    if name == "begin_episode":
        _only(message, "request", "episode", "collect_latents")
        return BeginEpisode(_episode(message.get("episode", {})), _collect(message))
    if name == "end_episode":
        _only(message, "request", "episode", "success", "total_steps", "metadata")
        episode = _episode(message.get("episode"))
        if episode.id is None:
            _refuse("episode", "expected the id of the episode to end, found none")
        return EndEpisode(
            episode.id,
            _optional_bool(message, "success"),
            _optional_int(message, "total_steps"),
            _more(message.get("metadata"), RESERVED, "metadata"),
        )
    if name == "plan":
        _only(message, "request", "collect_latents")
        return Plan(_collect(message) or True)
    if name == "status":
        _only(message, "request")
        return Status()
    raise RequestError("unknown_request", f"request: unknown: {short(name)}", "request", REQUESTS)


def _infer(message: Mapping[str, Any]) -> Infer:
    prompt = _plain(message.get("prompt"))
    if isinstance(prompt, str) and len(prompt) > PROMPT_CHARACTERS:
        raise RequestError(
            "invalid_observation", f"prompt: {len(prompt)} characters; expected at most {PROMPT_CHARACTERS}", "prompt"
        )
    if isinstance(prompt, str) and (why := why_unkept(prompt)):
        raise RequestError("invalid_observation", f"prompt: expected text without NUL, {why}", "prompt")
    observation = {key: value for key, value in message.items() if key not in OWN_FIELDS}
    for key, value in observation.items():
        _check_robot_value(key, value)
    seed, noise = _optional_int(message, "seed"), message.get("noise")
    if noise is not None:
        noise = _numbers(noise) if isinstance(noise, np.ndarray | list) else None
        if noise is None or noise.dtype.kind == "b" or not np.isfinite(noise).all():
            _refuse("noise", "expected an array of finite numbers")
        noise = _float32("noise", noise)
        if seed is not None:
            _refuse("noise", "given together with seed: expected one of them")
    return Infer(
        observation=observation,
        collect=_collect(message),
        episode=_episode(message["episode"]) if message.get("episode") is not None else None,
        timestep=_optional_int(message, "timestep"),
        annotations=_annotations(message.get("annotations")),
        seed=seed,
        noise=noise,
        return_latents=_optional_bool(message, "return_latents") or False,
    )


def _check_robot_value(field: str, value: object) -> None:
    """Refuses what no robot sends and numpy would blow up: long text where an array belongs, and lists of other than numbers.

    A list of text becomes an array of its longest text in every place.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_robot_value(f"{field}/{_key(key)}", item)
        return
    value = _plain(value)
    if isinstance(value, str | bytes) and len(value) > PROMPT_CHARACTERS:
        found = f"text of {len(value)} characters; expected at most {PROMPT_CHARACTERS}"
    elif isinstance(value, list) and (other := _no_number(value)) is not None:
        found = f"a list that holds {other}; expected numbers"
    else:
        return
    raise RequestError("invalid_observation", f"{_key(field)}: {found}", _key(field))


def _no_number(values: list[object]) -> str | None:
    """The type of something in a list, or in the lists in it, that is no number; None where all are."""
    for value in values:
        if isinstance(value, list):
            if (found := _no_number(value)) is not None:
                return found
        elif isinstance(value, np.generic):
            if value.dtype.kind not in "biuf":
                return f"numpy {value.dtype}"
        elif not isinstance(value, int | float):
            return type(value).__name__
    return None


def _numbers(value: object) -> np.ndarray | None:
    """Numbers, or lists of them, as an array; None where they are none or lie in no regular grid. No text reaches numpy."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value) if value.dtype.kind in "biuf" else None
    if not isinstance(value, int | float | list) or (isinstance(value, list) and _no_number(value) is not None):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # a list of lists of unlike lengths
        return None
    return array if array.dtype.kind in "biuf" else None


def _collect(message: Mapping[str, object]) -> CaptureSpec | bool:
    value = message.get("collect_latents")
    value = _plain(value)
    if value is None or isinstance(value, bool):
        return bool(value)
    if not isinstance(value, Mapping):
        _refuse("collect_latents", f"expected a boolean or a capture spec as a map, found {type(value).__name__}")
    try:
        return CaptureSpec.from_map(_list(value))
    except CaptureSpecError as error:
        raise spec_error(error) from None


def spec_error(error: CaptureSpecError) -> RequestError:
    """A wrong capture spec as the client is told it."""
    field = "collect_latents" if error.field == "spec" else f"collect_latents.{error.field}"
    return RequestError("invalid_spec", error.message, field, error.allowed)


def _episode(value: object) -> EpisodeInfo:
    value = _plain(value)
    if isinstance(value, str):
        value = {"id": value}
    if not isinstance(value, Mapping):
        _refuse("episode", f"expected a map or an id, found {type(value).__name__}")
    known = ("id", *_EPISODE_TEXT, *_EPISODE_NUMBERS, "metadata")
    if "instruction" in value:
        _refuse(
            "episode.instruction",
            "is the prompt that is sent, and not said beside it; for the scene's own: task_instruction",
        )
    for key in value:
        if key not in known:
            _refuse(f"episode.{_key(key)}", "unknown field", known)
    name = _plain(value.get("id"))
    if name is not None and not _is_name(name, check_episode_id):
        allowed = (
            "up to 96 letters, digits, dots, underscores and dashes, or a campaign and a name of these as CAMPAIGN+NAME"
        )
        _refuse("episode.id", f"expected {allowed}, found {short(name)}")
    metadata: dict[str, object] = {}
    for key in _EPISODE_TEXT:
        text = _plain(value.get(key))
        if text is None:
            continue
        if not isinstance(text, str) or len(text) > _TEXT_CHARACTERS or why_unkept(text):
            _refuse(
                f"episode.{key}", f"expected up to {_TEXT_CHARACTERS} characters, none of them NUL, found {short(text)}"
            )
        metadata[key] = text
    for key in _EPISODE_NUMBERS:
        number = _optional_int(value, key, f"episode.{key}")
        if number is not None:
            metadata[key] = number
    more = _more(value.get("metadata"), (*known, "instruction", "campaign"), "episode.metadata")
    return EpisodeInfo(name, {**more, **metadata})


def _is_name(value: object, check: Callable[[Any], str] = lambda value: check_name("name", value)) -> bool:
    """Whether the store takes it as the name of a value, or what else `check` is for."""
    try:
        return isinstance(value, str) and check(value) == value
    except StoreError:
        return False


def _more(value: object, reserved: Collection[str], field: str) -> dict[str, object]:
    """Whatever else a client wants kept with its episode."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse(field, f"expected a map, found {type(value).__name__}")
    for key in value:
        if not isinstance(key, str):
            _refuse(f"{field}.{_key(key)}", f"expected names of text, found {type(key).__name__}")
        if key in reserved:
            _refuse(f"{field}.{_key(key)}", f"is taken; so are {', '.join(sorted({*reserved} - {key}))}")
    size = 0
    try:
        for part in json.JSONEncoder(allow_nan=False).iterencode(value):
            size += len(part)
            if size > _METADATA_BYTES:
                _refuse(field, f"more than {_METADATA_BYTES} bytes of JSON; expected at most that")
        check_metadata(value)
    except StoreError as error:
        _refuse(field, str(error).removeprefix("metadata: "))
    except (TypeError, ValueError):
        _refuse(field, "expected JSON: text, finite numbers, booleans, lists and maps")
    return value


def _annotations(value: object) -> dict[str, np.ndarray]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        _refuse("annotations", f"expected a map, found {type(value).__name__}")
    if len(value) > ANNOTATIONS:
        _refuse("annotations", f"{len(value)} names; expected at most {ANNOTATIONS}")
    arrays: dict[str, np.ndarray] = {}
    for name, item in value.items():
        if not _is_name(name):
            _refuse("annotations", f"name {short(name)}: expected letters, digits, dots, underscores and dashes")
        array = _numbers(item)
        if array is None:
            _refuse(f"annotations.{name}", f"expected a number or a regular array of numbers, found {short(item)}")
        arrays[name] = array
    count = sum(array.size for array in arrays.values())
    if count > ANNOTATION_NUMBERS:
        _refuse("annotations", f"{count} numbers; expected at most {ANNOTATION_NUMBERS} in all")
    return {name: _float32(f"annotations.{name}", array) for name, array in arrays.items()}


def _float32(field: str, array: np.ndarray) -> np.ndarray:
    """The same numbers as float32; refuses finite ones that it cannot hold."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    lost = np.isfinite(array) & ~np.isfinite(narrow)
    if lost.any():
        most = float(np.finfo(np.float32).max)
        _refuse(field, f"expected numbers from {-most:.7g} to {most:.7g}, as float32 holds, found {array[lost][0]:.7g}")
    return narrow


def _only(message: Mapping[str, object], *known: str) -> None:
    for key in message:
        if key not in known:
            _refuse(_key(key), f"no field of {message['request']}", known)


def _optional_int(message: Mapping[str, object], key: str, field: str | None = None) -> int | None:
    value = _plain(message.get(key))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        _refuse(field or key, f"expected a whole number from 0 to 2^63-1, found {short(value)}")
    return value


def _optional_bool(message: Mapping[str, object], key: str) -> bool | None:
    value = _plain(message.get(key))
    if value is not None and not isinstance(value, bool):
        _refuse(key, f"expected true or false, found {short(value)}")
    return value


def _plain(value: object) -> Any:
    """A numpy scalar, or an array that holds one value, as Python's own."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def _list(value: object) -> Any:
    """A capture spec, or a part of it, with arrays as lists."""
    if isinstance(value, list):
        return [_list(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _list(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.nbytes > _SPEC_ARRAY_BYTES:
        found = f"an array of {value.nbytes} bytes; expected at most {_SPEC_ARRAY_BYTES}"
        raise RequestError("invalid_spec", f"collect_latents: {found}", "collect_latents")
    return value.tolist() if isinstance(value, np.ndarray) else _plain(value)


def _key(value: object) -> str:
    return value[:80] if isinstance(value, str) else short(value)


def _refuse(field: str, message: str, allowed: tuple[str, ...] = ()) -> NoReturn:
    hint = f"; allowed: {', '.join(allowed)}" if allowed else ""
    raise RequestError("invalid_field", f"{field}: {message}{hint}", field, allowed)

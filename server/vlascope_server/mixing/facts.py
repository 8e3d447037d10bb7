"""What a file of validation data says of itself: which policies can read it, how it was normalised, where it comes from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from vlascope_server.json_file import JsonError, JsonMap
from vlascope_server.mixing.errors import MixingError
from vlascope_server.model import Pi0Config
from vlascope_server.robots import NormStats, NormStatsError
from vlascope_server.robots.contract import Normalisation
from vlascope_server.robots.norm_stats import QUANTITIES, norm_stats_as_json, parse_norm_stats

Part = Literal["selection", "validation"]
PARTS: tuple[Part, ...] = get_args(Part)
"""By their number in a file: frames that weights are chosen on, and frames of other episodes, on which the choice is judged."""


@dataclasses.dataclass(frozen=True, eq=False)
class ValidationFacts:
    """The attributes of a file of validation data.

    Attributes:
        pi05: made for a pi0.5.
        action_horizon: actions in one chunk.
        max_token_len: text tokens of a prompt as they lie in the file. Where no state is among the text, that is the room which
            the longest instruction takes, in eights, and may be less than a policy's: padding changes nothing that it computes.
        cameras: the image slots that the robot fills, in the model's order.
        image_size: pixels of a side.
        action_dim: the model's width of state and actions.
        state_in_prompt: the prompt holds the state as text.
        vocabulary: rows of the text embedding of the policy that the file was made for.
        tokenizer: SHA-256 of the SentencePiece file that made the prompts, in hexadecimal.
        robot: whose observations and actions these are.
        normalisation: of state and actions.
        delta_actions: actions are relative to the state, where the robot's mask says so.
        norm_stats: quantity (`state`, `actions`) -> the statistics that were used.
        norm_stats_count: state vectors behind the statistics; None where nobody has said.
        carrying: action dimensions that move in the episodes of the file, and so carry something; one for each of `action_dim`.
        dataset: name of the dataset's folder.
        episodes: part -> numbers of the episodes that its frames are of; no episode is in both.
        seed: of what was drawn.
        options: all options that the file was made with.
        provenance: versions, git revision, machine and time.
    """

    pi05: bool
    action_horizon: int
    max_token_len: int
    cameras: tuple[str, ...]
    image_size: int
    action_dim: int
    state_in_prompt: bool
    vocabulary: int
    tokenizer: str
    robot: str
    normalisation: Normalisation
    delta_actions: bool
    norm_stats: Mapping[str, NormStats]
    norm_stats_count: int | None
    carrying: tuple[bool, ...]
    dataset: str
    episodes: Mapping[Part, tuple[int, ...]]
    seed: int
    options: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def attributes(self) -> dict[str, Any]:
        """As a file keeps them: plain JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["norm_stats"] = norm_stats_as_json(self.norm_stats)
        return json.loads(json.dumps(fields, default=str))

    @classmethod
    def read(cls, path: Path, attributes: Mapping[str, Any]) -> ValidationFacts:
        """The facts that the attributes of a file hold.

        Raises:
            MixingError: one is missing or not of its type; names the file and the attribute.
        """
        found = JsonMap(path, dict(attributes))
        try:
            for field in dataclasses.fields(cls):
                if field.name not in found:
                    found.refuse(field.name, "an attribute of validation data")
            values: dict[str, Any] = {
                "cameras": tuple(found.texts("cameras") or ()),
                "carrying": tuple(_list_of(bool, found, "carrying")),
                "episodes": _episodes(found),
                "norm_stats": parse_norm_stats(found),
                "normalisation": found.text("normalisation", get_args(Normalisation)),
                "norm_stats_count": None
                if attributes["norm_stats_count"] is None
                else found.whole("norm_stats_count", 0),
                "seed": found.whole("seed", 0),
            }
            values |= {name: found.either(name, bool) for name in ("pi05", "state_in_prompt", "delta_actions")}
            values |= {name: found.either(name, str) for name in ("tokenizer", "robot", "dataset")}
            values |= {name: found.either(name, dict) for name in ("options", "provenance")}
            values |= {name: found.whole(name) for name in _WHOLE}
            facts = cls(**values)
            if set(facts.norm_stats) != set(QUANTITIES):
                found.refuse("norm_stats", f"statistics of {' and '.join(QUANTITIES)}")
            if len(facts.carrying) != facts.action_dim:
                found.refuse("carrying", f"one truth value for each of {facts.action_dim} action dimensions")
        except (JsonError, NormStatsError) as error:
            raise MixingError(f"{error}; make the file anew with vlascope-server dump-data") from None
        return facts

    def check_fits(self, config: Pi0Config, path: Path, where: str) -> None:
        """Raises `MixingError` where a policy of this architecture cannot read the file; names both values."""
        for field, has in (
            *(
                (name, getattr(config, name))
                for name in ("pi05", "action_horizon", "action_dim", "cameras", "vocabulary")
            ),
            ("image_size", config.vision.image_size),
        ):
            made = getattr(self, field)
            if made != has:
                made, has = (", ".join(x) if isinstance(x, tuple) else x for x in (made, has))
                raise MixingError(
                    f"{path}: {field}: it was made for {made}, and {where} has {has}; make it anew with vlascope-server"
                    f" dump-data --checkpoint {where}"
                )
        if self.max_token_len > config.max_token_len:
            raise MixingError(
                f"{path}: max_token_len: its prompts have {self.max_token_len} tokens, and {where} has room for"
                f" {config.max_token_len}; make it anew with vlascope-server dump-data --checkpoint {where}"
            )


_WHOLE = "action_horizon", "max_token_len", "image_size", "action_dim", "vocabulary"


def _list_of(kind: type, found: JsonMap, field: str) -> list[Any]:
    value = found.either(field, list)
    if not all(type(item) is kind for item in value):
        found.refuse(field, f"a list of {kind.__name__}")
    return value


def _episodes(found: JsonMap) -> dict[Part, tuple[int, ...]]:
    by_part = found.map("episodes")
    if by_part is None or set(by_part) != set(PARTS):
        found.refuse("episodes", f"a map of {' and '.join(PARTS)}")
    return {part: tuple(_list_of(int, by_part, part)) for part in PARTS}

"""The checkpoints that are mixed: opened, of one architecture, with one way to present observations and actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from vlascope_base.text import listed

from vlascope_server.checkpoints import CheckpointError, Record, Source
from vlascope_server.checkpoints.load import check_lengths
from vlascope_server.checkpoints.merged import MergedWeights
from vlascope_server.checkpoints.record import record_of
from vlascope_server.checkpoints.weights import Weights, count_not_finite, largest_first
from vlascope_server.mixing.errors import MixingError
from vlascope_server.model import Pi0Config

_SHARED = (
    "robot", "normalisation", "delta_actions", "state_in_prompt", "prompt_state_dim", "cameras", "action_horizon",
    "max_token_len",
)  # fmt: skip
"""What checkpoints must agree on: one network can't present observations in two ways."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Checkpoints of one architecture, of which no parameter has been read.

    Attributes:
        locations: as they were asked for.
        sources: opened.
        weights: their parameters; with adapters merged, effective ones.
        config: the architecture of the mix; activations in float32.
        record: what is known of all of them.
        had_adapters: whether a checkpoint has LoRA adapters.
    """

    locations: tuple[str, ...]
    sources: tuple[Source, ...]
    weights: tuple[Weights, ...]
    config: Pi0Config
    record: Record
    had_adapters: bool

    @property
    def names(self) -> list[str]:
        """Of all parameters, the largest first."""
        return list(largest_first(self.weights[0]))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Flat name -> shape."""
        return dict(self.weights[0].shapes)

    def dtype(self, name: str) -> str:
        """The dtype that a parameter has in the mix: that of the checkpoints, the wider one where they differ."""
        return "float32" if any(w.dtypes[name] == "float32" for w in self.weights) else self.weights[0].dtypes[name]

    def read(self, name: str) -> list[np.ndarray]:
        """One parameter of every checkpoint, in the dtype of the mix; one array alone where all hold the same values.

        Raises:
            CheckpointError: one of them is damaged.
            MixingError: one holds a value that is NaN or infinite, which would spoil the mix.
        """
        arrays: list[np.ndarray] = []
        for location, weights in zip(self.locations, self.weights, strict=True):
            array = weights.read(name, self.dtype(name))
            check_finite(location, name, array)
            arrays.append(array)
        return arrays[:1] if all(_same(arrays[0], other) for other in arrays[1:]) else arrays


def check_finite(where: str, name: str, array: np.ndarray) -> None:
    """Raises `MixingError` where an array holds a value that is NaN or infinite."""
    if bad := count_not_finite(array):
        raise MixingError(f"{where}: parameter {name}: {bad} of {array.size} values are NaN or infinite; leave it out")


def kind_of(inputs: Inputs, asked: Literal["orbax", "safetensors"] | None) -> Literal["orbax", "safetensors"]:
    """The format of the mix: as asked, else that of the first checkpoint.

    Raises:
        MixingError: adapters have no form in it.
    """
    kind = asked or ("orbax" if inputs.sources[0].kind == "orbax" else "safetensors")
    if kind != "orbax" and any("lora_" in name for name in inputs.shapes):
        raise MixingError(
            "to: LoRA adapters have no torch form; --lora delta adds them to the weights, or write --to orbax"
        )
    return kind


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether all bits are: a value that is not a number is the same as itself."""
    first, second = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return np.array_equal(first, second)


def gather(locations: Sequence[str], sources: Sequence[Source], *, delta: bool) -> Inputs:
    """Checks that checkpoints can be mixed with each other.

    Args:
        locations: as they were asked for.
        sources: opened, and asked what the options say of them.
        delta: LoRA adapters are added to the weights that they change.

    Raises:
        MixingError: they differ in architecture, in their parameters, or in how they present observations and actions.
        CheckpointError: one is no Pi0 or Pi0.5, or a length is not known of it.
    """
    for source in sources:
        check_lengths(source)
    configs = [source.config() for source in sources]
    weights: tuple[Weights, ...] = tuple(
        MergedWeights(source.weights, config) if delta else source.weights
        for source, config in zip(sources, configs, strict=True)
    )
    if delta:
        configs = [_without_adapters(config) for config in configs]
    for k, (config, other) in enumerate(zip(configs[1:], weights[1:], strict=True), 1):
        pair = f"{locations[0]} and {locations[k]}"
        if differ := list(_differences(dataclasses.asdict(configs[0]), dataclasses.asdict(config))):
            lora = all("_lora" in name for name, _, _ in differ)
            do = "; --lora delta mixes what the adapters make of the weights" if lora else ""
            said = ", ".join(f"{name} {one} and {two}" for name, one, two in differ)
            raise MixingError(f"{pair}: expected one architecture, found {said}{do}")
        missing = sorted(set(weights[0].shapes) ^ set(other.shapes))
        if missing:
            raise MixingError(f"{pair}: expected the same parameters; one alone has {listed(missing, 3)}")
    record = _common(locations, [source.record for source in sources])
    adapters = any("lora_" in name for source in sources for name in source.weights.shapes)
    return Inputs(tuple(locations), tuple(sources), weights, configs[0], record, adapters)


def _without_adapters(config: Pi0Config) -> Pi0Config:
    vlm, action = (dataclasses.replace(g, attn_lora=None, ffn_lora=None) for g in (config.vlm, config.action))
    return dataclasses.replace(config, vlm=vlm, action=action)


def _differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name, value in one.items():
        if isinstance(value, dict) and isinstance(other[name], dict):
            yield from _differences(value, other[name], f"{prefix}{name} ")
        elif value != other[name]:
            yield f"{prefix}{name}", value, other[name]


def _common(locations: Sequence[str], records: Sequence[Record]) -> Record:
    """What all checkpoints say; what one alone says is taken for all."""
    common = Record()
    for field in _SHARED:
        said = {location: getattr(r, field) for location, r in zip(locations, records, strict=True)}
        values = [value for value in said.values() if value is not None]
        if len(set(values)) > 1:
            found = ", ".join(f"{value} of {location}" for location, value in said.items())
            raise MixingError(f"{field}: expected one for all checkpoints, found {found}")
        common = dataclasses.replace(common, **{field: values[0]}) if values else common
    facts = [r.trained_on for r in records]
    return dataclasses.replace(common, trained_on=facts[0] if all(f == facts[0] for f in facts) else None)


def record_of_mix(inputs: Inputs, norm_stats_count: int | None) -> Record:
    """What is written of the mix: its architecture, and what all checkpoints share."""
    said = dataclasses.replace(inputs.record, norm_stats_count=norm_stats_count)
    try:
        return said.over(record_of(inputs.config))
    except CheckpointError as error:
        raise MixingError(str(error)) from None

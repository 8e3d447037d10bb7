"""What a comparison of two checkpoints found: for each parameter and layer, by group and by component."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from vlascope_server.checkpoints.difference.spectral import Spectrum, together
from vlascope_server.checkpoints.difference.sums import Sums, total
from vlascope_server.checkpoints.summary import COMPONENTS, is_layered, place

GROUPS: Mapping[str, tuple[str, ...]] = {
    "lora": ("lora",),
    "attention": ("attn", "attention"),
    "mlp": ("mlp",),
    "embedding": ("embed",),
    "projection": ("proj",),
    "other": ("",),
}
"""The reference's groups of parameters: a name belongs to the first that has one of its marks, whatever its case."""


def group_of(name: str) -> str:
    """The reference's group of a parameter."""
    return next(group for group, marks in GROUPS.items() if any(mark in name.lower() for mark in marks))


@dataclasses.dataclass(frozen=True)
class ParameterDifference:
    """One parameter that both checkpoints have.

    Attributes:
        name: the reference's.
        shape: of both.
        dtype_a, dtype_b: as stored; where adapters were merged, that of the sum.
        parts: sums of every layer, or the one of a parameter without layers.
        spectra: as `parts`; None of what has no spectrum, and where none was asked for.
    """

    name: str
    shape: tuple[int, ...]
    dtype_a: str
    dtype_b: str
    parts: tuple[Sums, ...]
    spectra: tuple[Spectrum | None, ...]

    @property
    def sums(self) -> Sums:
        """Over the whole parameter."""
        return total(self.parts)

    @property
    def spectrum(self) -> Spectrum | None:
        """Over all its layers."""
        return together(self.spectra)

    @property
    def layers(self) -> tuple[Sums, ...]:
        """One for each layer; none where the parameter has no layers."""
        return self.parts if is_layered(self.name) else ()

    @property
    def group(self) -> str:
        """The reference's group."""
        return group_of(self.name)

    @property
    def component(self) -> str:
        """The part of the model, one of `COMPONENTS`."""
        return place(self.name)[0]

    @property
    def kind(self) -> str:
        """What it is within its component."""
        return place(self.name)[1]


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two checkpoints.

    Attributes:
        location: as it was asked for.
        path: of the parameters on this machine.
        format: the format.
        step: of training, where that is known.
        parameters: how many it has.
        elements: numbers in them.
    """

    location: str
    path: str
    format: str
    step: int | None
    parameters: int
    elements: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two checkpoints beside each other.

    Attributes:
        a, b: the checkpoints; a difference is a - b.
        parameters: those that were compared, by name.
        only_a, only_b: name -> shape of those that one side alone has.
        unlike: name -> both shapes, of those that have not the same, and were left out.
        spectral: whether spectra were asked for.
        bytes_read: of both sides as stored.
        seconds: that comparing took.
    """

    a: Side
    b: Side
    parameters: tuple[ParameterDifference, ...]
    only_a: Mapping[str, tuple[int, ...]]
    only_b: Mapping[str, tuple[int, ...]]
    unlike: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    spectral: bool
    bytes_read: int
    seconds: float

    @property
    def sums(self) -> Sums:
        """Over all parameters, as one long vector."""
        return total(p.sums for p in self.parameters)

    def by_group(self) -> dict[str, list[ParameterDifference]]:
        """The parameters of each of the reference's groups that has any, in its order."""
        return _gathered(self.parameters, lambda p: p.group, GROUPS)

    def by_component(self) -> dict[str, list[ParameterDifference]]:
        """The parameters of each component that has any."""
        return _gathered(self.parameters, lambda p: p.component, COMPONENTS)

    def by_layer(self) -> dict[tuple[str, str], tuple[Sums, ...]]:
        """Component and kind -> sums of every layer over the parameters of that kind, for those that have layers."""
        found: dict[tuple[str, str], list[Sums]] = {}
        for p in self.parameters:
            if p.layers:
                known = found.setdefault((p.component, p.kind), [Sums()] * len(p.layers))
                found[p.component, p.kind] = [one + other for one, other in zip(known, p.layers, strict=True)]
        order = sorted(found, key=lambda row: (COMPONENTS.index(row[0]), row[1]))
        return {row: tuple(found[row]) for row in order}


def _gathered(
    parameters: Iterable[ParameterDifference], key: Callable[[ParameterDifference], str], order: Iterable[str]
) -> dict[str, list[ParameterDifference]]:
    parameters = list(parameters)
    found = {name: [p for p in parameters if key(p) == name] for name in order}
    return {name: members for name, members in found.items() if members}

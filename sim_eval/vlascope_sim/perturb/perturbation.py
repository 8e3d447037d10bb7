"""What is done to a scene, and what became of it, as values that go into an episode's metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from vlascope_sim.errors import SimulationError

Kind = Literal["none", "move", "shuffle", "both"]
KINDS: tuple[Kind, ...] = ("none", "move", "shuffle", "both")


class PerturbationError(SimulationError):
    """A perturbation that makes no sense, or for which a scene has no room; the message is one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perturbation:
    """How objects are to be displaced. Equal values displace the objects of equal scenes equally.

    Attributes:
        kind: `move` shifts each object on its own; `shuffle` lets objects change places; `both` shuffles, then moves.
        move_cm: how far an object is moved at most, in any direction, cm; 0 unless objects are moved.
        seed: of what is drawn, 0 or more.

    Raises:
        PerturbationError: a value outside these bounds.
    """

    kind: Kind = "none"
    move_cm: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PerturbationError(f"perturbation {self.kind!r}: expected one of {', '.join(KINDS)}")
        if self.moves and not 0 < self.move_cm <= 30:
            raise PerturbationError(f"move_cm {self.move_cm:g}: expected more than 0 and at most 30 cm")
        if not self.moves and self.move_cm:
            raise PerturbationError(f"move_cm {self.move_cm:g}: {self.kind!r} moves nothing; leave it out")
        if self.seed < 0:
            raise PerturbationError(f"perturbation seed {self.seed}: expected 0 or more")

    @property
    def moves(self) -> bool:
        """Whether objects are moved on their own."""
        return self.kind in ("move", "both")

    @property
    def shuffles(self) -> bool:
        """Whether objects change places."""
        return self.kind in ("shuffle", "both")

    def to_map(self) -> dict[str, object]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_map(cls, found: Mapping[str, Any]) -> Perturbation:
        """From JSON.

        Raises:
            PerturbationError: a field is unknown, or no perturbation has such a value.
        """
        try:
            return cls(**found)
        except TypeError as error:
            fields = ", ".join(field.name for field in dataclasses.fields(cls))
            raise PerturbationError(f"perturbation: expected {fields}; found {', '.join(found)}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerturbationRecord:
    """What a perturbation did.

    Attributes:
        perturbation: what was asked.
        before: x and y of every object that was free to go elsewhere, as it stood after settling, m.
        after: the same, where they settled.
        took_place_of: object → whose place it took (its own, where it kept it).
        layouts: how many were tried until one settled.
    """

    perturbation: Perturbation
    before: dict[str, tuple[float, float]]
    after: dict[str, tuple[float, float]]
    took_place_of: dict[str, str]
    layouts: int

    def to_map(self) -> dict[str, object]:
        """For JSON."""
        return dataclasses.asdict(self)

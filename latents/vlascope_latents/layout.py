"""The shape of what a model could offer: its experts, their sizes, and which token positions hold what.

Knows nothing of how the model computes; a server states its layout, a store keeps it, a reader slices by it.
"""

from __future__ import annotations

import dataclasses
import functools


@dataclasses.dataclass(frozen=True)
class Span:
    """Token positions `start` (inclusive) to `stop` (exclusive) of one expert's sequence that hold one kind of input.

    Names: `image/<camera>`, `text`, `state`, `action`.
    """

    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclasses.dataclass(frozen=True)
class ExpertLayout:
    """One transformer of the mixture: `depth` blocks over a residual stream of `width`, and its spans in token order."""

    depth: int
    width: int
    mlp_dim: int
    spans: tuple[Span, ...]

    @functools.cached_property
    def tokens(self) -> int:
        """Length of the expert's sequence."""
        return max(span.stop for span in self.spans)

    def select(self, selector: str) -> tuple[Span, ...]:
        """The spans that a selector of `CaptureSpec.spans` names; empty where this expert has none of them."""
        if selector == "all":
            return self.spans
        return tuple(s for s in self.spans if selector in (s.name, s.name.split("/")[0], s.name.split("/")[-1]))

    @property
    def selectors(self) -> tuple[str, ...]:
        """Every selector that names something here."""
        parts = [part for span in self.spans for part in (span.name.split("/")[0], span.name.split("/")[-1])]
        return ("all", *dict.fromkeys(parts))


@dataclasses.dataclass(frozen=True)
class LatentLayout:
    """Everything that a capture plan needs to know of a model.

    Attributes:
        vlm: the vision-language expert; runs once an inference, over the prefix (image and text tokens).
        action: the action expert; runs once a denoise step, over the suffix (state and action tokens).
        denoise_steps: steps from noise to actions.
        action_horizon: actions in one chunk.
        action_dim: the model's action width (padded, before the robot's own width is cut out).
    """

    vlm: ExpertLayout
    action: ExpertLayout
    denoise_steps: int
    action_horizon: int
    action_dim: int

    def expert(self, name: str) -> ExpertLayout:
        """The expert called `vlm` or `action`."""
        return {"vlm": self.vlm, "action": self.action}[name]

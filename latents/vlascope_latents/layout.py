"""The shape of what a model could offer: its experts, their loops and token spans, and the components that each of them has.

A server states its layout, a store keeps it, a reader slices by it. Nothing here computes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

Loop = Literal["once", "denoise", "decode"]
"""How often an expert runs in an inference: once, once a denoise step, or once a token that it decodes."""
STEP_AXES: Mapping[str, str] = {"denoise": "denoise_step", "decode": "decode_step"}
"""The axis that a loop gives to every component of its expert; `once` gives none."""
Reach = Literal["always", "stream", "output"]
"""How a component's values go on towards the actions.

`always`: they are read on the way to them wherever they stand: keys and values, the stream before block 0, the flow.
`stream`: a block writes them. The next block reads them; after the last block, only tokens of `ExpertLayout.outputs` are read.
`output`: they come after the last block: only tokens of `ExpertLayout.outputs` are read.
"""


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


def selects(selector: str, span: str) -> bool:
    """Whether a selector names a span: it is `all`, the span's name, or the part of it before or behind the slash."""
    return selector in ("all", span, span.split("/")[0], span.split("/")[-1])


@dataclasses.dataclass(frozen=True)
class Component:
    """One thing that can be captured of an expert.

    Attributes:
        name: for example `hidden_states`.
        axes: names and sizes of the axes of one sample at one step of the loop. Known names: `layer`, `token` (the expert's
            sequence) and `key` (the sequences of what the expert attends to) and `head`; others are kept whole.
        dtype: what it is stored in: `spec` is what the capture spec says, else `float32` or `int32`.
        reach: how it goes on towards the actions.
    """

    name: str
    axes: tuple[tuple[str, int], ...]
    dtype: Literal["spec", "float32", "int32"] = "spec"
    reach: Reach = "always"

    def size(self, axis: str) -> int | None:
        """Size of an axis; None where there is none of that name."""
        return dict(self.axes).get(axis)


@dataclasses.dataclass(frozen=True)
class ExpertLayout:
    """One transformer of the model: `depth` blocks over a residual stream of `width`, and its spans in token order.

    Attributes:
        name: of the expert, and of the group of its arrays in a store.
        depth, width: blocks, and width of the stream.
        spans: in token order, without gaps.
        components: what can be captured.
        loop: how often it runs in an inference.
        steps: of its loop; for `decode` the padded length of that axis. 1 where the loop is `once`.
        sees: experts whose keys and values stand before its own on the axis `key`.
        outputs: selectors of the tokens whose state after the last block is read, by the actions or by another expert.
    """

    name: str
    depth: int
    width: int
    spans: tuple[Span, ...]
    components: tuple[Component, ...]
    loop: Loop = "once"
    steps: int = 1
    sees: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @functools.cached_property
    def tokens(self) -> int:
        """Length of the expert's sequence."""
        return max(span.stop for span in self.spans)

    @property
    def step_axis(self) -> str | None:
        """Name of the axis along its loop; None where it runs once."""
        return STEP_AXES.get(self.loop)

    def component(self, name: str) -> Component | None:
        """The component called `name`; None where this expert has none."""
        return next((component for component in self.components if component.name == name), None)

    def select(self, selector: str) -> tuple[Span, ...]:
        """The spans that a selector names: `all`, a span, the part of its name before or after the slash; empty for none."""
        return tuple(span for span in self.spans if selects(selector, span.name))

    @property
    def selectors(self) -> tuple[str, ...]:
        """Every selector that names something here."""
        parts = [part for span in self.spans for part in (span.name.split("/")[0], span.name.split("/")[-1])]
        return ("all", *dict.fromkeys(parts))


@dataclasses.dataclass(frozen=True)
class ModelLayout:
    """Everything that a capture plan needs to know of a model: its experts, in the order in which they first run."""

    experts: tuple[ExpertLayout, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the experts."""
        return tuple(expert.name for expert in self.experts)

    def expert(self, name: str) -> ExpertLayout:
        """The expert called `name`.

        Raises:
            KeyError: there is none.
        """
        return {expert.name: expert for expert in self.experts}[name]

    def keys(self, expert: ExpertLayout) -> tuple[tuple[str, Span], ...]:
        """What stands along the axis `key` of an expert: (expert, span) with positions on that axis."""
        return tuple(_keys([*(self.expert(name) for name in expert.sees), expert]))

    def reaches_actions(self, expert: str, component: str, layers: tuple[int, ...], tokens: frozenset[int]) -> bool:
        """Whether a path leads from any of these values to the actions.

        Keys and values are projected from a block's input: what a block writes into its stream is read by the next block, and
        what the last block writes only where the expert's output is read.

        Args:
            expert: name of the expert.
            component: of it.
            layers: of the model; empty where the component has none.
            tokens: positions in the expert's sequence; empty where the component has none.
        """
        layout = self.expert(expert)
        found = layout.component(component)
        if not self._leads_on(layout):
            return False
        if found is None or found.reach == "always":
            return True
        if found.reach == "stream" and min(layers) < layout.depth - 1:
            return True
        read = {t for selector in layout.outputs for s in layout.select(selector) for t in range(s.start, s.stop)}
        return bool(tokens & read)

    def _leads_on(self, expert: ExpertLayout) -> bool:
        """Whether anything that an expert computes is read, by the actions or by an expert that leads on to them."""
        return bool(expert.outputs) or any(self._leads_on(e) for e in self.experts if expert.name in e.sees)

    def to_map(self) -> dict[str, Any]:
        """The layout as plain maps and lists: `ModelLayout.from_map(layout.to_map()) == layout`, through JSON too."""
        return dataclasses.asdict(self)

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> ModelLayout:
        """The inverse of `to_map`; KeyError, TypeError or ValueError where that is not what it is."""
        return cls(tuple(_expert_from_map(expert) for expert in value["experts"]))


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of a gated pre-norm transformer; without heads it offers nothing of its attention."""

    depth: int
    width: int
    mlp_dim: int
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0


def transformer(
    name: str,
    blocks: Blocks,
    spans: tuple[Span, ...],
    *,
    loop: Loop = "once",
    steps: int = 1,
    sees: tuple[ExpertLayout, ...] = (),
    outputs: tuple[str, ...] = (),
    extra: tuple[Component, ...] = (),
) -> ExpertLayout:
    """An expert with the components of a gated pre-norm transformer.

    Args:
        name: of the expert.
        blocks: sizes.
        spans: in token order.
        loop, steps: as in `ExpertLayout`.
        sees: experts whose keys stand before its own.
        outputs: as in `ExpertLayout`.
        extra: components that only this expert has.
    """
    layer, token = ("layer", blocks.depth), ("token", max(span.stop for span in spans))
    stream = ("feature", blocks.width)
    components = [
        Component("embedding", (token, stream)),
        Component("hidden_states", (layer, token, stream), reach="stream"),
        Component("post_attn_embedding", (layer, token, stream), reach="stream"),
        Component("attn_output", (layer, token, stream), reach="stream"),
        Component("mlp_output", (layer, token, stream), reach="stream"),
        Component("mlp_activation", (layer, token, ("mlp_feature", blocks.mlp_dim)), reach="stream"),
        Component("pre_attn_norm_scales", (layer, token), "float32"),
        Component("pre_mlp_norm_scales", (layer, token), "float32", reach="stream"),
        Component("final_hidden", (token, stream), reach="output"),
    ]
    if blocks.heads:
        kv = (layer, token, ("kv_head", blocks.kv_heads), ("head_feature", blocks.head_dim))
        keys = ("key", sum(expert.tokens for expert in sees) + token[1])
        attention = Component("attention", (layer, ("head", blocks.heads), token, keys), reach="stream")
        components += [Component("k", kv), Component("v", kv), attention]
    return ExpertLayout(
        name,
        blocks.depth,
        blocks.width,
        spans,
        (*components, *extra),
        loop,
        steps,
        tuple(e.name for e in sees),
        outputs,
    )


def flow_components(horizon: int, action_dim: int) -> tuple[Component, ...]:
    """State and velocity of a flow over action chunks; of the expert whose loop integrates it."""
    axes = (("horizon", horizon), ("action", action_dim))
    return Component("x_t", axes, "float32"), Component("v_t", axes, "float32")


@functools.cache
def usual_component(name: str) -> Component | None:
    """What `transformer` and `flow_components` give by a name, on an expert of one block, token and number; None for others.

    Its axes and dtype are what can be said of a component before a model is known.
    """
    extra = flow_components(1, 1)
    return transformer("any", Blocks(1, 1, 1, 1, 1, 1), (Span("any", 0, 1),), extra=extra).component(name)


def _keys(experts: list[ExpertLayout]) -> Iterator[tuple[str, Span]]:
    offset = 0
    for expert in experts:
        for span in expert.spans:
            yield expert.name, Span(span.name, offset + span.start, offset + span.stop)
        offset += expert.tokens


def _expert_from_map(value: Mapping[str, Any]) -> ExpertLayout:
    if value["loop"] not in get_args(Loop):
        raise ValueError(f"loop: expected one of {', '.join(get_args(Loop))}, found {value['loop']!r}")
    spans = tuple(Span(**span) for span in value["spans"])
    components = tuple(
        Component(c["name"], tuple((str(axis), int(size)) for axis, size in c["axes"]), c["dtype"], c["reach"])
        for c in value["components"]
    )
    return ExpertLayout(
        value["name"], value["depth"], value["width"], spans, components, value["loop"], value["steps"],
        tuple(value["sees"]), tuple(value["outputs"]),
    )  # fmt: skip

"""The shape of what a model could offer: its experts, their loops and token spans, and the components that each of them has.

A server states its layout, a store keeps it, a reader slices by it. Nothing here computes.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

from vlascope_base import VlascopeError
from vlascope_base.text import short

from vlascope_latents.names import why_no_name

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
DType = Literal["spec", "float32", "int32"]
"""What a component is stored in: `spec` is what the capture spec says."""
FRAME_NAMES = frozenset({"frame", "timestep", "actions", "state", "noise_seed", "annotations", "decode_steps"})
"""What a store keeps of every frame, beside the experts and whatever values a policy adds: none of these is called so."""
_SPAN = re.compile(r"[A-Za-z0-9._-]{1,96}(/[A-Za-z0-9._-]{1,96})?")
_TAKEN_AXES = frozenset({"frame", "span", "key_span", *STEP_AXES.values()})
"""Axes that loops, frames and reductions give to a tensor."""


class LayoutError(VlascopeError):
    """A layout that contradicts itself, or that no store could keep; the message is one line."""


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
    dtype: DType = "spec"
    reach: Reach = "always"

    def __post_init__(self):
        whose = f"component {short(self.name)}"
        _check_name(whose, self.name)
        _check_one_of(f"{whose}, dtype", self.dtype, get_args(DType))
        _check_one_of(f"{whose}, reach", self.reach, get_args(Reach))
        for axis, size in self.axes:
            _check_name(f"{whose}, axis", axis)
            _check_count(f"{whose}, axis {axis}", size)
            if axis in _TAKEN_AXES:
                raise LayoutError(
                    f"{whose}: an axis {axis!r} is given to every tensor that has one: choose another name"
                )
        _check_differ(f"{whose}, axes", (axis for axis, _ in self.axes))

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

    def __post_init__(self):
        whose = f"expert {short(self.name)}"
        _check_name(whose, self.name)
        if self.name in FRAME_NAMES or self.name == "prompt_mask":
            raise LayoutError(f"{whose}: a store keeps {self.name} of every frame: choose another name")
        _check_one_of(f"{whose}, loop", self.loop, get_args(Loop))
        for field in ("depth", "width", "steps"):
            _check_count(f"{whose}, {field}", getattr(self, field))
        if self.loop == "once" and self.steps != 1:
            raise LayoutError(f"{whose}, steps: expected 1 where the loop is once, found {self.steps}")
        self._check_spans(whose)
        _check_differ(f"{whose}, components", (component.name for component in self.components))
        for component in self.components:
            self._check_component(f"{whose}, component {component.name}", component)

    def _check_spans(self, whose: str) -> None:
        """Raises `LayoutError` where the spans are none, or leave gaps, or overlap, or an output is none of them."""
        if not self.spans:
            raise LayoutError(f"{whose}, spans: expected at least one, found none")
        at = 0
        for span in self.spans:
            if not isinstance(span.name, str) or not _SPAN.fullmatch(span.name):
                raise LayoutError(
                    f"{whose}, spans: {short(span.name)} is no name: expected a kind such as text, or image/<camera>"
                )
            if span.start != at or type(span.stop) is not int or span.stop <= at:
                raise LayoutError(
                    f"{whose}, span {span.name}: expected it to begin at {at}, where the one before ends, and not to be empty, "
                    f"found {short(span.start)} to {short(span.stop)}"
                )
            at = span.stop
        _check_differ(f"{whose}, spans", (span.name for span in self.spans))
        for selector in self.outputs:
            _check_one_of(f"{whose}, outputs", selector, self.selectors)

    def _check_component(self, whose: str, component: Component) -> None:
        """Raises `LayoutError` where a component does not fit its expert."""
        if not component.axes and self.step_axis is None:
            raise LayoutError(f"{whose}, axes: expected at least one, since the expert runs once")
        if (layers := component.size("layer")) is not None and layers > self.depth:
            raise LayoutError(f"{whose}, axis layer: expected at most {self.depth}, the expert's depth, found {layers}")
        if (tokens := component.size("token")) not in (None, self.tokens):
            raise LayoutError(f"{whose}, axis token: expected {self.tokens}, where the spans end, found {tokens}")
        if component.reach == "stream" and layers is None:
            raise LayoutError(f"{whose}, reach: expected an axis layer where it is stream")
        for axis in {axis for c in self.components for axis, _ in c.axes}:
            if component.name == axis or component.name.startswith(f"{axis}_"):
                raise LayoutError(f"{whose}: is, or begins with, the name of an axis, {axis!r}: choose another")

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

    def __post_init__(self):
        if not self.experts:
            raise LayoutError("experts: expected at least one, found none")
        _check_differ("experts", self.names)
        for place, expert in enumerate(self.experts):
            for name in expert.sees:
                _check_one_of(f"expert {expert.name}, sees", name, self.names[:place])
            keys = sum(self.expert(name).tokens for name in expert.sees) + expert.tokens
            for component in expert.components:
                if (size := component.size("key")) not in (None, keys):
                    raise LayoutError(
                        f"expert {expert.name}, component {component.name}, axis key: expected {keys}, the tokens of what "
                        f"it sees and its own, found {size}"
                    )

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


def _check_name(what: str, name: object) -> None:
    if (why := why_no_name(name)) is not None:
        raise LayoutError(f"{what}: {short(name)} {why}")


def _check_count(what: str, count: object) -> None:
    if type(count) is not int or count < 1:
        raise LayoutError(f"{what}: expected a whole number of at least 1, found {short(count)}")


def _check_one_of(what: str, value: object, allowed: Iterable[str]) -> None:
    if value not in (known := list(allowed)):
        raise LayoutError(f"{what}: expected one of {', '.join(known) or 'none'}, found {short(value)}")


def _check_differ(what: str, names: Iterable[str]) -> None:
    known = list(names)
    if twice := [name for name in known if known.count(name) > 1]:
        raise LayoutError(f"{what}: expected names that differ, found {twice[0]!r} twice")


def _keys(experts: list[ExpertLayout]) -> Iterator[tuple[str, Span]]:
    offset = 0
    for expert in experts:
        for span in expert.spans:
            yield expert.name, Span(span.name, offset + span.start, offset + span.stop)
        offset += expert.tokens


def _expert_from_map(value: Mapping[str, Any]) -> ExpertLayout:
    spans = tuple(Span(**span) for span in value["spans"])
    components = tuple(
        Component(c["name"], tuple((str(axis), int(size)) for axis, size in c["axes"]), c["dtype"], c["reach"])
        for c in value["components"]
    )
    return ExpertLayout(
        value["name"], value["depth"], value["width"], spans, components, value["loop"], value["steps"],
        tuple(value["sees"]), tuple(value["outputs"]),
    )  # fmt: skip

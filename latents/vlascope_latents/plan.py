"""A capture spec applied to a model's layout: which tensors one inference yields, their axes, and what they weigh.

This is the dry run: it needs no model, no accelerator and no disk. Whoever captures, stores or reads takes shapes from
here, so that they cannot disagree.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

from vlascope_base.text import counted, readable_bytes, short

from vlascope_latents.layout import Component, ExpertLayout, ModelLayout
from vlascope_latents.site import (
    MOST_SITES,
    REDUCED_UNLESS_TOLD,
    CaptureSpecError,
    Indices,
    Site,
    whole_number,
)
from vlascope_latents.spec import CaptureSpec, component_order
from vlascope_latents.tokens import TokenGroup, key_groups, prompt_of, token_groups, up_to

_ITEM_BYTES = {"bfloat16": 2, "float32": 4, "int32": 4}


@dataclasses.dataclass(frozen=True)
class TensorPlan:
    """One captured array of one inference.

    Attributes:
        path: `<expert>/<name or component>`; its key in a capture and its path in a store.
        dims: names of the axes: `denoise_step` or `decode_step`, then the component's, of which `span` takes the place of a
            `token` that is reduced, and `key_span` that of `key`.
        shape: sizes of those axes.
        dtype: `bfloat16`, `float32` or `int32`.
    """

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of this array for one inference."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


@dataclasses.dataclass(frozen=True)
class SitePlan:
    """One site resolved against a layout: every index explicit.

    Attributes:
        expert, component: where it is.
        steps: of the expert's loop, ascending; empty where it runs once.
        layers, heads: ascending; empty where the component has no such axis.
        groups: tokens; one group with all of them where `reduction` is `none`, else one for each span; empty without tokens.
        keys: of attention; as `groups`.
        prompt: where the prompt's tokens stand, for positions that count back from its end.
        reduction: `none`, `mean` or `last`.
        reaches_actions: whether a path leads from any of these values to the actions.
        tensor: what it yields.
    """

    expert: str
    component: str
    steps: tuple[int, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    groups: tuple[TokenGroup, ...]
    keys: tuple[TokenGroup, ...]
    prompt: tuple[int, int] | None
    reduction: str
    reaches_actions: bool
    tensor: TensorPlan

    @property
    def path(self) -> str:
        """Of its tensor."""
        return self.tensor.path


@dataclasses.dataclass(frozen=True)
class CapturePlan:
    """A spec resolved against a layout: every index explicit, every tensor named.

    Plans of specs that select the same are equal, in whichever form they were written.

    Attributes:
        spec: that was applied.
        sites: in the order of the layout's experts and their components.
    """

    spec: CaptureSpec = dataclasses.field(compare=False)
    sites: tuple[SitePlan, ...]

    @functools.cached_property
    def tensors(self) -> tuple[TensorPlan, ...]:
        """What one inference yields."""
        return tuple(site.tensor for site in self.sites)

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes that one inference (one frame, batch 1) produces."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def of(self, expert: str) -> tuple[SitePlan, ...]:
        """The sites of one expert."""
        return tuple(site for site in self.sites if site.expert == expert)

    def steps(self, expert: str) -> tuple[int, ...]:
        """Steps of an expert's loop at which anything is captured, ascending."""
        return tuple(sorted({step for site in self.of(expert) for step in site.steps}))

    def __str__(self) -> str:
        rows = [(t.path, " x ".join(f"{d} {n}" for d, n in zip(t.dims, t.shape, strict=True)), t.dtype, t.nbytes)
                for t in self.tensors]  # fmt: skip
        lines = [f"{path:<30} {shape:<60} {dtype:<9} {readable_bytes(n):>10}" for path, shape, dtype, n in rows]
        nowhere = [
            f"{site.path}: no path leads from it to the actions" for site in self.sites if not site.reaches_actions
        ]
        return "\n".join([*lines, f"{'one inference':<101} {readable_bytes(self.nbytes):>10}", *nowhere])


@dataclasses.dataclass(frozen=True)
class CampaignCost:
    """What a set of rollouts will store.

    Attributes:
        frames: captured inferences, at most.
        nbytes: bytes of their tensors, uncompressed, at most (an episode that succeeds early stores less).
    """

    frames: int
    nbytes: int

    def __str__(self) -> str:
        return f"at most {counted(self.frames, 'frame')}, {readable_bytes(self.nbytes)}"


def plan_capture(spec: CaptureSpec, layout: ModelLayout) -> CapturePlan:
    """Resolves `spec` against `layout`.

    Raises:
        CaptureSpecError: an expert, component, span, layer, step, head or position that the layout does not have, a field that
            the component has no axis for, or an expert of which nothing would be captured.
    """
    plans: list[SitePlan] = []
    sites = spec.sites_of(layout)
    if len(sites) > MOST_SITES:
        raise CaptureSpecError("components", f"gives {len(sites)} tensors of this model; expected at most {MOST_SITES}")
    for site, called in sites:
        try:
            plans.append(_resolved(site, layout))
        except CaptureSpecError as error:
            raise error.within(called.get(error.field, error.field)) from None
    order: Mapping[str, int] = {name: k for k, name in enumerate(layout.names)}
    plans.sort(key=lambda plan: (order[plan.expert], component_order(plan.component), plan.path))
    return CapturePlan(spec, tuple(plans))


def campaign_cost(plan: CapturePlan, *, episodes: int, steps: int, stride: int) -> CampaignCost:
    """What `episodes` episodes of up to `steps` environment steps store with a capture every `stride` environment steps.

    The first capture is at timestep 0, so that an episode has ceil(steps / stride) frames.

    Raises:
        ValueError: one of them is no whole number, or below 1.
    """
    counts: list[int] = []
    for name, value in (("episodes", episodes), ("steps", steps), ("stride", stride)):
        count = whole_number(value)
        if count is None or count < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, got {short(value)}")
        counts.append(count)
    episodes, steps, stride = counts
    frames = episodes * -(-steps // stride)
    return CampaignCost(frames, frames * plan.nbytes)


def _resolved(site: Site, layout: ModelLayout) -> SitePlan:
    if site.expert not in layout.names:
        raise CaptureSpecError("expert", f"this model has no expert {site.expert!r}", layout.names)
    expert = layout.expert(site.expert)
    component = expert.component(site.component)
    if component is None:
        known = [c.name for c in expert.components]
        raise CaptureSpecError("component", f"the {expert.name} expert has no component {site.component!r}", known)
    _check_name(site, expert)
    _check_axes(site, expert, component)
    reduction = site.reduction or REDUCED_UNLESS_TOLD.get(component.name, "none")
    reduced = reduction != "none"
    each = reduced and component.name in REDUCED_UNLESS_TOLD
    steps = _numbers("steps", site.steps, expert, expert.step_axis, expert.steps) if expert.step_axis else ()
    layers = _numbers("layers", site.layers, expert, "layer", component.size("layer"))
    heads = _numbers("heads", site.heads, expert, "head", component.size("head"))
    groups = token_groups(site, expert, reduced=reduced, each=each) if component.size("token") else ()
    keys = key_groups(site, expert, layout, reduced=reduced) if component.size("key") else ()
    tokens = frozenset[int]().union(*(group.positions for group in groups))
    prompt = prompt_of(expert) if any(group.ends for group in groups) else None
    if prompt:  # which of them is the last one, only the prompt says
        tokens |= frozenset(range(*prompt))
    sizes = {
        "layer": ("layer", len(layers)),
        "head": ("head", len(heads)),
        "token": ("span", len(groups)) if reduced else ("token", sum(map(len, groups))),
        "key": ("key_span", len(keys)) if reduced else ("key", sum(map(len, keys))),
    }
    axes = [(expert.step_axis, len(steps))] if expert.step_axis else []
    axes += [sizes.get(axis, (axis, size)) for axis, size in component.axes]
    dtype = site.dtype if component.dtype == "spec" else component.dtype
    dims, shape = zip(*axes, strict=True)
    return SitePlan(
        expert.name, component.name, steps, layers, heads, groups, keys, prompt, reduction if groups else "none",
        layout.reaches_actions(expert.name, component.name, layers, tokens), TensorPlan(site.path, dims, shape, dtype),
    )  # fmt: skip


def _check_name(site: Site, expert: ExpertLayout) -> None:
    """Raises `CaptureSpecError` where the site's name is taken in the group of the expert's arrays."""
    if site.name is None:
        return
    if expert.component(site.name) is not None:
        raise CaptureSpecError(
            "name", f"{site.name!r} is another component of the {expert.name} expert: choose another name"
        )
    for axis in {axis for component in expert.components for axis, _ in component.axes}:
        if site.name == axis or site.name.startswith(f"{axis}_"):
            raise CaptureSpecError(
                "name", f"{site.name!r} is, or begins with, the name of an axis, {axis!r}: choose another"
            )


def _check_axes(site: Site, expert: ExpertLayout, component: Component) -> None:
    """Raises `CaptureSpecError` where a site says what the component has no axis for."""
    whose = f"{expert.name}/{component.name}"
    for field, axis, value, unsaid in (
        ("layers", "layer", site.layers, "all"),
        ("heads", "head", site.heads, "all"),
        ("tokens", "token", site.tokens, None),
        ("exclude", "token", site.exclude, ()),
        ("reduction", "token", site.reduction, None),
        ("keys", "key", site.keys, None),
    ):
        if value != unsaid and component.size(axis) is None:
            axes = ", ".join(name for name, _ in component.axes)
            raise CaptureSpecError(field, f"{whose} has no axis {axis!r} (its axes: {axes}): leave it out")
    if site.steps != "all" and expert.step_axis is None:
        raise CaptureSpecError("steps", f"the {expert.name} expert runs once: leave it out")


def _numbers(field: str, indices: Indices, expert: ExpertLayout, axis: str, count: int | None) -> tuple[int, ...]:
    """The numbers along an axis that are selected; none where the component has no such axis."""
    if count is None:
        return ()
    if indices == "all":
        return tuple(range(count))
    if indices[-1] >= count:
        has = f"the {expert.name} expert has {counted(count, axis.replace('_', ' '))}"
        raise CaptureSpecError(field, f"{indices[-1]} is out of range: {has}", [up_to(count)])
    return indices

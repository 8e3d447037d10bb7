"""A capture spec applied to a model's layout: which tensors one inference yields, their axes, and what they weigh.

This is the dry run: it needs no model, no accelerator and no disk. Whoever captures, stores or reads takes shapes from
here, so that they cannot disagree.
"""

from __future__ import annotations

import dataclasses
import functools
import math

from vlascope_base.text import readable_bytes

from vlascope_latents.layout import ExpertLayout, LatentLayout
from vlascope_latents.spec import FLOW_COMPONENTS, TOKEN_COMPONENTS, CaptureSpec, CaptureSpecError, Indices

_ITEM_BYTES = {"bfloat16": 2, "float32": 4}


@dataclasses.dataclass(frozen=True)
class TokenGroup:
    """Tokens that the spec selected together.

    Attributes:
        name: the selector, for example `text`; `tokens` for the union that `reduction="none"` keeps.
        ranges: token positions as (start, stop) pairs, ascending, neither overlapping nor touching.
    """

    name: str
    ranges: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.ranges)


@dataclasses.dataclass(frozen=True)
class ExpertPlan:
    """What is captured of one expert.

    Attributes:
        components: of `TOKEN_COMPONENTS`.
        layers: ascending.
        groups: one group with every selected token where `reduction` is `none`, else one for each span.
    """

    name: str
    components: tuple[str, ...]
    layers: tuple[int, ...]
    groups: tuple[TokenGroup, ...]


@dataclasses.dataclass(frozen=True)
class TensorPlan:
    """One captured array of one inference.

    Attributes:
        path: `<expert>/<component>`; its key in a capture and its path in a store.
        dims: names of the axes, of `denoise_step`, `layer`, `token` or `span`, `feature`, `horizon`, `action`.
        shape: sizes of those axes.
        dtype: `bfloat16` or `float32`.
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
class CapturePlan:
    """A spec resolved against a layout: every index explicit, every tensor named.

    Attributes:
        experts: the experts with token components to capture.
        flow: which of `x_t` and `v_t` to capture.
        denoise_steps: ascending; they apply to the action expert and the flow.
        tensors: what one inference yields.
    """

    spec: CaptureSpec
    experts: tuple[ExpertPlan, ...]
    flow: tuple[str, ...]
    denoise_steps: tuple[int, ...]
    tensors: tuple[TensorPlan, ...]

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes that one inference (one frame, batch 1) produces."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def expert(self, name: str) -> ExpertPlan | None:
        """The plan of the expert called `vlm` or `action`, or None where none of its tokens is captured."""
        return next((plan for plan in self.experts if plan.name == name), None)

    def __str__(self) -> str:
        rows = [(t.path, " x ".join(f"{d} {n}" for d, n in zip(t.dims, t.shape, strict=True)), t.dtype, t.nbytes)
                for t in self.tensors]  # fmt: skip
        lines = [f"{path:<30} {shape:<60} {dtype:<9} {readable_bytes(n):>10}" for path, shape, dtype, n in rows]
        return "\n".join([*lines, f"{'one inference':<101} {readable_bytes(self.nbytes):>10}"])


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
        return f"at most {self.frames} frames, {readable_bytes(self.nbytes)}"


def plan_capture(spec: CaptureSpec, layout: LatentLayout) -> CapturePlan:
    """Resolves `spec` against `layout`.

    Raises:
        CaptureSpecError: a layer or denoise step out of range, a span that no selected expert has, or an expert of which
            nothing would be captured.
    """
    steps = _resolve("denoise_steps", spec.denoise_steps, layout.denoise_steps)
    token_components = tuple(c for c in spec.components if c in TOKEN_COMPONENTS)
    flow = tuple(c for c in spec.components if c in FLOW_COMPONENTS)
    _check_spans(spec, layout)

    experts, tensors = [], []
    for name in spec.experts:
        expert = layout.expert(name)
        groups = _groups(spec, expert)
        if not token_components:
            continue
        if groups:
            layers = _resolve("layers", spec.layers, expert.depth)
            plan = ExpertPlan(name, token_components, layers, groups)
            experts.append(plan)
            tensors += [_token_tensor(plan, c, spec, expert, len(steps)) for c in token_components]
        elif not (name == "action" and flow):
            raise CaptureSpecError(
                "spans", f"{list(spec.spans)} selects no token of the {name} expert: leave it out of `experts` or add a span",
                expert.selectors,
            )  # fmt: skip
    for component in flow:
        shape = (len(steps), layout.action_horizon, layout.action_dim)
        tensors.append(TensorPlan(f"action/{component}", ("denoise_step", "horizon", "action"), shape, "float32"))
    return CapturePlan(spec, tuple(experts), flow, steps, tuple(tensors))


def campaign_cost(plan: CapturePlan, *, episodes: int, steps: int, stride: int) -> CampaignCost:
    """What `episodes` episodes of up to `steps` environment steps store with a capture every `stride` environment steps.

    The first capture is at timestep 0, so that an episode has ceil(steps / stride) frames.
    """
    for name, value in (("episodes", episodes), ("steps", steps), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    frames = episodes * math.ceil(steps / stride)
    return CampaignCost(frames, frames * plan.nbytes)


def _check_spans(spec: CaptureSpec, layout: LatentLayout) -> None:
    known = dict.fromkeys(s for name in spec.experts for s in layout.expert(name).selectors)
    for selector in spec.spans:
        if not any(layout.expert(name).select(selector) for name in spec.experts):
            raise CaptureSpecError("spans", f"no selected expert has a span {selector!r}", known)


def _groups(spec: CaptureSpec, expert: ExpertLayout) -> tuple[TokenGroup, ...]:
    selected = {selector: expert.select(selector) for selector in spec.spans}
    if spec.reduction == "none":
        union = _ranges([span for spans in selected.values() for span in spans])
        return (TokenGroup("tokens", union),) if union else ()
    return tuple(TokenGroup(selector, _ranges(spans)) for selector, spans in selected.items() if spans)


def _ranges(spans) -> tuple[tuple[int, int], ...]:
    ranges: list[tuple[int, int]] = []
    for start, stop in sorted({(span.start, span.stop) for span in spans}):
        if ranges and start == ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
    return tuple(ranges)


def _token_tensor(plan: ExpertPlan, component: str, spec: CaptureSpec, expert: ExpertLayout, steps: int) -> TensorPlan:
    tokens = ("token", len(plan.groups[0])) if spec.reduction == "none" else ("span", len(plan.groups))
    axes = [("layer", len(plan.layers)), tokens]
    if plan.name == "action":
        axes.insert(0, ("denoise_step", steps))
    if component.endswith("norm_scales"):
        dtype = "float32"
    else:
        dtype = spec.dtype
        axes.append(("feature", expert.mlp_dim if component == "mlp_activation" else expert.width))
    dims, shape = zip(*axes, strict=True)
    return TensorPlan(f"{plan.name}/{component}", dims, shape, dtype)


def _resolve(field: str, indices: Indices, count: int) -> tuple[int, ...]:
    if indices == "all":
        return tuple(range(count))
    if indices[-1] >= count:
        what = {"layers": "layers", "denoise_steps": "denoise steps"}[field]
        raise CaptureSpecError(
            field, f"{indices[-1]} is out of range: this model has {count} {what}", [f"0-{count - 1}"]
        )
    return indices

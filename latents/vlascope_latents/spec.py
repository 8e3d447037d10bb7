"""What to capture from one inference, as a small frozen value that can travel, be compared and be hashed.

It names no model's sizes: `plan_capture` applies it to a model's layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from vlascope_base import VlascopeError
from vlascope_base.text import listed

EXPERTS = ("vlm", "action")
TOKEN_COMPONENTS = (
    "hidden_states",
    "post_attn_embedding",
    "mlp_activation",
    "pre_attn_norm_scales",
    "pre_mlp_norm_scales",
)
"""Components with one entry per layer and token; both experts have them."""
FLOW_COMPONENTS = ("x_t", "v_t")
"""State and velocity of the flow at each denoise step; they belong to the action expert and have neither layer nor token."""
COMPONENTS = TOKEN_COMPONENTS + FLOW_COMPONENTS
REDUCTIONS = ("none", "mean", "last")
DTYPES = ("bfloat16", "float32")

Indices = tuple[int, ...] | Literal["all"]


class CaptureSpecError(VlascopeError):
    """A capture spec that cannot be honoured.

    Attributes:
        field: the spec's field that is wrong, for example `layers`.
        message: what was wrong, in one line.
        allowed: the values that would have been accepted, where they can be listed.
    """

    def __init__(self, field: str, message: str, allowed: Iterable[object] = ()):
        self.field = field
        self.allowed = tuple(allowed)
        hint = f"; allowed: {', '.join(map(str, self.allowed))}" if self.allowed else ""
        self.message = f"capture spec, {field}: {message}{hint}"
        super().__init__(self.message)


@dataclasses.dataclass(frozen=True)
class CaptureSpec:
    """Which hidden states to keep of each inference.

    Two specs that select the same things are equal and have the same hash: lists become tuples, indices are sorted, and
    names take the order of the constants above.

    Attributes:
        experts: `vlm`, `action` or both.
        components: names from `COMPONENTS`.
        layers: transformer blocks, counted from 0, or `all`.
        denoise_steps: steps of the flow, 0 is the first (pure noise), or `all`. The vlm runs once, before them.
        spans: token spans: `all`, `image` (every camera), a camera such as `base_0_rgb`, `text`, `state`, `action`.
            Each expert contributes the tokens that it has.
        reduction: `none` keeps every selected token (axis `token`); `mean` and `last` reduce each span in `spans` to one
            vector over its valid tokens (axis `span`). A span without a valid token reduces to NaN.
        dtype: storage dtype of the components that have a feature axis. Norm scales, `x_t` and `v_t` are always float32:
            they are computed in float32 and weigh next to nothing.

    Raises:
        CaptureSpecError: a field holds an unknown name, a wrong type or nothing at all.
    """

    experts: tuple[str, ...] = EXPERTS
    components: tuple[str, ...] = ("hidden_states",)
    layers: Indices = "all"
    denoise_steps: Indices = "all"
    spans: tuple[str, ...] = ("all",)
    reduction: str = "none"
    dtype: str = "bfloat16"

    def __post_init__(self):
        canonical = {
            "experts": _names("experts", self.experts, EXPERTS),
            "components": _names("components", self.components, COMPONENTS),
            "layers": _indices("layers", self.layers),
            "denoise_steps": _indices("denoise_steps", self.denoise_steps),
            "spans": _names("spans", self.spans, None),
        }
        for field, value in canonical.items():
            object.__setattr__(self, field, value)  # frozen to everyone else
        _one_of("reduction", self.reduction, REDUCTIONS)
        _one_of("dtype", self.dtype, DTYPES)
        flow = [c for c in self.components if c in FLOW_COMPONENTS]
        if flow and "action" not in self.experts:
            raise CaptureSpecError(
                "components",
                f"{flow[0]!r} belongs to the action expert, which this spec does not select",
                TOKEN_COMPONENTS,
            )

    def __str__(self) -> str:
        """What it keeps, in words: `hidden_states of vlm, layers 0-5, mean over each of text, image, as bfloat16`."""
        said = [f"{listed(self.components)} of {' and '.join(self.experts)}"]
        axes = {"layer": self.layers, "denoise step": self.denoise_steps if "action" in self.experts else ()}
        for axis, numbers in axes.items():
            if numbers:
                several = "s" if len(numbers) > 1 else ""
                said.append(f"every {axis}" if numbers == "all" else f"{axis}{several} {listed(numbers)}")
        whole = self.spans == ("all",)
        if self.reduction == "none":
            said.append("every token" if "all" in self.spans else f"tokens of {listed(self.spans)}")
        elif self.reduction == "mean":
            said.append("mean over every token" if whole else f"mean over each of {listed(self.spans)}")
        else:
            said.append("the last token" if whole else f"last token of each of {listed(self.spans)}")
        return f"{', '.join(said)}, as {self.dtype}"

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> CaptureSpec:
        """Reads a spec from a plain map, as it travels on the wire or stands in a file; absent fields take the defaults."""
        if not isinstance(value, Mapping):
            raise CaptureSpecError("spec", f"expected a map of fields, got {type(value).__name__}")
        fields = [f.name for f in dataclasses.fields(cls)]
        unknown = [key for key in value if key not in fields]
        if unknown:
            raise CaptureSpecError(str(unknown[0]), "unknown field", fields)
        return cls(**value)

    def to_map(self) -> dict[str, Any]:
        """The spec as a plain map of strings and lists: `CaptureSpec.from_map(spec.to_map()) == spec`."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


def _names(field: str, value: object, known: tuple[str, ...] | None) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise CaptureSpecError(field, f"expected a list of names, got {value!r}", known or ())
    names = tuple(value)
    for name in names:
        if not isinstance(name, str) or (known is not None and name not in known):
            raise CaptureSpecError(field, f"unknown name {name!r}", known or ())
    if not names:
        raise CaptureSpecError(field, "selects nothing", known or ())
    return tuple(dict.fromkeys(names)) if known is None else tuple(name for name in known if name in names)


def _indices(field: str, value: object) -> Indices:
    if isinstance(value, str):
        if value == "all":
            return "all"
        raise CaptureSpecError(field, f"expected 'all' or a list of indices, got {value!r}")
    if not isinstance(value, Iterable):
        raise CaptureSpecError(field, f"expected 'all' or a list of indices, got {value!r}")
    indices = tuple(value)
    for index in indices:
        # bool is an int to Python, but [true] in a request is a mistake
        if isinstance(index, bool) or not hasattr(index, "__index__") or index < 0:
            raise CaptureSpecError(field, f"{index!r} is no index: indices are whole numbers from 0")
    if not indices:
        raise CaptureSpecError(field, "selects nothing")
    return tuple(sorted({int(index) for index in indices}))


def _one_of(field: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise CaptureSpecError(field, f"unknown value {value!r}", allowed)

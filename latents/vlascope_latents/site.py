"""One place inside a model, as a small frozen value: expert, component, layers, steps and tokens, and what is kept of it.

It names no model's sizes: `plan_capture` applies it to a model's layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from vlascope_base import VlascopeError
from vlascope_base.text import listed

REDUCTIONS = ("none", "mean", "last")
DTYPES = ("bfloat16", "float32")

AXES = (
    "frame", "timestep", "layer", "head", "denoise_step", "decode_step", "token", "token_span", "span", "key", "key_span",
    "feature", "horizon", "action",
)  # fmt: skip
"""Names that stand for axes and their labels where arrays are read."""
_LONGEST_NAME = 100

Indices = tuple[int, ...] | Literal["all"]
Token = str | int
"""A selector of a span, or a position: from 0 in the expert's sequence, or from -1 back from the end of the prompt."""


class CaptureSpecError(VlascopeError):
    """A capture spec that cannot be honoured.

    Attributes:
        field: the spec's field that is wrong, for example `layers` or `sites[1].layers`.
        reason: what was wrong, without the field.
        message: all of it, in one line.
        allowed: the values that would have been accepted, where they can be listed.
    """

    def __init__(self, field: str, reason: str, allowed: Iterable[object] = ()):
        self.field, self.reason = field, reason
        self.allowed = tuple(allowed)
        hint = f"; allowed: {', '.join(map(str, self.allowed))}" if self.allowed else ""
        self.message = f"capture spec, {field}: {reason}{hint}"
        super().__init__(self.message)

    def within(self, field: str) -> CaptureSpecError:
        """The same error of a field by another name."""
        return CaptureSpecError(field, self.reason, self.allowed)


@dataclasses.dataclass(frozen=True)
class Site:
    """One place inside a model, and what is kept of it.

    Two sites that select the same are equal and have the same hash: lists become tuples, indices are sorted.

    Attributes:
        expert: name of the expert.
        component: one of that expert's components.
        layers: transformer blocks, counted from 0, or `all`.
        steps: of the expert's loop, counted from 0, or `all`.
        tokens: what is united: selectors of spans (`all`, `image`, a camera such as `base_0_rgb`, `text`, `state`, `action`),
            positions from 0 in the expert's sequence, and negative positions, which count back from the end of the prompt's
            real tokens (-1 is the last one; a prompt that is shorter gives NaN there). All tokens unless told; of `attention`
            that is reduced, each span.
        exclude: what is taken away from them again, in the same words.
        reduction: `none` keeps every selected token (axis `token`); `mean` and `last` reduce each of `tokens` to one entry
            over its valid tokens (axis `span`); NaN where none is valid. Of `attention` that is the rows of queries, and what
            goes to the keys of a span is summed (axis `key_span`). `none` unless told, and `mean` of `attention`.
        dtype: storage dtype, `bfloat16` or `float32`, of what the layout does not fix.
        heads: of `attention`, counted from 0, or `all`.
        keys: of `attention`, selectors of the spans that are looked at, of any expert that is seen; `vlm:text` names the
            expert too. Each span on its own unless told; with `reduction="none"` their union, all unless told.
        name: what the tensor is called in place of the component, where a spec has several sites of one.

    Raises:
        CaptureSpecError: a field holds a wrong type or nothing at all.
    """

    expert: str
    component: str
    layers: Indices = "all"
    steps: Indices = "all"
    tokens: tuple[Token, ...] | None = None
    exclude: tuple[Token, ...] = ()
    reduction: str | None = None
    dtype: str = "bfloat16"
    heads: Indices = "all"
    keys: tuple[str, ...] | None = None
    name: str | None = None

    def __post_init__(self):
        for field in ("expert", "component"):
            _name(field, getattr(self, field))
        if self.name is not None:
            _name("name", self.name)
            if len(self.name) > _LONGEST_NAME:
                raise CaptureSpecError("name", f"has {len(self.name)} letters; expected at most {_LONGEST_NAME}")
            if any(self.name == axis or self.name.startswith(f"{axis}_") for axis in AXES):
                raise CaptureSpecError("name", f"{self.name!r} is, or begins with, the name of an axis: choose another")
        if self.reduction is not None:
            one_of("reduction", self.reduction, REDUCTIONS)
        one_of("dtype", self.dtype, DTYPES)
        canonical = {
            **{field: indices(field, getattr(self, field)) for field in ("layers", "steps", "heads")},
            "tokens": None if self.tokens is None else _tokens("tokens", self.tokens),
            "exclude": () if self.exclude in ((), []) else _tokens("exclude", self.exclude),
            "keys": None if self.keys is None else names("keys", self.keys),
        }
        for field, value in canonical.items():
            object.__setattr__(self, field, value)  # frozen to everyone else

    def __str__(self) -> str:
        """What it keeps, in words: `vlm/k, layers 0-5, tokens of text, as bfloat16`."""
        said = [self.path if self.name is None else f"{self.path} ({self.component})"]
        said += _numbered("layer", self.layers) + _numbered("step", self.steps) + _numbered("head", self.heads)
        if self.tokens is not None:
            how = {"mean": "mean over each of", "last": "last token of each of"}.get(self.reduction or "", "tokens of")
            said.append(f"{how} {listed([str(token) for token in self.tokens])}")
        elif self.reduction is not None:
            said.append(f"reduction {self.reduction}")
        if self.exclude:
            said.append(f"without {listed([str(token) for token in self.exclude])}")
        if self.keys is not None:
            said.append(f"keys of {listed(self.keys)}")
        return ", ".join([*said, f"as {self.dtype}"])

    @property
    def path(self) -> str:
        """`<expert>/<name or component>`: what the tensor is called."""
        return f"{self.expert}/{self.name or self.component}"

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> Site:
        """Reads a site from a plain map; absent fields take the defaults."""
        if not isinstance(value, Mapping):
            raise CaptureSpecError("site", f"expected a map of fields, got {type(value).__name__}")
        fields = [f.name for f in dataclasses.fields(cls)]
        if unknown := [key for key in value if key not in fields]:
            raise CaptureSpecError(str(unknown[0]), "unknown field", fields)
        for field in ("expert", "component"):
            if field not in value:
                raise CaptureSpecError(field, "a site has to name one")
        return cls(**value)

    def to_map(self) -> dict[str, Any]:
        """The site as a plain map of what is not the default: `Site.from_map(site.to_map()) == site`."""
        said = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        return {field: list(value) if isinstance(value, tuple) else value for field, value in said.items()}


def names(field: str, value: object) -> tuple[str, ...]:
    """A list of names, each once, in the order given."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise CaptureSpecError(field, f"expected a list of names, got {value!r}")
    found = tuple(value)
    for name in found:
        if not isinstance(name, str):
            raise CaptureSpecError(field, f"unknown name {name!r}: expected text")
    if not found:
        raise CaptureSpecError(field, "selects nothing")
    return tuple(dict.fromkeys(found))


def indices(field: str, value: object) -> Indices:
    """`all`, or indices from 0, ascending."""
    if isinstance(value, str):
        if value == "all":
            return "all"
        raise CaptureSpecError(field, f"expected 'all' or a list of indices, got {value!r}")
    if not isinstance(value, Iterable):
        raise CaptureSpecError(field, f"expected 'all' or a list of indices, got {value!r}")
    found = tuple(value)
    for index in found:
        # bool is an int to Python, but [true] in a request is a mistake
        if isinstance(index, bool) or not hasattr(index, "__index__") or index < 0:
            raise CaptureSpecError(field, f"{index!r} is no index: indices are whole numbers from 0")
    if not found:
        raise CaptureSpecError(field, "selects nothing")
    return tuple(sorted({int(index) for index in found}))


def one_of(field: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises `CaptureSpecError` where `value` is none of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise CaptureSpecError(field, f"unknown value {value!r}", allowed)


def _numbered(axis: str, numbers: Indices) -> list[str]:
    """`layers 0-5`; nothing where it is all of them."""
    return [] if numbers == "all" else [f"{axis}{'s' if len(numbers) > 1 else ''} {listed(numbers)}"]


def _name(field: str, value: object) -> None:
    if not isinstance(value, str) or not value.replace("_", "").replace("-", "").isalnum() or not value.isascii():
        raise CaptureSpecError(field, f"{value!r} is no name: expected letters, digits, underscores and dashes")


def _tokens(field: str, value: object) -> tuple[Token, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise CaptureSpecError(field, f"expected a list of spans and positions, got {value!r}")
    found = tuple(value)
    for token in found:
        if not isinstance(token, str) and (isinstance(token, bool) or not hasattr(token, "__index__")):
            raise CaptureSpecError(field, f"{token!r} is neither the name of a span nor a whole number")
    if not found:
        raise CaptureSpecError(field, "selects nothing")
    return tuple(dict.fromkeys(token if isinstance(token, str) else int(token) for token in found))

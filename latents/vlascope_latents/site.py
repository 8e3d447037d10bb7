"""One place inside a model, as a small frozen value: expert, component, layers, steps and tokens, and what is kept of it.

It names no model's sizes: `plan_capture` applies it to a model's layout.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import re
from collections.abc import Iterable, Mapping, Set
from typing import Any, Literal

from vlascope_base import VlascopeError
from vlascope_base.text import listed, short

from vlascope_latents.layout import usual_component

MOST_SITES = 256
"""Sites of a spec, and tensors of a plan. The answer to a request for a plan has some twenty values for each."""
MOST_ENTRIES = 4096
"""Entries of a spec's lists, all of them together: a client takes 16,384 values in a message, and a server's first one holds
its default spec."""

REDUCTIONS = ("none", "mean", "last")
DTYPES = ("bfloat16", "float32")

AXES = (
    "frame", "timestep", "layer", "head", "denoise_step", "decode_step", "token", "token_span", "span", "key", "key_span",
    "feature", "horizon", "action",
)  # fmt: skip
"""Names that stand for axes and their labels where arrays are read."""
REDUCED_UNLESS_TOLD: Mapping[str, str] = {"attention": "mean"}
"""Component -> its reduction where a site names none; each span is reduced on its own where a site names none either."""
_LONGEST_NAME = 100
_GREATEST = 2**31 - 1

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

    Two sites that say the same are equal and have the same hash: lists, ranges and arrays of one axis become tuples, indices
    are sorted, and a name that is the component's is none. Whether two that say something else select the same, their plans
    say.

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
        CaptureSpecError: a field holds a wrong type, nothing at all, or too much.
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
        name = None if self.name is None else _name("name", self.name)
        if name is not None and any(name == axis or name.startswith(f"{axis}_") for axis in AXES):
            raise CaptureSpecError("name", f"{name!r} is, or begins with, the name of an axis: choose another")
        canonical = {
            **{field: _name(field, getattr(self, field)) for field in ("expert", "component")},
            **{field: indices(field, getattr(self, field)) for field in ("layers", "steps", "heads")},
            "tokens": None if self.tokens is None else _tokens("tokens", self.tokens),
            "exclude": _tokens("exclude", self.exclude, may_be_empty=True),
            "keys": None if self.keys is None else names("keys", self.keys),
            "reduction": None if self.reduction is None else one_of("reduction", self.reduction, REDUCTIONS),
            "dtype": one_of("dtype", self.dtype, DTYPES),
            "name": None if name == self.component else name,
        }
        for field, value in canonical.items():
            object.__setattr__(self, field, value)  # frozen to everyone else

    def __str__(self) -> str:
        """What it keeps, in words: `vlm/k, layers 0-5, tokens of text, as bfloat16`."""
        said = [self.path if self.name is None else f"{self.path} ({self.component})"]
        said += numbers_in_words("layer", self.layers) + numbers_in_words("step", self.steps)
        said += numbers_in_words("head", self.heads)
        if self.tokens is not None or self.reduction is not None or self.component in REDUCED_UNLESS_TOLD:
            said.append(tokens_in_words(self.component, self.tokens, self.reduction))
        if self.exclude:
            said.append(f"without {listed([str(token) for token in self.exclude])}")
        if self.keys is not None:
            reduced = (self.reduction or REDUCED_UNLESS_TOLD.get(self.component, "none")) != "none"
            said.append(f"{'keys summed over each of' if reduced else 'keys of'} {listed(self.keys)}")
        return ", ".join([*said, f"as {dtype_in_words(self.component, self.dtype)}"])

    @property
    def entries(self) -> int:
        """Entries of all its lists together."""
        lists = (self.layers, self.steps, self.heads, self.tokens, self.exclude, self.keys)
        return sum(len(value) for value in lists if isinstance(value, tuple))

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
            raise CaptureSpecError(named(unknown[0]), "unknown field", fields)
        for field in ("expert", "component"):
            if field not in value:
                raise CaptureSpecError(field, "a site has to name one")
        return cls(**value)

    def to_map(self) -> dict[str, Any]:
        """The site as a plain map of what is not the default: `Site.from_map(site.to_map()) == site`."""
        said = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        return {field: list(value) if isinstance(value, tuple) else value for field, value in said.items()}


def entries(field: str, value: object, what: str, most: int = MOST_ENTRIES) -> tuple[Any, ...]:
    """The entries of what is as good as a list: a list, a tuple, a range, an array of one axis, an iterator.

    Args:
        field: whose value it is.
        value: that is to be a list. Text, bytes, maps and sets are none: a set has no order.
        what: is expected, for the message.
        most: entries that there may be.

    Raises:
        CaptureSpecError: it is no list, or longer.
    """
    no_list = isinstance(value, str | bytes | bytearray | memoryview | Mapping | Set) or not isinstance(value, Iterable)
    if no_list or getattr(value, "ndim", 1) != 1:
        raise CaptureSpecError(field, f"expected {what}, got {short(value)}")
    found: tuple[Any, ...] = tuple(itertools.islice(value, most + 1))  # pyright: ignore[reportArgumentType]
    if len(found) > most:
        raise CaptureSpecError(field, f"has more than {most} entries: expected at most that")
    # numbers and texts of an array as Python's own
    return tuple(entry.item() if getattr(entry, "ndim", None) == 0 else entry for entry in found)


def names(field: str, value: object) -> tuple[str, ...]:
    """A list of names, each once, in the order given."""
    found = entries(field, value, "a list of names")
    for name in found:
        if not isinstance(name, str):
            raise CaptureSpecError(field, f"unknown name {short(name)}: expected text")
        _check_length(field, name)
    if not found:
        raise CaptureSpecError(field, "selects nothing")
    return tuple(dict.fromkeys(map(str, found)))


def indices(field: str, value: object) -> Indices:
    """`all`, or indices from 0, ascending."""
    if isinstance(value, str) and value == "all":
        return "all"
    found = entries(field, value, "'all' or a list of indices")
    numbers = set()
    for index in found:
        number = whole_number(index)
        if number is None or number < 0:
            raise CaptureSpecError(field, f"{short(index)} is no index: indices are whole numbers from 0")
        if number > _GREATEST:
            raise CaptureSpecError(field, f"{short(index)} is beyond every model: expected at most {_GREATEST}")
        numbers.add(number)
    if not numbers:
        raise CaptureSpecError(field, "selects nothing")
    return tuple(sorted(numbers))


def one_of(field: str, value: object, allowed: tuple[str, ...]) -> str:
    """`value`, which is one of `allowed`; raises `CaptureSpecError` where it is none."""
    if not isinstance(value, str) or value not in allowed:
        raise CaptureSpecError(field, f"unknown value {short(value)}", allowed)
    return str(value)


def named(key: object) -> str:
    """The key of a map, as the field of an error."""
    return short(key)[1:-1] if isinstance(key, str) else short(key)


def whole_number(value: object) -> int | None:
    """A whole number of Python or numpy as Python's own; None for anything else, truth values and whole floats among them."""
    if isinstance(value, bool):  # an int to Python, but [true] in a request is a mistake
        return None
    try:
        return operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


def numbers_in_words(axis: str, numbers: Indices) -> list[str]:
    """`layers 0-5`; nothing where it is all of them."""
    return [] if numbers == "all" else [f"{axis}{'s' if len(numbers) > 1 else ''} {listed(numbers)}"]


def tokens_in_words(component: str, tokens: tuple[Token, ...] | None, reduction: str | None) -> str:
    """Which tokens of a component are kept, and how: `mean over each of text, image`. None is what a site says by nothing."""
    reduction = reduction or REDUCED_UNLESS_TOLD.get(component, "none")
    which = listed([str(token) for token in tokens or ()])
    if reduction == "none":
        return "every token" if tokens is None or "all" in tokens else f"tokens of {which}"
    if tokens is not None:
        return f"mean over each of {which}" if reduction == "mean" else f"last token of each of {which}"
    if component in REDUCED_UNLESS_TOLD:
        return "mean over each span" if reduction == "mean" else "last token of each span"
    return "mean over every token" if reduction == "mean" else "the last token"


def dtype_in_words(component: str, dtype: str) -> str:
    """What a component is stored in: what the spec says, unless it is one that is always float32."""
    usual = usual_component(component)
    if usual is None:
        return f"{dtype}, or what its model says"
    return dtype if usual.dtype == "spec" else usual.dtype


def _check_length(field: str, name: str) -> None:
    if len(name) > _LONGEST_NAME:
        raise CaptureSpecError(field, f"{short(name)} has {len(name)} letters; expected at most {_LONGEST_NAME}")


def _name(field: str, value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("[-_]*[A-Za-z0-9][A-Za-z0-9_-]*", value):
        raise CaptureSpecError(field, f"{short(value)} is no name: expected letters, digits, underscores and dashes")
    _check_length(field, value)
    return str(value)


def _tokens(field: str, value: object, *, may_be_empty: bool = False) -> tuple[Token, ...]:
    found: list[Token] = []
    for token in entries(field, value, "a list of spans and positions"):
        if isinstance(token, str):
            _check_length(field, token)
            found.append(str(token))
            continue
        number = whole_number(token)
        if number is None:
            raise CaptureSpecError(field, f"{short(token)} is neither the name of a span nor a whole number")
        if abs(number) > _GREATEST:
            raise CaptureSpecError(
                field, f"{short(token)} is beyond every model: expected at most {_GREATEST} either way"
            )
        found.append(number)
    if not found and not may_be_empty:
        raise CaptureSpecError(field, "selects nothing")
    return tuple(dict.fromkeys(found))

"""What to capture from one inference, as a small frozen value that can travel, be compared and be hashed.

It is a list of sites, or says in seven flat fields which sites of every expert are meant. It names no model's sizes:
`plan_capture` applies it to a model's layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vlascope_base.text import listed, printable, short

from vlascope_latents.layout import Component, ExpertLayout, ModelLayout, usual_component
from vlascope_latents.profiles import PROFILES
from vlascope_latents.site import (
    DTYPES,
    MOST_ENTRIES,
    MOST_SITES,
    REDUCTIONS,
    CaptureSpecError,
    Indices,
    Site,
    dtype_in_words,
    entries,
    indices,
    named,
    names,
    numbers_in_words,
    one_of,
    tokens_in_words,
)

TOKEN_COMPONENTS = (
    "hidden_states",
    "post_attn_embedding",
    "mlp_activation",
    "pre_attn_norm_scales",
    "pre_mlp_norm_scales",
)
"""What the reference's own capture has: one entry a layer and token."""
FLOW_COMPONENTS = ("x_t", "v_t")
"""State and velocity of the flow at each denoise step; they have neither layer nor token."""
COMPONENTS = (
    "embedding",
    *TOKEN_COMPONENTS[:2],
    "attn_output",
    "mlp_output",
    *TOKEN_COMPONENTS[2:],
    "attention",
    "k",
    "v",
    "final_hidden",
    *FLOW_COMPONENTS,
)
"""The components that Pi0 and Pi0.5 offer, in the order that specs and plans list them; a layout may have others."""

_SHOWN = 8
"""Sites, or experts, that a spec names where it says itself: the lines of a log stay readable."""
_FLAT = {"layers": "layers", "steps": "denoise_steps", "tokens": "spans"}
"""Fields of a site -> of the flat form."""


@dataclasses.dataclass(frozen=True)
class CaptureSpec:
    """Which values inside a model to keep of each inference: a list of sites, or the flat fields, never both.

    Two specs that say the same in the same form are equal and have the same hash: lists become tuples, indices are sorted, and
    components take the order of `COMPONENTS`. Whether a flat spec and a list of sites select the same, their plans say.

    A flat field is for every selected component that has the axis, and each of those needs to have every number that is named;
    a field for which no selected component has an axis is refused by `plan_capture`, and so is an expert or a span that is
    named and gives nothing.

    Attributes:
        experts: names of experts, or `all`.
        components: names of components, or `all`; each expert gives those that it has.
        layers: transformer blocks, counted from 0, or `all`.
        denoise_steps: steps of a flow, 0 is the first (pure noise), or `all`. What runs once runs before them.
        spans: token spans: `all`, `image` (every camera), a camera such as `base_0_rgb`, `text`, `state`, `action`.
            Each expert contributes the tokens that it has.
        reduction: `none` keeps every selected token (axis `token`); `mean` and `last` reduce each span in `spans` to one
            vector over its valid tokens (axis `span`). A span without a valid token reduces to NaN. `none` unless told, and
            `mean` of `attention`.
        dtype: storage dtype of the components that have a feature axis. Norm scales, `x_t` and `v_t` are always float32:
            they are computed in float32 and weigh next to nothing.
        sites: in place of all of these; each has its own layers, steps, tokens, reduction and dtype.

    Raises:
        CaptureSpecError: a field holds an unknown name, a wrong type, nothing at all or too much, or two sites would be called
            the same.
    """

    experts: tuple[str, ...] | str = "all"
    components: tuple[str, ...] | str = ("hidden_states",)
    layers: Indices = "all"
    denoise_steps: Indices = "all"
    spans: tuple[str, ...] = ("all",)
    reduction: str | None = None
    dtype: str = "bfloat16"
    sites: tuple[Site, ...] = ()

    def __post_init__(self):
        if not isinstance(self.sites, tuple) or self.sites:
            object.__setattr__(self, "sites", _sites(self.sites))
            given = [f.name for f in _flat_fields() if not _is_default(getattr(self, f.name), f.default)]
            if given:
                raise CaptureSpecError(given[0], "is given beside sites: each site says its own")
            for flat in _flat_fields():  # a list that is the default's is the default
                object.__setattr__(self, flat.name, flat.default)
            return
        canonical = {
            "experts": _names_or_all("experts", self.experts, _expert_order),
            "components": _names_or_all("components", self.components, component_order),
            "layers": indices("layers", self.layers),
            "denoise_steps": indices("denoise_steps", self.denoise_steps),
            "spans": names("spans", self.spans),
            "reduction": None if self.reduction is None else one_of("reduction", self.reduction, REDUCTIONS),
            "dtype": one_of("dtype", self.dtype, DTYPES),
        }
        _check_entries("spec", sum(len(value) for value in canonical.values() if isinstance(value, tuple)))
        for field, value in canonical.items():
            object.__setattr__(self, field, value)  # frozen to everyone else

    def __str__(self) -> str:
        """What it keeps, in words: `hidden_states of vlm, layers 0-5, mean over each of text, image, as bfloat16`."""
        if self.sites:
            more = [f"… ({len(self.sites)} sites)"] * (len(self.sites) > _SHOWN)
            return "; ".join([*map(str, self.sites[:_SHOWN]), *more])
        who = "every expert" if self.experts == "all" else " and ".join(map(printable, self.experts))
        if len(self.experts) > _SHOWN and self.experts != "all":
            who = f"{len(self.experts)} experts"
        if self.components == "all":
            how = [*self._axes_in_words(usual_component("hidden_states")), self._tokens_in_words("")]
            if self.reduction is None:
                how.append("attention as mean over each span")
            return ", ".join([f"everything of {who}", *how, f"as {dtype_in_words('', self.dtype)}"])
        # components of which the same is kept in one clause
        clauses: dict[str, list[str]] = {}
        for name in self.components:
            usual = usual_component(name)
            how = self._axes_in_words(usual)
            if usual.size("token") if usual else self.spans != ("all",) or self.reduction:
                how.append(self._tokens_in_words(name))
            clauses.setdefault(", ".join([*how, f"as {dtype_in_words(name, self.dtype)}"]), []).append(name)
        return "; ".join(f"{listed(what)} of {who}, {how}" for how, what in clauses.items())

    def _axes_in_words(self, component: Component | None) -> list[str]:
        """Which layers and denoise steps; that it is every one is said of what is known to have such an axis."""
        said = []
        if self.layers == "all":
            said += ["every layer"] if component and component.size("layer") else []
        elif component is None or component.size("layer"):
            said += numbers_in_words("layer", self.layers)
        if self.denoise_steps != "all":
            said += numbers_in_words("denoise step", self.denoise_steps)
        elif component and (self.experts == "all" or "action" in self.experts):
            said.append("every denoise step")
        return said

    def _tokens_in_words(self, component: str) -> str:
        return tokens_in_words(component, None if self.spans == ("all",) else self.spans, self.reduction)

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> CaptureSpec:
        """Reads a spec from a plain map, as it travels on the wire or stands in a file; absent fields take the defaults.

        The map has flat fields, `sites` alone, or `profile` (a name of `PROFILES`) and flat fields beside it.
        """
        if not isinstance(value, Mapping):
            raise CaptureSpecError("spec", f"expected a map of fields, got {type(value).__name__}")
        flat = [f.name for f in _flat_fields()]
        for key in value:
            if key not in (*flat, "sites", "profile"):
                raise CaptureSpecError(named(key), "unknown field", [*flat, "sites", "profile"])
        if "profile" in value:
            return cls.profile(value["profile"], **{key: given for key, given in value.items() if key != "profile"})
        # what a dataclass says of itself has every field: those that say nothing are as good as absent
        given = {field: value[field] for field in flat if field in value}
        sites = value.get("sites", ())
        if "sites" not in value or (given and isinstance(sites, list | tuple) and not sites):
            return cls(**given)
        found = []
        for number, site in enumerate(entries("sites", sites, "a list of maps", MOST_SITES)):
            try:
                found.append(Site.from_map(site))
            except CaptureSpecError as error:
                field = "" if error.field == "site" else f".{error.field}"
                raise error.within(f"sites[{number}]{field}") from None
        return cls(**given, sites=found)  # pyright: ignore[reportArgumentType]

    @classmethod
    def profile(cls, name: str, **fields: Any) -> CaptureSpec:
        """The spec of a profile, with flat fields that are given in place of its own.

        Raises:
            CaptureSpecError: there is no such profile, it needs a field that is not given, or says itself what is given.
        """
        one_of("profile", name, tuple(PROFILES))
        profile = PROFILES[name]
        flat = [f.name for f in _flat_fields()]
        for field in fields:
            if field not in (*flat, "sites"):
                raise CaptureSpecError(named(field), "unknown field", flat)
        for field in ("components", "sites"):
            if field in fields:
                raise CaptureSpecError(field, f"is what the profile {name!r} stands for: leave out either")
        for field in profile.needs:
            if field not in fields:
                raise CaptureSpecError(field, f"the profile {name!r} needs them: name some, or 'all'")
        return cls(**{**profile.fields, **fields})

    def to_map(self) -> dict[str, Any]:
        """The spec as a plain map of strings, numbers and lists: `CaptureSpec.from_map(spec.to_map()) == spec`."""
        if self.sites:
            return {"sites": [site.to_map() for site in self.sites]}
        flat = {f.name: getattr(self, f.name) for f in _flat_fields()}
        return {field: list(value) if isinstance(value, tuple) else value for field, value in flat.items()}

    def sites_of(self, layout: ModelLayout) -> list[tuple[Site, Mapping[str, str]]]:
        """Every site that is meant on a layout, and how the spec's own fields are called by those of the site.

        Raises:
            CaptureSpecError: an expert, component or span that nobody has, a field that no selected component has an axis for,
                or an expert of which nothing would be captured.
        """
        if self.sites:
            fields = [f.name for f in dataclasses.fields(Site)]
            return [(site, {f: f"sites[{k}].{f}" for f in fields}) for k, site in enumerate(self.sites)]
        experts = [_expert(name, layout) for name in (layout.names if self.experts == "all" else self.experts)]
        offered = sorted({c.name for expert in experts for c in expert.components}, key=component_order)
        for name in self.components if self.components != "all" else ():
            if name not in offered:
                raise CaptureSpecError("components", f"no selected expert has a component {short(name)}", offered)
        chosen = {expert: [c for c in expert.components if self._selects(c)] for expert in experts}
        self._check_fields(chosen)
        if self.experts == "all":
            # nobody named an expert that has none of the spans; what is left has to have a use for each field
            chosen = {e: [c for c in own if not c.size("token") or self._has_span(e)] for e, own in chosen.items()}
            self._check_fields(chosen)
        found: list[tuple[Site, Mapping[str, str]]] = []
        for expert, components in chosen.items():
            if not components and self.experts != "all":
                reason = f"the {expert.name} expert has none of {listed(self.components)}: leave it out"
                raise CaptureSpecError("experts", reason, [e.name for e in experts if chosen[e]])
            spans = tuple(selector for selector in self.spans if expert.select(selector))
            if not spans and any(component.size("token") for component in components):
                empty = f"{short(list(self.spans))} selects no token of the {expert.name} expert"
                raise CaptureSpecError("spans", f"{empty}: leave it out of `experts` or add a span", expert.selectors)
            found += [(self._site(expert, component, spans), _FLAT) for component in components]
        return found

    def _has_span(self, expert: ExpertLayout) -> bool:
        return any(expert.select(selector) for selector in self.spans)

    def _selects(self, component: Component) -> bool:
        return self.components == "all" or component.name in self.components

    def _check_fields(self, chosen: Mapping[ExpertLayout, list[Component]]) -> None:
        """Raises `CaptureSpecError` for a field, or a span, that none of the chosen components has a use for."""
        what = "any component" if self.components == "all" else listed(self.components)
        for field, axis, given in (
            ("layers", "layer", self.layers != "all"),
            ("spans", "token", self.spans != ("all",)),
            ("reduction", "token", self.reduction is not None),
        ):
            if given and not any(component.size(axis) for components in chosen.values() for component in components):
                raise CaptureSpecError(field, f"there is no axis {axis!r} in {what}: leave it out")
        if self.denoise_steps != "all" and not any(
            e.loop == "denoise" for e, components in chosen.items() if components
        ):
            raise CaptureSpecError("denoise_steps", "no selected expert has denoise steps: leave it out")
        readers = [e for e, components in chosen.items() if any(component.size("token") for component in components)]
        for selector in self.spans if readers else ():
            if not any(expert.select(selector) for expert in readers):
                known = dict.fromkeys(s for expert in readers for s in expert.selectors)
                raise CaptureSpecError("spans", f"no selected expert has a span {short(selector)}", known)

    def _site(self, expert: ExpertLayout, component: Component, spans: tuple[str, ...]) -> Site:
        fields: dict[str, Any] = {"dtype": self.dtype}
        if component.size("layer"):
            fields["layers"] = self.layers
        if component.size("token"):
            fields |= {"tokens": None if self.spans == ("all",) else spans, "reduction": self.reduction}
        if expert.loop == "denoise":
            fields["steps"] = self.denoise_steps
        return Site(expert.name, component.name, **fields)


def _flat_fields() -> list[dataclasses.Field]:
    return [f for f in dataclasses.fields(CaptureSpec) if f.name != "sites"]


def _is_default(value: object, default: object) -> bool:
    if isinstance(value, list | tuple):  # compared only where they hold text: an array has no one truth value
        return all(isinstance(entry, str) for entry in value) and tuple(value) == default
    return isinstance(value, type(default)) and value == default


def _check_entries(field: str, count: int) -> None:
    if count > MOST_ENTRIES:
        raise CaptureSpecError(field, f"has {count} entries in its lists: expected at most {MOST_ENTRIES}")


def component_order(name: str) -> tuple[int, str]:
    """Sorts components: known ones as `COMPONENTS` has them, then others by name."""
    return (COMPONENTS.index(name) if name in COMPONENTS else len(COMPONENTS), name)


def _names_or_all(field: str, value: object, order: Callable[[str], Any]) -> tuple[str, ...] | str:
    return "all" if isinstance(value, str) and value == "all" else tuple(sorted(names(field, value), key=order))


def _expert_order(name: str) -> tuple[bool, str]:
    """Sorts experts where no layout says how: the vlm runs first."""
    return (name != "vlm", name)


def _expert(name: str, layout: ModelLayout) -> ExpertLayout:
    if name not in layout.names:
        raise CaptureSpecError("experts", f"this model has no expert {short(name)}", layout.names)
    return layout.expert(name)


def _sites(sites: object) -> tuple[Site, ...]:
    found = entries("sites", sites, "a list of sites", MOST_SITES)
    for site in found:
        if not isinstance(site, Site):
            raise CaptureSpecError("sites", f"expected sites, got {type(site).__name__}")
    if not found:
        raise CaptureSpecError("sites", "selects nothing")
    _check_entries("sites", sum(site.entries for site in found))
    paths: dict[str, int] = {}
    for number, site in enumerate(found):
        if site.path in paths:
            same = f"sites[{paths[site.path]}] gives the tensor {site.path} too"
            raise CaptureSpecError(f"sites[{number}].name", f"{same}: give one of them another name")
        paths[site.path] = number
    return found

"""What to capture from one inference, as a small frozen value that can travel, be compared and be hashed.

It is a list of sites, or says in seven flat fields which sites of every expert are meant. It names no model's sizes:
`plan_capture` applies it to a model's layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vlascope_base.text import listed

from vlascope_latents.layout import ExpertLayout, ModelLayout
from vlascope_latents.profiles import PROFILES
from vlascope_latents.site import DTYPES, REDUCTIONS, CaptureSpecError, Indices, Site, indices, names, one_of

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

_FLAT = {"layers": "layers", "steps": "denoise_steps", "tokens": "spans"}
"""Fields of a site -> of the flat form."""


@dataclasses.dataclass(frozen=True)
class CaptureSpec:
    """Which values inside a model to keep of each inference: a list of sites, or the flat fields, never both.

    Two specs that say the same in the same form are equal and have the same hash: lists become tuples, indices are sorted, and
    components take the order of `COMPONENTS`. Whether a flat spec and a list of sites select the same, their plans say.

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
        CaptureSpecError: a field holds an unknown name, a wrong type or nothing at all, or two sites would be called the same.
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
        if self.sites != () or not isinstance(self.sites, tuple):
            object.__setattr__(self, "sites", _sites(self.sites))
            flat = [f.name for f in dataclasses.fields(self) if f.name != "sites"]
            given = [f.name for f in dataclasses.fields(self) if f.name in flat and getattr(self, f.name) != f.default]
            if given:
                raise CaptureSpecError(given[0], "is given beside sites: each site says its own")
            return
        canonical = {
            "experts": "all" if self.experts == "all" else names("experts", self.experts),
            "components": _components(self.components),
            "layers": indices("layers", self.layers),
            "denoise_steps": indices("denoise_steps", self.denoise_steps),
            "spans": names("spans", self.spans),
            "sites": (),
        }
        if canonical["experts"] != "all":
            canonical["experts"] = tuple(sorted(canonical["experts"], key=_expert_order))
        for field, value in canonical.items():
            object.__setattr__(self, field, value)  # frozen to everyone else
        if self.reduction is not None:
            one_of("reduction", self.reduction, REDUCTIONS)
        one_of("dtype", self.dtype, DTYPES)

    def __str__(self) -> str:
        """What it keeps, in words: `hidden_states of vlm, layers 0-5, mean over each of text, image, as bfloat16`."""
        if self.sites:
            return "; ".join(map(str, self.sites))
        who = "every expert" if self.experts == "all" else " and ".join(self.experts)
        what = "everything" if self.components == "all" else listed(self.components)
        said = [f"{what} of {who}"]
        loops = self.experts == "all" or "action" in self.experts
        axes = {"layer": self.layers, "denoise step": self.denoise_steps if loops else ()}
        for axis, numbers in axes.items():
            if numbers:
                several = "s" if len(numbers) > 1 else ""
                said.append(f"every {axis}" if numbers == "all" else f"{axis}{several} {listed(numbers)}")
        whole = self.spans == ("all",)
        if self.reduction in (None, "none"):
            said.append("every token" if "all" in self.spans else f"tokens of {listed(self.spans)}")
        elif self.reduction == "mean":
            said.append("mean over every token" if whole else f"mean over each of {listed(self.spans)}")
        else:
            said.append("the last token" if whole else f"last token of each of {listed(self.spans)}")
        return f"{', '.join(said)}, as {self.dtype}"

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> CaptureSpec:
        """Reads a spec from a plain map, as it travels on the wire or stands in a file; absent fields take the defaults.

        The map has flat fields, `sites` alone, or `profile` (a name of `PROFILES`) and flat fields beside it.
        """
        if not isinstance(value, Mapping):
            raise CaptureSpecError("spec", f"expected a map of fields, got {type(value).__name__}")
        fields = [f.name for f in dataclasses.fields(cls)]
        unknown = [key for key in value if key not in (*fields, "profile")]
        if unknown:
            raise CaptureSpecError(str(unknown[0]), "unknown field", [*fields, "profile"])
        if "profile" in value:
            return cls.profile(**{"name": value["profile"], **{k: v for k, v in value.items() if k != "profile"}})
        if "sites" not in value:
            return cls(**value)
        # what a dataclass says of itself has every field: those that say nothing are as good as absent
        said = {
            f.name for f in dataclasses.fields(cls) if f.name in value and not _is_default(value[f.name], f.default)
        }
        if said and not value["sites"]:
            return cls(**{field: value[field] for field in said})
        value = {field: given for field, given in value.items() if field in said or field == "sites"}
        sites = value["sites"]
        if isinstance(sites, str | Mapping) or not hasattr(sites, "__iter__"):
            raise CaptureSpecError("sites", f"expected a list of maps, got {type(sites).__name__}")
        found = []
        for number, site in enumerate(sites):
            try:
                found.append(Site.from_map(site))
            except CaptureSpecError as error:
                raise error.within(f"sites[{number}].{error.field}") from None
        if not found:
            raise CaptureSpecError("sites", "selects nothing")
        return cls(**{**value, "sites": tuple(found)})

    @classmethod
    def profile(cls, name: str, **fields: Any) -> CaptureSpec:
        """The spec of a profile, with flat fields that are given in place of its own.

        Raises:
            CaptureSpecError: there is no such profile, it needs a field that is not given, or says itself what is given.
        """
        one_of("profile", name, tuple(PROFILES))
        profile = PROFILES[name]
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
        flat = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "sites"}
        return {field: list(value) if isinstance(value, tuple) else value for field, value in flat.items()}

    def sites_of(self, layout: ModelLayout) -> list[tuple[Site, Mapping[str, str]]]:
        """Every site that is meant on a layout, and how the spec's own fields are called by those of the site.

        Raises:
            CaptureSpecError: an expert, component or span that nobody has, or an expert of which nothing would be captured.
        """
        if self.sites:
            fields = [f.name for f in dataclasses.fields(Site)]
            return [(site, {f: f"sites[{k}].{f}" for f in fields}) for k, site in enumerate(self.sites)]
        experts = [_expert(name, layout) for name in (layout.names if self.experts == "all" else self.experts)]
        offered = [
            c.name for c in sorted((c for e in experts for c in e.components), key=lambda c: component_order(c.name))
        ]
        for name in self.components if self.components != "all" else ():
            if name not in offered:
                raise CaptureSpecError(
                    "components", f"no selected expert has a component {name!r}", dict.fromkeys(offered)
                )
        for selector in self.spans:
            if not any(expert.select(selector) for expert in experts):
                known = dict.fromkeys(s for expert in experts for s in expert.selectors)
                raise CaptureSpecError("spans", f"no selected expert has a span {selector!r}", known)
        found: list[tuple[Site, Mapping[str, str]]] = [
            (site, _FLAT) for expert in experts for site in self._sites_of(expert)
        ]
        for expert in experts:
            if not any(site.expert == expert.name for site, _ in found) and self._has_any(expert):
                empty = f"{list(self.spans)} selects no token of the {expert.name} expert"
                raise CaptureSpecError("spans", f"{empty}: leave it out of `experts` or add a span", expert.selectors)
        return found

    def _has_any(self, expert: ExpertLayout) -> bool:
        return any(self.components == "all" or component.name in self.components for component in expert.components)

    def _sites_of(self, expert: ExpertLayout) -> list[Site]:
        spans = tuple(selector for selector in self.spans if expert.select(selector))
        found = []
        for component in expert.components:
            if self.components != "all" and component.name not in self.components:
                continue
            if component.size("token") and not spans:
                continue
            fields: dict[str, Any] = {"dtype": self.dtype}
            if component.size("layer"):
                fields["layers"] = self.layers
            if component.size("token"):
                fields |= {"tokens": None if self.spans == ("all",) else spans, "reduction": self.reduction}
            if expert.loop == "denoise":
                fields["steps"] = self.denoise_steps
            found.append(Site(expert.name, component.name, **fields))
        return found


def _is_default(value: object, default: object) -> bool:
    return (tuple(value) if isinstance(value, list) else value) == default


def component_order(name: str) -> tuple[int, str]:
    """Sorts components: known ones as `COMPONENTS` has them, then others by name."""
    return (COMPONENTS.index(name) if name in COMPONENTS else len(COMPONENTS), name)


def _components(value: object) -> tuple[str, ...] | str:
    return "all" if value == "all" else tuple(sorted(names("components", value), key=component_order))


def _expert_order(name: str) -> tuple[bool, str]:
    """Sorts experts where no layout says how: the vlm runs first."""
    return (name != "vlm", name)


def _expert(name: str, layout: ModelLayout) -> ExpertLayout:
    if name not in layout.names:
        raise CaptureSpecError("experts", f"this model has no expert {name!r}", layout.names)
    return layout.expert(name)


def _sites(sites: object) -> tuple[Site, ...]:
    if isinstance(sites, Site | Mapping | str) or not hasattr(sites, "__iter__"):
        raise CaptureSpecError("sites", f"expected a list of sites, got {type(sites).__name__}")
    found = tuple(sites)  # pyright: ignore[reportArgumentType]
    for site in found:
        if not isinstance(site, Site):
            raise CaptureSpecError("sites", f"expected sites, got {type(site).__name__}")
    if not found:
        raise CaptureSpecError("sites", "selects nothing")
    paths: dict[str, int] = {}
    for number, site in enumerate(found):
        if site.path in paths:
            same = f"sites[{paths[site.path]}] gives the tensor {site.path} too"
            raise CaptureSpecError(f"sites[{number}].name", f"{same}: give one of them a name")  # fmt: skip
        paths[site.path] = number
    return found

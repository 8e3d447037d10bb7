"""Which tokens a site selects of an expert's sequence: spans and positions, united, less what is excluded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from vlascope_base.text import counted, short

from vlascope_latents.layout import ExpertLayout, ModelLayout, selects
from vlascope_latents.site import CaptureSpecError, Site, Token

PROMPT = "text"
"""The span whose real tokens negative positions count back from."""


@dataclasses.dataclass(frozen=True)
class TokenGroup:
    """Tokens that are selected together.

    Attributes:
        name: the selector, for example `text`; `tokens` for the union that `reduction="none"` keeps.
        ranges: token positions as (start, stop) pairs, ascending, neither overlapping nor touching.
        ends: positions counted back from the end of the prompt's real tokens (-1 is the last one), ascending; they come after
            the ranges.
    """

    name: str
    ranges: tuple[tuple[int, int], ...]
    ends: tuple[int, ...] = ()

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.ranges) + len(self.ends)

    @property
    def positions(self) -> frozenset[int]:
        """Every position of the ranges."""
        return frozenset(position for start, stop in self.ranges for position in range(start, stop))


def token_groups(site: Site, expert: ExpertLayout, *, reduced: bool, each: bool) -> tuple[TokenGroup, ...]:
    """The tokens that a site selects: one group with all of them; where they are reduced, one for each of its `tokens`.

    Args:
        site: whose tokens.
        expert: of the site.
        reduced: whether they are reduced.
        each: whether a site that names no tokens means each span on its own.

    Raises:
        CaptureSpecError: a span that the expert does not have, a position beyond its tokens or the prompt, an exclusion that
            takes nothing away or leaves nothing.
    """
    asked = site.tokens
    if asked is None:
        asked = tuple(span.name for span in expert.spans) if each else ("all",)
    selected = [(str(token), *_positions("tokens", token, expert)) for token in asked]
    if not reduced:
        selected = [("tokens", set().union(*(p for _, p, _ in selected)), set().union(*(e for _, _, e in selected)))]
    before = selected  # what another exclusion takes away too is no reason to refuse one
    for token in site.exclude:
        positions, ends = _positions("exclude", token, expert)
        if not any(positions & chosen or ends & last for _, chosen, last in before):
            why = f"it is not among the tokens selected of {site.path}"
            if ends:
                why = f"a negative number takes away what `tokens` of {site.path} names by it, not a part of a span"
            raise CaptureSpecError("exclude", f"{short(token)} takes nothing away: {why}")
        selected = [(name, chosen - positions, last - ends) for name, chosen, last in selected]
    for name, chosen, last in selected:
        if not chosen and not last:
            what = f"{name!r}" if reduced else "the selected tokens"
            raise CaptureSpecError("exclude", f"{short(list(site.exclude))} leaves nothing of {what} of {site.path}")
    return tuple(TokenGroup(name, ranges_of(chosen), tuple(sorted(last))) for name, chosen, last in selected)


def key_groups(site: Site, expert: ExpertLayout, layout: ModelLayout, *, reduced: bool) -> tuple[TokenGroup, ...]:
    """The keys that a site of attention selects: one group with all of them; where they are reduced, one for each of `keys`.

    Raises:
        CaptureSpecError: a span that no expert has which is seen.
    """
    seen = layout.keys(expert)
    count = [span.name for _, span in seen]
    own = [span.name if count.count(span.name) == 1 else f"{name}:{span.name}" for name, span in seen]
    asked: Sequence[str] = site.keys or (own if reduced else ("all",))
    selected = []
    for selector in asked:
        name, colon, rest = selector.partition(":")
        rest = rest if colon else selector
        found = [span for owner, span in seen if (not colon or owner == name) and selects(rest, span.name)]
        if not found:
            names = dict.fromkeys(
                f"{owner}:{s}" for owner in dict.fromkeys(o for o, _ in seen) for s in layout.expert(owner).selectors
            )
            raise CaptureSpecError("keys", f"the {expert.name} expert sees no span {short(selector)}", names)
        selected.append((selector, {p for span in found for p in range(span.start, span.stop)}))
    if not reduced:
        selected = [("keys", set().union(*(positions for _, positions in selected)))]
    return tuple(TokenGroup(name, ranges_of(positions)) for name, positions in selected)


def up_to(count: int) -> str:
    """The numbers of `count` things that are counted from 0, in words."""
    return f"0-{count - 1}" if count > 1 else "0"


def ranges_of(positions: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Positions as maximal (start, stop) pairs, ascending."""
    ranges: list[tuple[int, int]] = []
    for position in sorted(positions):
        if ranges and position == ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], position + 1)
        else:
            ranges.append((position, position + 1))
    return tuple(ranges)


def prompt_of(expert: ExpertLayout) -> tuple[int, int] | None:
    """Where the prompt's tokens stand, padding included; None where the expert has none."""
    spans = expert.select(PROMPT)
    return (spans[0].start, spans[-1].stop) if spans else None


def _positions(field: str, token: Token, expert: ExpertLayout) -> tuple[set[int], set[int]]:
    """Positions that a token selects, and those that it counts back from the prompt's end."""
    if isinstance(token, str):
        spans = expert.select(token)
        if not spans:
            raise CaptureSpecError(field, f"the {expert.name} expert has no span {short(token)}", expert.selectors)
        return {p for span in spans for p in range(span.start, span.stop)}, set()
    if token >= 0:
        if token >= expert.tokens:
            raise CaptureSpecError(
                field,
                f"{token} is out of range: the {expert.name} expert has {counted(expert.tokens, 'token')}",
                [up_to(expert.tokens)],
            )
        return {token}, set()
    prompt = prompt_of(expert)
    if prompt is None:
        raise CaptureSpecError(
            field,
            f"{token} counts back from the prompt's end, and the {expert.name} expert has no span {PROMPT!r}",
            expert.selectors,
        )
    longest = prompt[1] - prompt[0]
    if -token > longest:
        raise CaptureSpecError(
            field,
            f"{token} is beyond the prompt, which has at most {counted(longest, 'token')}",
            [f"-{longest} to -1" if longest > 1 else "-1"],
        )
    return set(), {token}

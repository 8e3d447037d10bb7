"""Which tokens of a captured slice are real, and one vector made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from vlascope_base.text import listed
from vlascope_latents import Span
from vlascope_latents.layout import selects
from vlascope_latents.store import NotCapturedError, Selection

from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import Pool


class TokenPool:
    """Pools the token axis of one expert's slices, or the `span` axis where tokens were reduced during capture.

    A token of the prompt is valid where the frame's value `prompt_mask` says so, one of a camera where
    `image_masks/<camera>` does; without these values it counts as valid. The action expert's tokens are all valid.

    Attributes:
        warnings: what was found on the way; filled by `weights`.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        pool: Pool,
        reduction: str,
        captured: Mapping[str, Mapping[str, Any]] | None = None,
        missing_mask_matters: bool = True,
    ):
        """Args:
        spans: the expert's token spans.
        pool: how to pool.
        reduction: of the capture: `none`, `mean` or `last`.
        captured: of reduced spans, by name, the positions that each holds: `ranges`, and `ends` counted back from the prompt's.
        missing_mask_matters: warn where the prompt is pooled and `prompt_mask` was not stored.
        """
        if reduction not in ("none", pool):
            raise AnalysisError(
                f"--pool {pool}: the capture holds the {reduction} of each span, no tokens: use --pool {reduction}"
            )
        self.warnings: list[str] = []
        self._spans, self._pool, self._reduction = spans, pool, reduction
        self._captured = captured or {}
        self._warn = missing_mask_matters

    def weights(self, selection: Selection) -> np.ndarray:
        """Weights of the tokens (or spans) of each frame; each row sums to 1.

        Returns:
            float32 [frames, tokens]: `mean` of captured spans weighs a span by its valid tokens, so that it is the mean
            over tokens.

        Raises:
            AnalysisError: a frame has no valid token here.
        """
        coordinates = selection.coordinates
        entries = coordinates.get("span", coordinates.get("token", []))
        if counted := [entry for entry in entries if self._is_counted_from_the_end(entry)]:
            if len(entries) == 1:  # there is nothing to weigh
                return np.ones((len(selection), 1), np.float32)
            raise AnalysisError(
                f"tokens {listed(counted)} were counted back from the prompt's end, and cannot be pooled with others: capture"
                " them as a site of their own, or name another span with --span"
            )
        masks = self._masks(selection)
        everything = np.zeros((len(selection), max(s.stop for s in self._spans)), bool)
        for span in self._spans:
            everything[:, span.start : span.stop] = self._valid(span, masks, len(selection))
        if "span" in coordinates:
            counts = np.stack([everything[:, self._positions(name)].sum(axis=1) for name in entries], axis=1)
        else:
            counts = everything[:, coordinates["token"]].astype(np.int64)
        if not counts.any(axis=1).all():
            frame = selection.frames[int(np.flatnonzero(~counts.any(axis=1))[0])]
            raise AnalysisError(
                f"episode {frame.episode.row.folder}, timestep {frame.line.timestep}: no valid token to pool"
            )
        if self._pool == "last":
            last = counts.shape[1] - 1 - np.argmax(counts[:, ::-1] > 0, axis=1)
            counts = np.zeros_like(counts)
            counts[np.arange(len(counts)), last] = 1
        return (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)

    def _is_counted_from_the_end(self, entry: str | int) -> bool:
        return entry < 0 if isinstance(entry, int) else bool(self._captured.get(entry, {}).get("ends"))

    def _positions(self, name: str) -> list[int]:
        """The positions that a reduced span holds."""
        ranges = self._captured[name]["ranges"] if name in self._captured else [
            (span.start, span.stop) for span in _named(self._spans, name)
        ]  # fmt: skip
        return [position for start, stop in ranges for position in range(start, stop)]

    def _masks(self, selection: Selection) -> Mapping[str, np.ndarray]:
        """By span, the stored masks."""
        covered = [s for s in self._spans if _covers(selection, s)]
        found = {}
        for span in covered:
            kind, _, camera = span.name.partition("/")
            value = {"text": "prompt_mask", "image": f"image_masks/{camera}"}.get(kind)
            if value is None:
                continue
            try:
                found[span.name] = selection.values(value).astype(bool).reshape(len(selection), -1)
            except NotCapturedError:
                text = "frames without prompt_mask: padding of the prompt counts as if it were read"
                if kind == "text" and self._warn and text not in self.warnings:
                    self.warnings.append(text)
                continue
            if found[span.name].shape[1] not in (1, len(span)):
                raise AnalysisError(
                    f"{value}: {found[span.name].shape[1]} entries for the {len(span)} tokens of {span.name}"
                )
        return found

    def _valid(self, span: Span, masks: Mapping[str, np.ndarray], frames: int) -> np.ndarray:
        mask = masks.get(span.name, np.ones((frames, 1), bool))
        return np.broadcast_to(mask, (frames, len(span)))


def pool_tokens(array: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum over the token axis: [F, Q, L, T, D] and [F, T] to [F, Q, L, D], float32.

    Tokens of weight 0 do not count even where they are NaN: a span without a valid token reduces to NaN.
    """
    if array.shape[3] == 1 and (weights == 1).all():
        return array[..., 0, :]
    unused = weights == 0
    if unused.any() and not np.isfinite(array).all():
        array = np.where(unused[:, None, None, :, None], np.float32(0), array)
    if array.shape[3] <= 4:  # a few spans: thousands of tiny matrix products would cost far more
        return sum(weights[:, None, None, t, None] * array[..., t, :] for t in range(1, array.shape[3])) + (
            weights[:, None, None, 0, None] * array[..., 0, :]
        )
    return (weights[:, None, None, None, :] @ array)[..., 0, :]


def disjoint_spans(names: Sequence[str], spans: Sequence[Span]) -> str | None:
    """Of the captured spans, which to pool for "every captured token": the one called `all`, or None for all of them.

    Raises:
        AnalysisError: they overlap, so that their mean would count tokens twice.
    """
    if "all" in names:
        return "all"
    covered = [span.name for name in names for span in _named(spans, name)]
    if len(set(covered)) < len(covered):
        raise AnalysisError(f"the captured spans overlap: name one with --span: {listed(names)}")
    return None


def _named(spans: Sequence[Span], selector: str) -> list[Span]:
    return [span for span in spans if selects(selector, span.name)]


def _covers(selection: Selection, span: Span) -> bool:
    coordinates = selection.coordinates
    if "span" in coordinates:
        return any(span in _named([span], name) for name in coordinates["span"])
    positions = coordinates["token"]
    return any(span.start <= position < span.stop for position in positions)

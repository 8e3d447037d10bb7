"""Compares two checkpoints piece by piece, several at a time.

What is in memory of all pieces together is at any time at most three times the largest piece that either format reads by
itself, and 250 MB, in which smaller ones are read beside it. Three times: of a chunk of Orbax's the decompressed bytes and
the copy of them, beside the copy of the other side's. Tensors of safetensors are looked at where they lie in their files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from vlascope_base.progress import Progress, silent

from vlascope_server.checkpoints.boxes import Box, common, elements, inside
from vlascope_server.checkpoints.difference.result import Difference, ParameterDifference, Side, is_layered
from vlascope_server.checkpoints.difference.spectral import Scratch, Spectrum
from vlascope_server.checkpoints.difference.sums import Sums, measure, total
from vlascope_server.checkpoints.errors import CheckpointError
from vlascope_server.checkpoints.merged import MergedWeights
from vlascope_server.checkpoints.source import Source
from vlascope_server.checkpoints.weights import Weights, dtype_of, largest_first
from vlascope_server.model import Pi0Config
from vlascope_server.options import DifferenceOptions

_BESIDE = 250_000_000
"""Bytes of pieces that are read beside the largest one."""
_WORKERS = 8


def compare(
    a: Source,
    b: Source,
    options: DifferenceOptions,
    scratch: Path,
    *,
    locations: tuple[str, str] | None = None,
    progress: Progress = silent,
) -> Difference:
    """Compares every parameter that both checkpoints have.

    Args:
        a, b: opened checkpoints, of any formats.
        options: what is compared.
        scratch: a folder where `options.spectral` puts temporary files: each holds a parameter in float32.
        locations: how the two were asked for; their paths unless given.
        progress: is told how many bytes of both have been compared.

    Raises:
        CheckpointError: they are of different architectures and `options.common_only` is not given, they have no parameter in
            common, or one is damaged.
    """
    configs = a.config(), b.config()
    if not options.common_only:
        _refuse_other_architecture(a, b, *configs)
    one, other = (
        MergedWeights(source.weights, config) if options.merge_lora else source.weights
        for source, config in zip((a, b), configs, strict=True)
    )
    both = [name for name in largest_first(one) if name in other.shapes]
    unlike = {name: (one.shapes[name], other.shapes[name]) for name in both if one.shapes[name] != other.shapes[name]}
    if unlike and not options.common_only:
        name, (shape_a, shape_b) = next(iter(sorted(unlike.items())))
        raise CheckpointError(
            f"{a.files.weights} and {b.files.weights}: parameter {name}: expected one shape, found {shape_a} and {shape_b}",
            "<merge_lora> compares the weights that adapters make, <common_only> leaves out what differs in shape",
        )
    both = [name for name in both if name not in unlike]
    if not both:
        raise CheckpointError(f"{a.files.weights} and {b.files.weights}: no parameter of one name and shape in both")
    start = time.monotonic()
    work = _Work(one, other, both, Scratches(one, scratch) if options.spectral else None)
    found = work.run(progress)
    seconds = time.monotonic() - start
    location_a, location_b = locations or (str(a.files.root), str(b.files.root))
    return Difference(
        a=_side(a, location_a),
        b=_side(b, location_b),
        parameters=found,
        only_a=_without(one, other),
        only_b=_without(other, one),
        unlike=dict(sorted(unlike.items())),
        spectral=options.spectral,
        bytes_read=work.nbytes,
        seconds=seconds,
    )


class Scratches:
    """Room for the differences of all parameters, made when it is first written to."""

    def __init__(self, weights: Weights, folder: Path):
        self._rooms = {name: Scratch(name, shape, folder) for name, shape in weights.shapes.items()}

    def __getitem__(self, name: str) -> Scratch:
        return self._rooms[name]

    def finish(self, name: str) -> tuple[Spectrum | None, ...]:
        """The spectra of a parameter that was written; its room is given back."""
        return tuple(self._rooms.pop(name).spectra(is_layered(name)))


class _Work:
    """Pairs of pieces that are compared side by side."""

    def __init__(self, a: Weights, b: Weights, names: list[str], scratches: Scratches | None):
        self._a, self._b, self._names, self._scratches = a, b, names, scratches
        self._boxes = {name: list(self._driver(name)[0].pieces(name)) for name in names}
        largest = max((self._piece_bytes(name) for name in names), default=0)
        self._memory = _Memory(3 * largest + _BESIDE)
        self.nbytes = sum(self._pair_bytes(name, _whole(a.shapes[name])) for name in names)

    def run(self, progress: Progress) -> tuple[ParameterDifference, ...]:
        """All of them, by name."""
        workers = min(_WORKERS, os.cpu_count() or 1)
        left = {name: len(boxes) for name, boxes in self._boxes.items()}
        sums: dict[str, list[dict[int, Sums]]] = {name: [{}] * len(boxes) for name, boxes in self._boxes.items()}
        spectra: dict[str, Future[tuple[Spectrum | None, ...]]] = {}
        done = 0
        with _pool(workers) as pool:
            futures = {
                pool.submit(self._compare, name, box): (name, k)
                for name, boxes in self._boxes.items()
                for k, box in enumerate(boxes)
            }
            for future in as_completed(futures):
                name, k = futures.pop(future)
                sums[name][k] = future.result()
                left[name] -= 1
                done += self._pair_bytes(name, self._boxes[name][k])
                progress("comparing", done, self.nbytes)
                if not left[name] and self._scratches:
                    spectra[name] = pool.submit(self._scratches.finish, name)
            finished = {name: future.result() for name, future in spectra.items()}
        return tuple(self._gathered(name, sums[name], finished.get(name)) for name in sorted(self._names))

    def _gathered(
        self, name: str, pieces: list[dict[int, Sums]], spectra: tuple[Spectrum | None, ...] | None
    ) -> ParameterDifference:
        count = self._a.shapes[name][0] if is_layered(name) else 1
        # in the order of the pieces, not in that in which they were done: the same sums to the last bit each time
        parts = tuple(total(piece[layer] for piece in pieces if layer in piece) for layer in range(count))
        return ParameterDifference(
            name, self._a.shapes[name], self._a.dtypes[name], self._b.dtypes[name], parts, spectra or (None,) * count
        )

    def _compare(self, name: str, box: Box) -> dict[int, Sums]:
        """Layer -> sums over what `box` holds of it; 0 stands for a parameter without layers."""
        driver, follower = self._driver(name)
        found: dict[int, list[Sums]] = {}
        with self._memory.taken(3 * self._box_bytes(name, box)):
            read = driver.read_box(name, box)
            for piece in follower.pieces(name):
                if (shared := common(box, piece)) is None:
                    continue
                pair = read[inside(shared, box)], follower.read_box(name, shared)
                a, b = pair if driver is self._a else pair[::-1]
                if self._scratches:
                    self._scratches[name].put(shared, a, b)
                rows = range(shared[0].start, shared[0].stop) if is_layered(name) else (0,)
                for k, row in enumerate(rows):
                    sums = measure(a[k], b[k]) if is_layered(name) else measure(a, b)
                    found.setdefault(row, []).append(sums)
        return {row: total(parts) for row, parts in found.items()}

    def _driver(self, name: str) -> tuple[Weights, Weights]:
        """The side whose pieces are read whole, one after the other, and the side that is read as they need it."""

        def cost(weights: Weights) -> tuple[bool, int]:
            return weights.parts_cost_the_whole, max((elements(box) for box in weights.pieces(name)), default=0)

        return (self._a, self._b) if cost(self._a) >= cost(self._b) else (self._b, self._a)

    def _piece_bytes(self, name: str) -> int:
        return max((self._box_bytes(name, box) for box in self._boxes[name]), default=0)

    def _box_bytes(self, name: str, box: Box) -> int:
        return elements(box) * max(dtype_of(side.dtypes[name]).itemsize for side in (self._a, self._b))

    def _pair_bytes(self, name: str, box: Box) -> int:
        return elements(box) * sum(dtype_of(side.dtypes[name]).itemsize for side in (self._a, self._b))


class _Memory:
    """Bytes that several threads share; who needs more than there are left waits, but for one alone."""

    def __init__(self, limit: int):
        self._limit, self._used, self._changed = limit, 0, threading.Condition()

    @contextlib.contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Takes `count` bytes for the length of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + count <= self._limit)
            self._used += count
        try:
            yield
        finally:
            with self._changed:
                self._used -= count
                self._changed.notify_all()


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads; what has not begun when the block raises never does."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="difference")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _refuse_other_architecture(a: Source, b: Source, one: Pi0Config, other: Pi0Config) -> None:
    facts_a, facts_b = (_facts(config) for config in (one, other))
    differ = [f"{name} {facts_a[name]} and {facts_b[name]}" for name in facts_a if facts_a[name] != facts_b[name]]
    if differ:
        raise CheckpointError(
            f"{a.files.weights} and {b.files.weights}: expected one architecture, found two: {', '.join(differ)}",
            "<common_only> compares the parameters that both have in the same shape",
        )


def _facts(config: Pi0Config) -> dict[str, Any]:
    """What decides which weights there are, adapters aside."""
    facts: dict[str, Any] = {"model": "pi0.5" if config.pi05 else "pi0"}
    for part in ("vision", "vlm", "action"):
        values = dataclasses.asdict(getattr(config, part))
        facts |= {f"{part} {name}": value for name, value in values.items() if not name.endswith("lora")}
    return facts | {"vocabulary": config.vocabulary, "action_dim": config.action_dim}


def _side(source: Source, location: str) -> Side:
    shapes = source.weights.shapes
    return Side(
        location=location,
        path=source.origin,
        format=source.kind,
        step=source.record.step,
        parameters=len(shapes),
        elements=sum(elements(_whole(shape)) for shape in shapes.values()),
    )


def _without(one: Weights, other: Weights) -> Mapping[str, tuple[int, ...]]:
    return {name: shape for name, shape in sorted(one.shapes.items()) if name not in other.shapes}


def _whole(shape: tuple[int, ...]) -> Box:
    return tuple(slice(0, size) for size in shape)

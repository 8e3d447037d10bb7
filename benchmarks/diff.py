"""Bytes of two checkpoints that `vlascope-server diff` compares in a second, over those that loading both reads in a second.

Both checkpoints are one of noise with the published model's proportions, in the format that vlascope writes (Orbax, float32).
Loading is reading every parameter of both, one after the other, through the loader that the server uses. Comparing is reading
and every metric of every parameter and layer, without spectra, figures and files. They take turns, and the best of each
counts: on a shared machine the worse ones measure somebody else. The first turn of either warms up the page cache and does
not count.

The processor time of both is given too: where other work takes the cores, the clock measures that work.

    python benchmarks/diff.py [--gigabytes 0.5] [--turns 5] [--out FILE]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import options_of, report, verdict
from restore_memory import scaled
from vlascope_base.text import readable_bytes
from vlascope_server.checkpoints import Source, open_source, save_checkpoint
from vlascope_server.checkpoints.difference import compare
from vlascope_server.checkpoints.weights import nbytes
from vlascope_server.model import init_params
from vlascope_server.options import DifferenceOptions

LIMIT = 0.5


def main() -> None:
    """Writes the checkpoint, measures, prints the table and the JSON line."""
    parser = options_of(__doc__)
    parser.add_argument("--gigabytes", type=float, default=0.5, help="of one float32 checkpoint")
    parser.add_argument("--turns", type=int, default=5, help="of loading and comparing, after one that does not count")
    args = parser.parse_args()
    config = scaled(args.gigabytes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_checkpoint(Path(temporary) / "checkpoint", init_params(config), config)
        sources = open_source(folder), open_source(folder)
        size = sum(nbytes(source.weights) for source in sources)
        loading, comparing = [], []
        for _ in range(args.turns + 1):
            loading.append(timed(lambda: load_both(sources)))
            comparing.append(timed(lambda: compare(*sources, DifferenceOptions(), Path(temporary))))
    (load, load_cpu), (diff, diff_cpu) = (best(turns[1:], size) for turns in (loading, comparing))
    results = {
        "bytes": size,
        "load_bytes_per_second": load,
        "diff_bytes_per_second": diff,
        "ratio": diff / load,
        "load_bytes_per_processor_second": load_cpu,
        "diff_bytes_per_processor_second": diff_cpu,
        "processor_ratio": diff_cpu / load_cpu,
    }
    for name, rate in (("loading both", load), ("comparing both", diff)):
        print(f"{name:<20} {readable_bytes(rate, 3)}/s of {readable_bytes(size, 3)}")
    print(f"{'ratio':<20} {diff / load:.2f}, bound {LIMIT}: {verdict(diff / load >= LIMIT)}")
    print(f"{'of processor time':<20} {diff_cpu / load_cpu:.2f}")
    report("diff", {"gigabytes": args.gigabytes, "turns": args.turns, "limit": LIMIT}, results, args.out)


def load_both(sources: tuple[Source, Source]) -> None:
    """Reads every parameter of both."""
    for source in sources:
        for name in source.weights.shapes:
            source.weights.read(name)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of the processors."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - used


def best(turns: list[tuple[float, float]], size: int) -> tuple[float, float]:
    """Bytes in a second of the clock and of the processors, each in its best turn."""
    clock, processors = zip(*turns, strict=True)
    return size / min(clock), size / min(processors)


if __name__ == "__main__":
    main()

"""Bytes of two checkpoints that `vlascope-server diff` compares in a second, over those that loading both reads in a second.

Both checkpoints are one of noise with the published model's proportions, in the format that vlascope writes (Orbax, float32).
Loading is reading every parameter of both, one after the other, through the loader that the server uses. Comparing is reading
and every metric of every parameter and layer, without spectra, figures and files. They take turns, and the best of each
counts: on a shared machine the worse ones measure somebody else. The first turn of either warms up the page cache and does
not count.

    python benchmarks/diff.py [--gigabytes 0.5] [--turns 3] [--out FILE]
"""

from __future__ import annotations

import tempfile
import time
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
    parser.add_argument("--turns", type=int, default=3, help="of loading and comparing, after one that does not count")
    args = parser.parse_args()
    config = scaled(args.gigabytes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_checkpoint(Path(temporary) / "checkpoint", init_params(config), config)
        sources = open_source(folder), open_source(folder)
        size = sum(nbytes(source.weights) for source in sources)
        loading, comparing = [], []
        for _ in range(args.turns + 1):
            loading.append(timed_load(sources))
            comparing.append(compare(*sources, DifferenceOptions(), Path(temporary)).seconds)
    load, diff = size / min(loading[1:]), size / min(comparing[1:])
    results = {"bytes": size, "load_bytes_per_second": load, "diff_bytes_per_second": diff, "ratio": diff / load}
    for name, rate in (("loading both", load), ("comparing both", diff)):
        print(f"{name:<20} {readable_bytes(rate, 3)}/s of {readable_bytes(size, 3)}")
    print(f"{'ratio':<20} {diff / load:.2f}, bound {LIMIT}: {verdict(diff / load >= LIMIT)}")
    report("diff", {"gigabytes": args.gigabytes, "turns": args.turns, "limit": LIMIT}, results, args.out)


def timed_load(sources: tuple[Source, Source]) -> float:
    """Seconds to read every parameter of both."""
    start = time.perf_counter()
    for source in sources:
        for name in source.weights.shapes:
            source.weights.read(name)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

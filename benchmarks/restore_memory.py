"""Peak host memory while a float32 Orbax checkpoint is restored as bfloat16, over the bytes of the bfloat16 parameters.

The checkpoint is synthetic, written by Orbax as the reference writes it (every array one compressed chunk), and has the
published model's proportions: its largest array is 37 % of all. Restoring runs in a process of its own on the CPU
backend, where the finished parameters lie in host memory too. Anonymous memory is sampled every 2 ms; what the process
holds before it restores (interpreter, JAX, Orbax's reader) is reported apart, and the ratio given with and without it.

    python benchmarks/restore_memory.py [--gigabytes 2] [--folder DIR] [--out FILE]

Full size is `--gigabytes 13`: 13 GB of disk, about 30 GB of memory to write it, 8 GB to restore it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import options_of, report
from vlascope_server.model import GemmaConfig, Pi0Config
from vlascope_server.model.config import full_size
from vlascope_server.model.parameters import count, parameter_shapes
from vlascope_server.options import CheckpointOptions

LIMIT = 1.3


def main() -> None:
    """Command line; the two private roles are processes that this one starts."""
    parser = options_of(__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the float32 checkpoint")
    parser.add_argument("--folder", type=Path, help="where to write the checkpoint; kept, and used again when there")
    parser.add_argument("--role", choices=("write", "restore"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    config = scaled(args.gigabytes)
    if args.role == "write":
        write(args.folder, config)
    elif args.role == "restore":
        print(json.dumps(restore(args.folder, config)))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.folder or Path(temporary) / "checkpoint"
            if not folder.exists():
                print(f"writing {4 * count(parameter_shapes(config)) / 1e9:.1f} GB to {folder}")
                run("write", folder, args.gigabytes)
            compare(json.loads(run("restore", folder, args.gigabytes)), config, args)


def compare(measured: dict[str, float], config: Pi0Config, args: argparse.Namespace) -> None:
    """Prints the table and the JSON line."""
    shapes = parameter_shapes(config)
    wanted = 2 * count(shapes)
    results = {
        "bytes_float32": 2 * wanted,
        "bytes_bfloat16": wanted,
        "largest_array_share": max(count({name: shape}) for name, shape in shapes.items()) / count(shapes),
        **measured,
        "peak_over_bfloat16": (measured["bytes_peak"] - measured["bytes_before"]) / wanted,
        "peak_over_bfloat16_whole_process": measured["bytes_peak"] / wanted,
        "limit": LIMIT,
    }
    for name, value in results.items():
        print(f"{name:<34} {value:>18,.3f}")
    report("restore_memory", dataclasses.asdict(config), results, args.out)


def scaled(gigabytes: float) -> Pi0Config:
    """The published Pi0 with every width and the vocabulary shrunk alike, so that the proportions stay."""
    full = full_size()
    share = (gigabytes * 1e9 / (4 * count(parameter_shapes(full)))) ** 0.5

    def shrink(size: int, multiple: int = 8) -> int:
        return max(multiple, round(size * share / multiple) * multiple)

    def gemma(g: GemmaConfig) -> GemmaConfig:
        return dataclasses.replace(g, width=shrink(g.width), mlp_dim=shrink(g.mlp_dim), head_dim=shrink(g.head_dim))

    vision = full.vision
    return dataclasses.replace(
        full,
        vision=dataclasses.replace(
            vision, width=shrink(vision.width, vision.num_heads), mlp_dim=shrink(vision.mlp_dim)
        ),
        vlm=gemma(full.vlm),
        action=gemma(full.action),
        vocabulary=shrink(full.vocabulary),
    )


def write(folder: Path, config: Pi0Config) -> None:
    """A checkpoint of noise, which compresses as badly as weights do."""
    import numpy as np
    import orbax.checkpoint as ocp

    rng = np.random.default_rng(0)
    tree: dict[str, Any] = {}
    for name, shape in parameter_shapes(config).items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = rng.standard_normal(shape, dtype=np.float32)
    ocp.PyTreeCheckpointer().save((folder / "params").resolve(), {"params": tree})


def restore(folder: Path, config: Pi0Config) -> dict[str, float]:
    """Loads, and says what the process held before, at most, and after; bytes of anonymous memory."""
    import jax
    import vlascope_server.checkpoints.orbax_format  # noqa: F401 its import belongs to what was held before
    from vlascope_server.checkpoints import load_checkpoint

    jax.block_until_ready(jax.device_put(0.0))
    before = peak = anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    lengths = CheckpointOptions(action_horizon=config.action_horizon, max_token_len=config.max_token_len)
    checkpoint = load_checkpoint(folder, lengths, dtype="bfloat16")
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    assert all(array.dtype == "bfloat16" for array in checkpoint.params.values())  # noqa: S101 what was measured
    return {"bytes_before": before, "bytes_peak": peak, "bytes_after": anonymous(), "seconds": seconds}


def anonymous() -> int:
    """Bytes of this process that no file backs (Linux)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def run(role: str, folder: Path, gigabytes: float) -> str:
    """Runs one role in a fresh process; its last line."""
    command = [sys.executable, __file__, "--role", role, "--folder", str(folder), "--gigabytes", str(gigabytes)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return (done.stdout.strip().splitlines() or [""])[-1]


if __name__ == "__main__":
    main()

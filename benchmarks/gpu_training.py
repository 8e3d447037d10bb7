"""Samples a second and memory of `vlascope-server train` at full size with LoRA on one card, against the count of operations.

    python benchmarks/gpu_training.py [--size full|tiny] [--steps 20] [--batch-size 8] [--folder DIR] [--out FILE]

The dataset is made on the spot: noise as images, LIBERO's arm. The last line is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from common import options_of, report
from models import device, peak_bytes
from vlascope_datasets import DatasetWriter
from vlascope_server.model.config import full_size
from vlascope_server.presets import SEEDED
from vlascope_server.presets.tiny import TINY
from vlascope_server.training.options import TrainOptions
from vlascope_server.training.trainer import train
from work import count_work

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb")
SIZES = {"full": full_size(), "tiny": TINY}
BACKWARD = 3
"""Operations of a training step over those of the forward pass; adapters need the gradient of every activation."""


def write_dataset(path: Path, frames: int) -> Path:
    """One episode of LIBERO's arm, seen as noise."""
    rng = np.random.default_rng(0)
    features = {
        "image": {"dtype": "image", "shape": (224, 224, 3)},
        "wrist_image": {"dtype": "image", "shape": (224, 224, 3)},
        "state": {"dtype": "float32", "shape": (8,)},
        "actions": {"dtype": "float32", "shape": (7,)},
    }
    with DatasetWriter.create(path, 10, features, "panda") as writer:
        columns = {name: rng.standard_normal((frames, n), np.float32) for name, n in (("state", 8), ("actions", 7))}
        shown = {name: rng.integers(0, 256, (frames, 224, 224, 3), np.uint8) for name in ("image", "wrist_image")}
        writer.add_episode(columns, shown, "pick up the alphabet soup and place it in the basket")
    return path


def main() -> None:
    """Command line."""
    parser = options_of(__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where dataset and run lie; a temporary folder unless given")
    args = parser.parse_args()
    config = dataclasses.replace(SIZES[args.size], cameras=CAMERAS)
    SEEDED["benchmark"] = config
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        options = TrainOptions(
            dataset=write_dataset(Path(folder) / "dataset", 4 * args.batch_size), output=Path(folder) / "run",
            init="benchmark", steps=args.steps, batch_size=args.batch_size, flow_samples=1, lora=16, validation=0.0,
            log_every=1, save_every=args.steps, ema=0.0, delta_actions=False, augment=False,
        )  # fmt: skip
        begun = time.perf_counter()
        train(options)
        whole = time.perf_counter() - begun
        lines = [json.loads(line) for line in (Path(folder) / "run/metrics.jsonl").read_text().splitlines()]
    rates = [line["samples_per_second"] for line in lines if "samples_per_second" in line]
    forward = count_work(config, 1, 1, 2).operations
    results = {
        "samples_per_s": statistics.median(rates[len(rates) // 2 :]) if rates else None,
        "seconds_with_compiling_and_saving": whole,
        "operations_per_sample": BACKWARD * forward,
        "peak_bytes": peak_bytes(),
        "steps": args.steps,
        "batch_size": args.batch_size,
    }
    for name, value in results.items():
        print(f"{name:<36} {value}")
    report("gpu_training", dataclasses.asdict(config), results, args.out, device())


if __name__ == "__main__":
    main()

"""What the latent store costs over plain files: writing, reading one layer, memory, and opening many episodes.

Frames are noise of full size (18 layers, 816 tokens, width 2048 in bfloat16: 60 MB).
Every ratio is of two things that took turns in this run, on the same disk, with the same number of fsyncs.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import LAYOUT, Results, options_of, report, verdict
from vlascope_base.files import sync_data, write_all
from vlascope_latents import CapturePlan, CaptureSpec, plan_capture
from vlascope_latents.store import LatentStore, RunWriter
from vlascope_latents.store.run_folder import TABLE_FILE
from vlascope_latents.store.table import EpisodeRow, write_table
from vlascope_latents.store.tensors import stored_tensors

PLAN = plan_capture(CaptureSpec(experts=("vlm",)), LAYOUT)
FSYNCS = 5  # a frame of one tensor: shard and its folder, metadata and its folder, index line


def plain_write(folder: Path, content: np.ndarray, frames: int) -> float:
    """Bytes per second of `frames` files with `FSYNCS` syncs each, from the same number of threads as the store."""
    folder.mkdir()
    small = [os.open(folder / f"small{k}", os.O_WRONLY | os.O_CREAT) for k in range(FSYNCS - 1)]

    def one(number: int) -> None:
        descriptor = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT)
        write_all(descriptor, content.data)
        sync_data(descriptor)
        os.close(descriptor)
        for other in small:
            os.write(other, b"x" * 1000)
            sync_data(other)

    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(frames)))
    seconds = time.perf_counter() - start
    for descriptor in small:
        os.close(descriptor)
    return frames * content.nbytes / seconds


def store_write(root: Path, content: np.ndarray, frames: int, limit: int) -> tuple[float, int]:
    """Bytes per second of an episode, from its first append until it is sealed; and the most bytes of buffers."""
    with RunWriter.create(root, "bench", LAYOUT, memory_bytes=limit, workers=2) as run:
        episode = run.open_episode("e", {}, PLAN)
        peak = 0
        start = time.perf_counter()
        for number in range(frames):
            episode.append({"vlm/hidden_states": content}, timestep=number, values={"actions": np.zeros((50, 7))})
            peak = max(peak, run._buffers.allocated)
        committed = episode.seal(success=True)
        seconds = time.perf_counter() - start
    if committed != frames:
        raise SystemExit(f"{committed} of {frames} frames committed")
    return frames * content.nbytes / seconds, peak


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bench_write(folder: Path, frames: int, rounds: int) -> Results:
    """Writing: the store over plain files; memory held to the bound."""
    content = np.random.default_rng(0).integers(0, 1 << 16, PLAN.tensors[0].shape, np.uint16)
    limit = 4 * sum(t.nbytes + t.index_nbytes for t in stored_tensors(PLAN, LAYOUT))
    ratios, rates, peak = [], [], 0
    for number in range(rounds + 1):
        ours, allocated = store_write(folder / f"runs{number}", content, frames, limit)
        plain = plain_write(folder / f"plain{number}", content, frames)
        peak = max(peak, allocated)
        if number:  # the first round warms the disk up
            ratios.append(ours / plain)
            rates.append((ours, plain))
        shutil.rmtree(folder / f"runs{number}")
        shutil.rmtree(folder / f"plain{number}")
    return {
        "write_ratio": statistics.median(ratios),
        "write_ratios": ratios,
        "write_gb_per_s": statistics.median(ours for ours, _ in rates) / 1e9,
        "plain_gb_per_s": statistics.median(plain for _, plain in rates) / 1e9,
        "memory_limit": limit,
        "memory_peak": peak,
    }


def bench_read(folder: Path, frames: int, rounds: int) -> Results:
    """Reading one layer of `frames` frames, out of `frames` shards of a few layers, over plain reads of the same bytes."""
    plan: CapturePlan = plan_capture(CaptureSpec(experts=("vlm",), layers=(0, 5, 10)), LAYOUT)
    rng = np.random.default_rng(1)
    content = rng.integers(0, 1 << 16, plan.tensors[0].shape, np.uint16)
    with RunWriter.create(folder / "runs", "bench", LAYOUT, workers=2) as run:
        episode = run.open_episode("e", {}, plan)
        for number in range(frames):
            episode.append({"vlm/hidden_states": content}, timestep=number)
        episode.seal()
    store = LatentStore(folder / "runs")
    selection = store.select("vlm", layers=5)
    size = content[1].nbytes
    (folder / "plain").mkdir()
    for number in range(frames):
        (folder / "plain" / str(number)).write_bytes(content[1].tobytes())

    def plain() -> np.ndarray:
        out = np.empty((frames, size), np.uint8)

        def one(numbers: range) -> None:
            for number in numbers:
                with (folder / "plain" / str(number)).open("rb", buffering=0) as file:
                    file.readinto(out[number].data)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, [range(first, frames, 4) for first in range(4)]))
        return out

    if not np.array_equal(selection[:2].array("bfloat16").view(np.uint16)[1, 0], content[1]):
        raise SystemExit("what was read is not what was written")
    plain()
    selection.array("bfloat16", workers=4)
    before = store.shards.bytes_read
    ratios, floats = [], []
    for _ in range(rounds):
        ours = seconds_of(lambda: selection.array("bfloat16", workers=4))
        base = seconds_of(plain)
        ratios.append(base / ours)
        floats.append(base / seconds_of(lambda: selection[: frames // 2].array("float32", workers=4)) / 2)
    read = (store.shards.bytes_read - before) / (rounds * 1.5)
    return {
        "read_ratio": statistics.median(ratios),
        "read_ratios": ratios,
        "read_ratio_float32": statistics.median(floats),
        "read_frames": frames,
        "bytes_needed": frames * size,
        "bytes_read": round(read),
    }


def bench_open(folder: Path, episodes: int) -> Results:
    """Opening a run of many sealed episodes by its table."""
    with RunWriter.create(folder / "many", "bench", LAYOUT) as run:
        path = run.path
    rows = []
    for number in range(episodes):
        name = f"task{number % 10}-ep{number}"
        (path / "latents.zarr/episodes" / name).mkdir()
        meta = {
            "task_id": number % 10,
            "task_name": "open the drawer",
            "instruction": "open the drawer",
            "seed": number,
        }
        rows.append(EpisodeRow(name, name, 1, "sealed", 10, 1000, 0, meta, True, 50, "2026-01-01T00:00:00+00:00"))
    write_table(path / TABLE_FILE, rows)
    listed: list[int] = []
    seconds = [seconds_of(lambda: listed.append(len(LatentStore(path).episodes()))) for _ in range(5)]
    if set(listed) != {episodes}:
        raise SystemExit("the table does not list every episode")
    return {"open_seconds": statistics.median(seconds), "open_episodes": episodes}


def main() -> None:
    """Runs the parts and prints a table and one JSON line."""
    parser = options_of(__doc__)
    parser.add_argument("--folder", type=Path, help="where to write (a real disk); a temporary folder unless given")
    parser.add_argument("--frames", type=int, default=24, help="60 MB frames a round of writing")
    parser.add_argument("--read-frames", type=int, default=400, help="frames of 10 MB to read one layer of")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    need = max(2 * options.frames * PLAN.nbytes, options.read_frames * PLAN.nbytes * 4 // 18)
    print(f"takes up to {need / 1e9:.1f} GB of disk")
    results: Results = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for part, call in [
            ("w", lambda p: bench_write(p, options.frames, options.rounds)),
            ("r", lambda p: bench_read(p, options.read_frames, options.rounds)),
            ("o", lambda p: bench_open(p, 10_000)),
        ]:
            (Path(name) / part).mkdir()
            results |= call(Path(name) / part)
            shutil.rmtree(Path(name) / part)
    bounds = [
        ("written over plain files", results["write_ratio"], ">= 0.7", results["write_ratio"] >= 0.7),
        ("one layer read over plain reads", results["read_ratio"], ">= 0.5", results["read_ratio"] >= 0.5),
        ("bytes read over bytes needed", results["bytes_read"] / results["bytes_needed"], "<= 1.01",
         results["bytes_read"] <= 1.01 * results["bytes_needed"]),
        ("buffers over memory bound", results["memory_peak"] / results["memory_limit"], "<= 1",
         results["memory_peak"] <= results["memory_limit"]),
        ("seconds to open 10,000 episodes", results["open_seconds"], "< 1", results["open_seconds"] < 1),
    ]  # fmt: skip
    for what, value, bound, held in bounds:
        print(f"{what:<34} {value:8.3f}   {bound:<8} {verdict(held)}")
    report("store", vars(options), results, options.out)


if __name__ == "__main__":
    main()

"""What the policy server adds to a policy: capture's share of latency, memory, batching's gain, and whether its loop computes.

Everything goes over the real websocket to `vlascope-server serve` in a process of its own, with an empty compilation
cache. On a CPU the mid-size model from a checkpoint on disk, on a GPU the published pi0 in bfloat16 with drawn weights.

1. Stride 1: every observation of a captured block is captured whole (both experts, every layer and token) and stored.
   Blocks of captured and of plain requests take turns; the first request of a block and whatever is still being written
   when it begins do not count, so that no block pays for its neighbour. The ratio is the median over neighbouring blocks of
   the ratio of their median latencies. Requests keep such a distance that less than half of the disk's rate is asked
   for; that rate is measured first, by plain synced writes of frames of the same size.
2. Memory: the server's proportional set size before its first captured frame, and the most it is over all that follow.
3. Throughput: eight clients at a time, in turns with one client that sends as many requests one by one.
4. One, four and sixteen clients, plain and captured: latency at the median and at the 99th percentile, requests a second.
5. Pings and `/healthz` while the policy compiles and while it serves, beside a bare sleep: numbers without a bound.

    python benchmarks/serving.py [--size tiny|mid|full] [--frames 500] [--rounds 8] [--quick] [--folder DIR] [--out FILE]

500 mid-size frames take 7.5 GB of disk, 500 full-size ones 33 GB; the folder is removed at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import Results, options_of, report, verdict
from models import MID, device, usual_size
from served import FULL, Ask, LoopProbe, Served, serving
from vlascope_base.files import replace_file
from vlascope_server.checkpoints import Sidecars, save_checkpoint
from vlascope_server.checkpoints.record import Record
from vlascope_server.model import init_params
from vlascope_server.model.config import full_size
from vlascope_server.presets.tiny import TINY, TOKENIZER_PATH, unit_norm_stats
from vlascope_server.robots import Libero

CLIENTS = 8
BLOCK = 6
"""Requests in a block; the first does not count."""
SLACK = 256e6
"""Bytes that a server may grow by beside its queue."""
QUEUE = {"tiny": "64MB", "mid": "256MB", "full": "1GB"}
QUEUE_BYTES = {"tiny": 64e6, "mid": 256e6, "full": 1e9}


def observation(seed: int, **fields: Any) -> Results:
    """LIBERO's arm, seen as noise."""
    rng = np.random.default_rng(seed)
    return {
        "observation/image": rng.integers(0, 256, (224, 224, 3), np.uint8),
        "observation/wrist_image": rng.integers(0, 256, (224, 224, 3), np.uint8),
        "observation/state": rng.standard_normal(8),
        "prompt": "pick up the alphabet soup and place it in the basket",
        "seed": seed,
        **fields,
    }


PLAIN = observation(0)
CAPTURED = observation(0, collect_latents=True, episode={"id": "benchmark"})


def write_mid(folder: Path) -> Path:
    """The mid-size model as a checkpoint on disk."""
    robot = Libero()
    config = MID.with_cameras(*robot.spec.cameras)
    return save_checkpoint(
        folder / "mid",
        init_params(config),
        config,
        Sidecars(
            norm_stats=unit_norm_stats(robot.spec.state_dim, robot.spec.action_dim),
            asset_id="libero",
            record=Record(robot="libero"),
            tokenizer=TOKENIZER_PATH,
        ),
    )


def disk_rate(folder: Path, size: int, files: int = 12) -> float:
    """Bytes per second of plain synced writes, one after the other; the median over files."""
    content = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    seconds = []
    for number in range(files):
        begun = time.perf_counter()
        replace_file(folder / f"probe{number}", content.data)
        seconds.append(time.perf_counter() - begun)
    for number in range(files):
        (folder / f"probe{number}").unlink()
    return size / statistics.median(seconds)


def drained(ask: Ask) -> None:
    """Waits until nothing is on its way to disk."""
    while ask({"request": "status"})["pending"]:
        time.sleep(0.02)


def timed(ask: Ask, message: dict[str, Any], period: float) -> float:
    """Seconds of one request, which takes `period` at least with the pause after it."""
    begun = time.perf_counter()
    ask(message)
    seconds = time.perf_counter() - begun
    time.sleep(max(0.0, period - seconds))
    return seconds


def stride_one(served: Served, ask: Ask, rounds: int, frames: int, period: float) -> Results:
    """Latency with capture over latency without, then more captured frames; memory all the while."""
    for _ in range(3):
        ask(PLAIN)
    before = served.memory()
    most = dict(before)
    captured, ratios, seconds = 0, [], {"plain": [], "captured": []}

    def watch() -> None:
        for kind, value in served.memory().items():
            most[kind] = max(most[kind], value)

    for number in range(rounds):
        medians = {}
        # first one, then the other: what one leaves behind in caches and clocks shall not favour either
        for kind in ("plain", "captured") if number % 2 else ("captured", "plain"):
            message = PLAIN if kind == "plain" else CAPTURED
            drained(ask)
            block = [timed(ask, message, period) for _ in range(BLOCK)][1:]
            seconds[kind] += block
            medians[kind] = statistics.median(block)
            captured += BLOCK * (kind == "captured")
            watch()
        ratios.append(medians["captured"] / medians["plain"])
    while captured < frames:
        timed(ask, CAPTURED, period)
        captured += 1
        if captured % 5 == 0:
            watch()
    receipt = ask({"request": "end_episode", "episode": "benchmark"})
    if (receipt["status"], receipt["frames"], receipt["dropped"]) != ("sealed", captured, 0):
        raise SystemExit(f"not every frame was stored: {receipt}")
    watch()
    return {
        "capture_over_plain": statistics.median(ratios),
        "capture_over_plain_rounds": ratios,
        "ms_plain": 1e3 * statistics.median(seconds["plain"]),
        "ms_captured": 1e3 * statistics.median(seconds["captured"]),
        "frames_captured": captured,
        **{f"{kind}_before": value for kind, value in before.items()},
        **{f"{kind}_grown": most[kind] - value for kind, value in before.items()},
    }


def concurrently(asks: list[Ask], call: Callable[[Ask], Any]) -> tuple[float, list[Any]]:
    """Seconds until every client is done, and what each got."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(len(asks)) as pool:
        results = list(pool.map(call, asks))
    return time.perf_counter() - begun, results


def throughput(asks: list[Ask], rounds: int, each: int) -> Results:
    """Requests per second of eight clients over those of one that sends as many."""
    together, alone, sizes = [], [], []
    for _ in range(rounds):
        seconds, replies = concurrently(asks, lambda ask: [ask(PLAIN)["policy_timing"]["batch"] for _ in range(each)])
        together.append(seconds)
        sizes += [size for reply in replies for size in reply]
        begun = time.perf_counter()
        for _ in range(CLIENTS * each):
            asks[0](PLAIN)
        alone.append(time.perf_counter() - begun)
    requests = CLIENTS * each
    return {
        "throughput_ratio": statistics.median(b / a for a, b in zip(together, alone, strict=True)),
        "throughput_ratios": [b / a for a, b in zip(together, alone, strict=True)],
        "per_second_eight_clients": requests / statistics.median(together),
        "per_second_one_client": requests / statistics.median(alone),
        "mean_batch": statistics.mean(sizes),
    }


def by_clients(served: Served, each: int) -> list[Results]:
    """So many clients at once, each sending `each` requests one after the other, plain and captured."""
    rows = []
    for count in (1, 4, 16):
        for captured in (False, True):
            with contextlib.ExitStack() as stack:
                asks = [stack.enter_context(served.client()) for _ in range(count)]
                messages = [
                    observation(n, collect_latents=True, episode={"id": f"clients-{count}-{n}"})
                    if captured
                    else observation(n)
                    for n in range(count)
                ]

                def client(n: int, asks: list[Ask] = asks, messages: list[Results] = messages) -> list[float]:
                    taken = []
                    for _ in range(each):
                        begun = time.perf_counter()
                        asks[n](messages[n])
                        taken.append(time.perf_counter() - begun)
                    return taken

                with ThreadPoolExecutor(count) as pool:
                    list(pool.map(client, range(count)))  # whatever batches come about are compiled now
                    begun = time.perf_counter()
                    latencies = np.concatenate(list(pool.map(client, range(count))))
                    seconds = time.perf_counter() - begun
                if captured:
                    for n in range(count):
                        asks[n]({"request": "end_episode", "episode": f"clients-{count}-{n}"})
            rows.append(
                {
                    "clients": count,
                    "captured": captured,
                    "ms_p50": float(np.quantile(latencies, 0.5)) * 1e3,
                    "ms_p99": float(np.quantile(latencies, 0.99)) * 1e3,
                    "per_second": count * each / seconds,
                }
            )
    return rows


def measure(size: str, checkpoint: str, folder: Path, frames: int, rounds: int) -> Results:
    """Everything about one server."""
    folder.mkdir()
    options = ("--store", str(folder / "runs"), "--queue-bytes", QUEUE[size], "--seed", "0", "--warm-up", "all")
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serving(checkpoint, folder, *options))
        with LoopProbe(served) as compiling:
            print(f"{size}: the server compiles", file=sys.stderr)
            served.wait_ready()
        asks = [stack.enter_context(served.client()) for _ in range(CLIENTS)]
        captured = asks[0](CAPTURED | {"episode": {"id": "warm-up"}})["latents"]["bytes"]
        asks[0]({"request": "end_episode", "episode": "warm-up"})
        rate = disk_rate(folder, captured)
        period = 2 * captured / rate
        results: Results = {
            "frame_bytes": captured,
            "disk_bytes_per_s": rate,
            "seconds_a_request_at_least": period,
        }
        print(f"{size}: latency and memory, {frames} frames", file=sys.stderr)
        results |= stride_one(served, asks[0], rounds, frames, period)
        results["writer_over_disk_rate"] = captured / max(period, results["ms_captured"] / 1e3) / rate
        print(f"{size}: throughput, {rounds} rounds", file=sys.stderr)
        with LoopProbe(served) as busy:
            results |= throughput(asks, max(3, rounds // 2), 2)
        print(f"{size}: one, four and sixteen clients", file=sys.stderr)
        results["by_clients"] = by_clients(served, 5 if frames < 100 else 20)
        results["loop_ms_compiling"], results["loop_ms_serving"] = compiling.milliseconds(), busy.milliseconds()
        return results


def show(size: str, results: Results, frames_bound: float, least: float) -> None:
    """The table of one server; a bound for all but the tiny policy."""
    print(f"{size}: {results['ms_plain']:.1f} ms plain, {results['ms_captured']:.1f} ms captured, "
          f"{results['frames_captured']} frames of {results['frame_bytes'] / 1e6:.1f} MB at "
          f"{results['writer_over_disk_rate']:.2f} of the disk's {results['disk_bytes_per_s'] / 1e6:.0f} MB/s")  # fmt: skip
    for what, value, bound, held in (
        ("latency captured over plain", results["capture_over_plain"], "<= 1.10", results["capture_over_plain"] <= 1.10),
        ("memory grown over queue + 256 MB", results["pss_grown"] / frames_bound, "<= 1",
         results["pss_grown"] <= frames_bound),
        (f"{CLIENTS} clients over one by one", results["throughput_ratio"], f">= {least:g}",
         results["throughput_ratio"] >= least),
    ):  # fmt: skip
        said = "" if size == "tiny" else f"   {bound:<8} {verdict(held)}"
        print(f"  {what:<34} {value:8.3f}{said}")
    for row in results["by_clients"]:
        what = f"{row['clients']} clients, {'captured' if row['captured'] else 'plain'}"
        print(
            f"  {what:<34} p50 {row['ms_p50']:7.2f}   p99 {row['ms_p99']:7.2f} ms   {row['per_second']:7.1f} requests/s"
        )
    for phase in ("compiling", "serving"):
        for kind, numbers in results[f"loop_ms_{phase}"].items():
            print(f"  {kind + ' while ' + phase:<34} p50 {numbers['p50']:7.2f}   p99 {numbers['p99']:7.2f} ms")


def main() -> None:
    """Command line."""
    parser = options_of(__doc__)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = (
        "false"  # this process only asks; the server needs the device's memory
    )
    parser.add_argument("--size", choices=("tiny", "mid", "full"), default=usual_size())
    parser.add_argument("--frames", type=int, default=500, help="captured, at least")
    parser.add_argument("--rounds", type=int, default=8, help="of captured and plain blocks")
    parser.add_argument("--quick", action="store_true", help="60 frames, 4 rounds")
    parser.add_argument("--folder", type=Path, help="where to write (a real disk); a temporary folder unless given")
    args = parser.parse_args()
    frames, rounds = (60, 4) if args.quick else (args.frames, args.rounds)
    config = {"tiny": TINY, "mid": MID.with_cameras(*Libero().spec.cameras), "full": full_size()}[args.size]
    results: Results = {"load_average_before": os.getloadavg()}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        checkpoints = {"tiny": "tiny"} if args.size != "full" else {}
        if args.size != "tiny":
            checkpoints[args.size] = str(write_mid(folder)) if args.size == "mid" else FULL
        for size, checkpoint in checkpoints.items():
            results[size] = measure(size, checkpoint, folder / f"{size}-server", frames, rounds)
            show(size, results[size], QUEUE_BYTES[size] + SLACK, 3.0 if args.size == "full" else 1.0)
    results |= {"load_average_after": os.getloadavg(), "queue_bytes": QUEUE_BYTES, "block": BLOCK, "clients": CLIENTS}
    described = {args.size: dataclasses.asdict(config), "tiny": dataclasses.asdict(TINY)}
    report("serving", described, results, args.out, device())


if __name__ == "__main__":
    main()

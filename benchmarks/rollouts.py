"""Rollouts: environment steps a second of our workers over LIBERO's plain loop, and the memory of a worker.

A server of fixed actions answers at once, so that simulation is what is measured. The plain loop is
what LIBERO's users write: one `OffScreenRenderEnv` at 256 pixels that draws both cameras at every step and is reset between
episodes, with the same actions and no server at all. All of them take turns in this run.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import memory_of, options_of, report, verdict
from vlascope_client.codec import pack, unpack
from vlascope_sim.assets import resolve_assets
from vlascope_sim.environment import DUMMY_ACTION, SETTLE_STEPS, load_task, suite_tasks
from vlascope_sim.rollout.campaign import Campaign, EpisodeKey, new_campaign_id
from vlascope_sim.rollout.episode import AssetsUsed
from vlascope_sim.rollout.spawned import SpawnedWorkers
from vlascope_sim.rollout.worker import WorkerSetup
from vlascope_sim.rollout.workers import Finished, Job, Lost, Refused
from websockets.sync.server import Server, ServerConnection, serve

HORIZON = 10
METADATA: dict[str, Any] = {
    "protocol": 1, "server": "fixed actions", "checkpoint": "none", "model": "pi0", "fingerprint": "0", "robot": "libero",
    "cameras": {}, "image_size": 224, "state_dim": 8, "action_dim": 7, "action_horizon": HORIZON,
    "gripper": "-1 opens, +1 closes", "denoise_steps": 1, "noise_shape": [HORIZON, 7], "default_prompt": None,
    "deterministic": True, "trained_on": {}, "limits": {},
    "capture": {
        "run": None, "experts": [], "components": [], "layers": 0, "denoise_steps": 0, "spans": {}, "default_spec": {},
        "frame_bytes": 0,
    },
}  # fmt: skip


def chunk(seed: int) -> np.ndarray:
    """Small motions, float32 [HORIZON, 7]."""
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (HORIZON, 7)).astype(np.float32)


def answer(connection: ServerConnection) -> None:
    """A policy that looks at nothing."""
    connection.send(pack(METADATA))
    for message in connection:
        connection.send(pack({"actions": chunk(unpack(message)["seed"])}))  # pyright: ignore[reportArgumentType]


def plain_loop(channel: Any, assets: AssetsUsed, task_id: int) -> None:
    """A process with LIBERO as it ships: told how many episodes of how many steps, it says how long they took."""
    from vlascope_sim.environment.package import use_assets

    use_assets(assets.folder)
    from libero.libero.envs import OffScreenRenderEnv

    task = load_task("libero_object", task_id)
    environment = OffScreenRenderEnv(bddl_file_name=str(task.bddl_file), camera_heights=256, camera_widths=256)
    environment.seed(7)

    def episode(number: int, steps: int) -> None:
        environment.reset()
        environment.set_init_state(task.init_state(number))
        for _ in range(SETTLE_STEPS):
            environment.step(list(DUMMY_ACTION))
        for step in range(steps):
            if step % 5 == 0:
                actions = chunk(1000 * number + step)
            environment.step(actions[step % 5])

    episode(0, 5)
    channel.send("ready")
    while (order := channel.recv()) is not None:
        start = time.perf_counter()
        for number in range(order[0]):
            episode(number, order[1])
        channel.send((time.perf_counter() - start, memory_of(os.getpid())["pss"]))
    os._exit(0)


class OurWorkers:
    """Worker processes with their scenes built."""

    def __init__(self, url: str, assets: AssetsUsed, output: Path, workers: int, render: Any, steps: int, task: int):
        campaign = Campaign(
            id=new_campaign_id(),
            servers=(url,), suite="libero_object", tasks=(task,), episodes=(0,), max_steps=steps, render=render,
            workers=workers,
        )  # fmt: skip
        (output / "videos").mkdir(parents=True)
        setup = WorkerSetup(campaign, assets, output, url, None, 40)
        self._workers, self._count, self._task = SpawnedWorkers([setup] * workers, hang_seconds=120), workers, task
        self._number = 0
        self.run(workers)

    def run(self, episodes: int) -> float:
        """Seconds that so many episodes take."""
        start, waiting, running = time.perf_counter(), episodes, 0
        while waiting or running:
            while waiting and self._workers.idle():
                self._workers.submit(Job(EpisodeKey(self._task, self._number), 1))
                self._number, waiting, running = self._number + 1, waiting - 1, running + 1
            for event in self._workers.poll(0.1):
                if isinstance(event, Lost | Refused):
                    raise SystemExit(event.reason)
                running -= isinstance(event, Finished)
        return time.perf_counter() - start

    def pss(self) -> int:
        """Bytes of the largest worker."""
        return max(memory_of(slot.process.pid)["pss"] for slot in self._workers._slots)

    def close(self) -> None:
        """Ends the processes."""
        self._workers.close()


def main() -> None:
    """Prints a table and one JSON line."""
    parser = options_of(__doc__)
    parser.add_argument("--episodes", type=int, default=2, help="a round, for each worker")
    parser.add_argument("--steps", type=int, default=100, help="an episode")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", type=int, default=0, choices=range(len(suite_tasks("libero_object"))))
    options = parser.parse_args()
    found = resolve_assets()
    assets = AssetsUsed(found.path, found.kind, found.hash)

    server: Server = serve(answer, "127.0.0.1", 0, max_size=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    channel, theirs = context.Pipe()
    plain = context.Process(target=plain_loop, args=(theirs, assets, options.task), daemon=True)
    plain.start()
    channel.recv()

    kinds = {"full, 1 worker": (1, "full"), "fast, 1 worker": (1, "fast"), "fast, 2 workers": (2, "fast")}
    rates: dict[str, list[float]] = {"plain": [], **{name: [] for name in kinds}}
    with tempfile.TemporaryDirectory() as folder:
        ours = {
            name: OurWorkers(url, assets, Path(folder) / name, workers, render, options.steps, options.task)
            for name, (workers, render) in kinds.items()
        }
        plain_pss = 0
        for _ in range(options.rounds):
            channel.send((options.episodes, options.steps))
            seconds, plain_pss = channel.recv()
            rates["plain"].append(options.episodes * options.steps / seconds)
            for name, (workers, _) in kinds.items():
                episodes = options.episodes * workers
                rates[name].append(episodes * options.steps / ours[name].run(episodes))
        memory = {name: workers.pss() for name, workers in ours.items()}
        for workers in ours.values():
            workers.close()
    channel.send(None)
    plain.join()
    server.shutdown()

    ratios = {name: [r / p for r, p in zip(rates[name], rates["plain"], strict=True)] for name in kinds}
    print(f"{'plain loop':<16} {statistics.median(rates['plain']):6.1f} steps/s {plain_pss / 1e6:14.0f} MB")
    for name in kinds:
        rate, ratio = statistics.median(rates[name]), statistics.median(ratios[name])
        print(f"{name:<16} {rate:6.1f} steps/s {ratio:5.2f} x {memory[name] / 1e6:6.0f} MB a worker")
    ratio, size = statistics.median(ratios["fast, 1 worker"]), memory["fast, 1 worker"] / 1e6
    print(f"fast, 1 worker over the plain loop: {ratio:.2f} (>= 2.5: {verdict(ratio >= 2.5)})")
    print(f"memory of a worker: {size:.0f} MB (<= 700: {verdict(size <= 700)})")
    results = {
        "steps_per_s": rates,
        "ratios": ratios,
        "pss_bytes": {"plain": plain_pss, **memory},
        "assets": assets.kind,
    }
    report("rollouts", vars(options), results, options.out)


if __name__ == "__main__":
    main()

"""Small runs in which we decide which layer and denoise step know the task. Knows nothing of any test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from vlascope_latents import Blocks, CaptureSpec, ModelLayout, Span, flow_components, plan_capture, transformer
from vlascope_latents.store import LatentStore, RunWriter

VLM = transformer(
    "vlm", Blocks(3, 24, 32, 2, 1, 8), (Span("image/base", 0, 4), Span("image/wrist", 4, 8), Span("text", 8, 14)),
)  # fmt: skip
ACTION = transformer(
    "action", Blocks(3, 16, 24, 2, 1, 8), (Span("state", 0, 1), Span("action", 1, 4)), loop="denoise", steps=4,
    sees=(VLM,), outputs=("action",), extra=flow_components(3, 2),
)  # fmt: skip
LAYOUT = ModelLayout((VLM, ACTION))
INSTRUCTIONS = ("open the drawer", "turn on the stove", "put the bowl on the plate", "push the plate to the front",
                "put the wine bottle on the rack", "pick up the black bowl")  # fmt: skip
SPEC = CaptureSpec(dtype="float32")


@dataclasses.dataclass(frozen=True)
class Moment:
    """Which frame is being filled."""

    task: int
    episode: int
    timestep: int


Fill = Callable[[str, np.ndarray, Moment], None]
"""Changes noise in place: the tensor's path, its float32 array, the moment."""


def direction(*seed: int, width: int) -> np.ndarray:
    """A fixed random direction of length about sqrt(width)."""
    return np.random.default_rng(seed).standard_normal(width).astype(np.float32)


def prompt_mask(task: int) -> np.ndarray:
    """Prompts are of different lengths: 2 to 5 of 6 tokens."""
    return np.arange(6) < 2 + task % 4


def make_run(
    root: Path, fill: Fill | None = None, *, tasks: int = 4, episodes: int = 6, timesteps: tuple[int, ...] = (0, 10),
    spec: CaptureSpec = SPEC, masks: bool = True, fingerprint: str = "f00d", noise: float = 1.0,
    metadata: Callable[[int, int], dict] = lambda task, episode: {}, statuses: Callable[[int, int], str] = lambda *_: "sealed",
    suite: str = "libero_goal", campaign: str = "", values: Callable[[Moment], dict] = lambda moment: {}, seed: int = 0,
    layout: ModelLayout = LAYOUT,
) -> LatentStore:  # fmt: skip
    """Writes a run of noise that `fill` changes, and opens the folder of runs."""
    plan = plan_capture(spec, layout)
    with RunWriter.create(root, "tiny", layout, {"fingerprint": fingerprint}) as run:
        for task in range(tasks):
            for number in range(episodes):
                named = {"suite": suite, "task_id": task, "task_name": f"task_{task}", "episode_index": number}
                named |= dict.fromkeys(("instruction", "task_instruction"), INSTRUCTIONS[task]) | metadata(task, number)
                name = f"{suite}-task{task}-ep{number}"
                writer = run.open_episode(f"{campaign}+{name}" if campaign else name, named, plan)
                for timestep in timesteps:
                    rng = np.random.default_rng([task, number, timestep, seed])
                    tensors = {}
                    for tensor in plan.tensors:
                        array = noise * rng.standard_normal(tensor.shape).astype(np.float32)
                        if fill is not None:
                            fill(tensor.path, array, Moment(task, number, timestep))
                        tensors[tensor.path] = array
                    stored = {"prompt_mask": prompt_mask(task)} if masks else {}
                    stored |= values(Moment(task, number, timestep))
                    writer.append(tensors, timestep=timestep, values=stored)
                if statuses(task, number) == "sealed":
                    writer.seal(success=number % 2 == 0, total_steps=max(timesteps) + 1)
                else:
                    writer.interrupt()
    return LatentStore(root)


def task_at(layer: int, step: int) -> Fill:
    """The vlm and the action expert know the task at one layer (and denoise step) alone."""

    def fill(path: str, array: np.ndarray, moment: Moment) -> None:
        if path == "vlm/hidden_states":
            array[layer] += 2 * direction(1, moment.task, width=array.shape[-1])
        elif path == "action/hidden_states":
            array[step, layer] += 2 * direction(2, moment.task, width=array.shape[-1])

    return fill

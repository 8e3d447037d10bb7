"""What probing every layer and denoise step costs over one probe of 100 epochs in the reference's form.

A synthetic run of full-size widths (18 layers, 10 denoise steps; 2048 and 1024 wide), captured with the mean over all tokens,
one frame an episode: the reference's own question, at one rollout step. Both sides read their features from the store and
answer test episodes; the sweep also chooses penalties and, where it is whole, compares with 199 permuted labellings. Ratios
are of things that took turns in this run.
"""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does; both sides run with it

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import LAYOUT, Results, options_of, report, verdict
from models import device, interleaved, ratio
from vlascope_analysis.analyses.sweep.compute import Wanted, sweep
from vlascope_analysis.data.episodes import Numbered, choose_episodes
from vlascope_analysis.data.features import Slice, load_features
from vlascope_analysis.data.labels import instruction_labels
from vlascope_analysis.options import EpisodeQuery, EvaluationConfig, FeatureOptions
from vlascope_analysis.statistics.evaluation import Design
from vlascope_latents import CaptureSpec, plan_capture
from vlascope_latents.store import LatentStore, RunWriter

PLAN = plan_capture(CaptureSpec(spans=("all",), reduction="mean"), LAYOUT)
TASKS, WIDTH = 10, 512
Params = dict[str, jax.Array]
WHAT = FeatureOptions(rollout_step=(10,))
KNOWING = (5, 7)
"""The layer and denoise step that carry the task; the vlm carries it at the layer."""


def encode(texts: Sequence[str]) -> np.ndarray:
    """Label embeddings as wide as t5-small's; which text they stand for does not change the time."""
    return np.random.default_rng(0).standard_normal((len(texts), WIDTH)).astype(np.float32)


def write_run(root: Path, episodes: int) -> LatentStore:
    """Noise, and a direction a task at `KNOWING`."""
    rng = np.random.default_rng(1)
    layer, step = KNOWING
    directions = {path: rng.standard_normal((TASKS, width)) for path, width in (("vlm", 2048), ("action", 1024))}
    with RunWriter.create(root, "bench", LAYOUT, {"fingerprint": "bench"}) as run:
        for number in range(episodes):
            task = number % TASKS
            tensors = {t.path: rng.standard_normal(t.shape, np.float32) for t in PLAN.tensors}
            tensors["vlm/hidden_states"][layer] += 0.5 * directions["vlm"][task]
            tensors["action/hidden_states"][step, layer] += 0.5 * directions["action"][task]
            named = {"suite": "bench", "task_id": task, "instruction": f"do {task}", "episode_index": number // TASKS}
            episode = run.open_episode(f"e{number}", named, PLAN)
            episode.append(tensors, timestep=10, values={"prompt_mask": np.ones(48, bool)})
            episode.seal(success=True, total_steps=11)
    return LatentStore(root)


def reference_form(store: LatentStore, episodes: Sequence[Numbered], what: Slice, epochs: int) -> float:
    """One probe as the reference trains it: a jitted step a batch of 32, called from a Python loop; returns its accuracy.

    Dense layer, Adam at 0.001, cosine loss, 100 epochs, accuracy and cosine similarity of each batch. Unlike the reference it
    tests on held-out episodes, those of the sweep's split.
    """
    features = load_features(store, episodes, what, WHAT.timesteps)
    labels = instruction_labels(features.frames, encode)
    design = Design.of(features.frames, labels, EvaluationConfig(folds=1, permutations=0))
    test = design.assignments[0][0].test[design.episodes.of_frame]
    train = np.flatnonzero(~test)
    x, y = features.array[0, 0], labels.embeddings[labels.index]
    params = {
        "kernel": jax.nn.initializers.lecun_normal()(jax.random.key(0), (x.shape[1], WIDTH)),
        "bias": jnp.zeros(WIDTH),
    }
    adam = optax.adam(1e-3)

    def loss_of(params: Params, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = x @ params["kernel"] + params["bias"]
        cosine = (out * y).sum(-1) / (jnp.linalg.norm(out, axis=-1) * jnp.linalg.norm(y, axis=-1) + 1e-8)
        return 1 - cosine.mean(), cosine

    state = adam.init(params)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(train)
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            params, state, _ = _step(loss_of, adam, params, state, x[batch], y[batch])
    out = x[test] @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    return float(((out @ labels.embeddings.T).argmax(1) == labels.index[test]).mean())


_COMPILED: Results = {}


def _step(
    loss_of: Callable[..., Any],
    adam: optax.GradientTransformation,
    params: Params,
    state: Any,
    x: np.ndarray,
    y: np.ndarray,
) -> tuple[Params, Any, dict[str, jax.Array]]:
    if "step" not in _COMPILED:  # the same program in every round

        def step(params: Params, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any, dict[str, jax.Array]]:
            (loss, cosine), gradient = jax.value_and_grad(loss_of, has_aux=True)(params, x, y)
            updates, state = adam.update(gradient, state)
            return optax.apply_updates(params, updates), state, {"loss": loss, "cosine": cosine.mean()}

        _COMPILED["step"] = jax.jit(step)
    return _COMPILED["step"](params, state, x, y)


def main() -> None:
    """Writes the run, times both, prints a table and one JSON line."""
    parser = options_of(__doc__)
    parser.add_argument("--folder", type=Path, help="where to write the run; a temporary folder unless given")
    parser.add_argument("--episodes", type=int, default=500, help="of one frame each, in ten tasks")
    parser.add_argument("--epochs", type=int, default=100, help="of the reference's probe")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    widths = ", ".join(str(expert.width) for expert in LAYOUT.experts)
    print(f"writes {options.episodes * PLAN.nbytes / 1e9:.2f} GB; full width: {widths}")
    evaluation = EvaluationConfig(folds=1)
    found: Results = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        store = write_run(Path(name), options.episodes)
        episodes, _ = choose_episodes(store, EpisodeQuery())
        layer, step = KNOWING

        def ours() -> None:
            # what the reference's probe says of one cell: no permutations
            bare = EvaluationConfig(folds=1, permutations=0)
            found["cells"] = len(
                sweep(
                    store,
                    episodes,
                    Wanted(["action"], WHAT),
                    bare,
                    functools.partial(instruction_labels, encode=encode),
                ).tables["cells"]
            )

        def ours_whole() -> None:
            found["table"] = sweep(
                store,
                episodes,
                Wanted(["vlm", "action"], WHAT),
                evaluation,
                functools.partial(instruction_labels, encode=encode),
            ).tables["cells"]

        def theirs_vlm() -> None:
            found["vlm"] = reference_form(store, episodes, Slice("vlm", layers=(layer,)), options.epochs)

        def theirs_action() -> None:
            what = Slice("action", layers=(layer,), denoise_steps=(step,))
            found["action"] = reference_form(store, episodes, what, options.epochs)

        calls = {"sweep": ours, "sweep_whole": ours_whole, "probe_vlm": theirs_vlm, "probe_action": theirs_action}
        first = {}
        for what, call in calls.items():
            start = time.perf_counter()
            call()
            first[what] = time.perf_counter() - start
        seconds = interleaved(calls, options.rounds)
    table = found["table"].set_index(["expert", "layer", "denoise_step"])
    knowing = (table["accuracy"] > 0.9) & (table["p_value_best"] < 0.05)
    cells = [(expert, int(layer), None if step is table.index.levels[2].dtype.na_value else int(step))
             for expert, layer, step in table.index[knowing]]  # fmt: skip
    if cells != [("vlm", KNOWING[0], None), ("action", *KNOWING)]:
        raise SystemExit(f"the sweep found {cells}, not the cells that carry the task")
    ratios = {f"over_{name}": ratio(seconds["sweep"], seconds[name]) for name in ("probe_vlm", "probe_action")}
    print(f"{'':<40} {'seconds':>8} {'the first time':>15}")
    for what, text in (
        ("sweep", f"action expert, {found['cells']} cells"),
        ("sweep_whole", f"both experts, {len(table)} cells, {evaluation.permutations} permutations"),
        ("probe_vlm", "one probe, vlm (2048 wide)"),
        ("probe_action", "one probe, action expert (1024 wide)"),
    ):
        print(f"{text:<40} {statistics.median(seconds[what]):8.2f} {first[what]:15.2f}")
    held = verdict(ratios["over_probe_vlm"] <= 1)
    print(f"sweep over one probe of the vlm {ratios['over_probe_vlm']:.2f}   <= 1   {held}")
    print(f"sweep over one probe of the action expert {ratios['over_probe_action']:.2f}")
    results = {
        **ratios,
        "whole_over_probe_vlm": ratio(seconds["sweep_whole"], seconds["probe_vlm"]),
        "cells": {"sweep": found["cells"], "sweep_whole": len(table)},
        "seconds": {name: statistics.median(own) for name, own in seconds.items()},
        "first_seconds": first,
        "accuracy_reference": {name: found[name] for name in ("vlm", "action")},
    }
    report("sweep", vars(options), results, options.out, device())


if __name__ == "__main__":
    main()

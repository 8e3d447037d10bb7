"""Features of which it is known what they hold: noise of episodes, initial states, scenes and frames, and instructions planted
in chosen cells.

The designs are those in which a probe's statistics are easily wrong: unequal lengths and classes, shared initial states and
scenes, scenes that show which objects they hold, drift in time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from vlascope_analysis.data.labels import Labels
from vlascope_analysis.options import EvaluationConfig
from vlascope_analysis.probes.closed_form import closed_form
from vlascope_analysis.statistics.evaluation import Design, score_row
from vlascope_analysis.statistics.permutation import p_value_of_best

DIMS = 24
"""Features a frame has."""


@dataclasses.dataclass(frozen=True)
class Effects:
    """Standard deviations of what moves features whatever was told; `objects` is that of each object in a scene."""

    episode: float = 1.0
    init_state: float = 0.0
    scene: float = 0.0
    objects: float = 0.0
    frame: float = 0.5
    drift: float = 0.0


@dataclasses.dataclass(frozen=True)
class Simulated:
    """Episodes of a design.

    Attributes:
        label: int [U] the instruction of each episode.
        length: int [U] its frames.
        init_state: int [U] the initial state that it begins from.
        effects: of the features.
        scene: int [U] the scene of that initial state; None where scenes are not known.
    """

    label: np.ndarray
    length: np.ndarray
    init_state: np.ndarray
    effects: Effects
    scene: np.ndarray | None = None

    @classmethod
    def of(cls, label: np.ndarray, length: np.ndarray | int, init_state: np.ndarray | None = None,
           effects: Effects = Effects(), scene: np.ndarray | None = None) -> Simulated:  # fmt: skip
        """A design; an initial state an episode unless told."""
        init_state = np.arange(len(label)) if init_state is None else init_state
        return cls(label, np.broadcast_to(length, len(label)), init_state, effects, scene)

    @property
    def of_frame(self) -> np.ndarray:
        """The episode of each frame, int [N]."""
        return np.repeat(np.arange(len(self.label)), self.length)

    @property
    def timestep(self) -> np.ndarray:
        """The timestep of each frame, int [N]."""
        return np.concatenate([np.arange(n) for n in self.length])

    def common(self) -> Simulated:
        """The design with the timesteps alone that all episodes have, as `--frames common` takes them."""
        return dataclasses.replace(self, length=np.full_like(self.length, self.length.min()))

    def frames(self) -> pd.DataFrame:
        """The columns of `Features.frames` that statistics read."""
        names = np.array([f"episode {number}" for number in range(len(self.label))])
        return pd.DataFrame(
            {
                "run": "simulated",
                "episode": names[self.of_frame],
                "scene": None if self.scene is None else [f"scene {number}" for number in self.scene[self.of_frame]],
                "init_state": self.init_state[self.of_frame],
                "timestep": self.timestep,
            }
        )

    def labels(self, embeddings: np.ndarray | None = None) -> Labels:
        """The labels of its frames; one-hot embeddings unless told."""
        count = int(self.label.max()) + 1
        vectors = np.eye(count, dtype=np.float32) if embeddings is None else embeddings
        texts = tuple(f"instruction {number}" for number in range(count))
        return Labels(texts, (None,) * count, vectors, self.label[self.of_frame])

    def features(
        self, rng: np.random.Generator, cells: int, gain: np.ndarray | float = 0.0, directions: np.ndarray | None = None
    ) -> np.ndarray:
        """float32 [cells, N, DIMS]; half of each random effect is common to all cells, as it is to layers of one model.

        Args:
            rng: of everything.
            cells: how many.
            gain: [cells] how strongly each cell knows the instruction.
            directions: float [cells, C, DIMS] what it is told by; random unless given.
        """

        def effect(size: float, count: int) -> np.ndarray:
            return (
                size
                * np.sqrt(0.5)
                * (rng.standard_normal((1, count, DIMS)) + rng.standard_normal((cells, count, DIMS)))
            )

        own, e = self.of_frame, self.effects
        count = int(self.label.max()) + 1
        x = effect(e.episode, len(self.label))[:, own] + e.frame * rng.standard_normal((cells, len(own), DIMS))
        if e.init_state:
            x += effect(e.init_state, int(self.init_state.max()) + 1)[:, self.init_state[own]]
        if self.scene is not None:
            x += effect(e.scene, int(self.scene.max()) + 1)[:, self.scene[own]]
            held = np.zeros((int(self.scene.max()) + 1, count))
            held[self.scene, self.label] = 1
            # a scene shows what it holds, and what may be told is among it
            x += (held @ effect(e.objects, count))[:, self.scene[own]]
        x += e.drift * rng.standard_normal((cells, 1, DIMS)) * self.timestep[:, None] / 4
        if directions is None:
            directions = rng.standard_normal((cells, count, DIMS))
        planted = np.broadcast_to(gain, cells)[:, None, None] * directions[:, self.label[own]]
        return (x + planted).astype(np.float32)


def designs() -> Mapping[str, Simulated]:
    """By name, in which a scene is an initial state, and a layout is what the product calls a scene."""
    five, scenes = np.repeat(np.arange(5), 6), Effects(0.5, 2.0)  # of initial states
    return {
        "balanced": Simulated.of(five, 3),
        "lengths 12 or 2": Simulated.of(five, np.where(five == 0, 12, 2)),
        "lengths 4 to 12": Simulated.of(five, 4 + 2 * five),
        "lengths, drift in time": Simulated.of(five, 4 + 2 * five, effects=Effects(drift=1.0)),
        "counts 20/2/2/2/2": Simulated.of(np.repeat(np.arange(5), [20, 2, 2, 2, 2]), 3),
        "frames alike": Simulated.of(five, 6, effects=Effects(frame=0.05)),
        "scenes shared by instructions": Simulated.of(np.tile(np.arange(5), 8), 3, np.repeat(np.arange(8), 5), scenes),
        "scenes of one instruction": Simulated.of(np.repeat(np.arange(5), 12), 3, np.repeat(np.arange(20), 3), scenes),
        "scenes x instructions x 2": Simulated.of(
            np.tile(np.repeat(np.arange(6), 2), 10), 2, np.repeat(np.arange(10), 12), scenes
        ),
        "scenes of 20 episodes or 1": Simulated.of(
            np.repeat(np.arange(3), 24), 2, np.repeat(np.arange(15), [20, 1, 1, 1, 1] * 3), scenes
        ),
        "few scenes of both, others of one": Simulated.of(
            np.concatenate([np.tile(np.arange(2), 3), np.arange(40) % 2]),
            2,
            np.concatenate([np.repeat(np.arange(3), 2), 3 + np.arange(40)]),
            Effects(0.5, 1.0),
        ),
        "counts 30/2": Simulated.of(np.repeat(np.arange(2), [30, 2]), 3),
        "layouts of 6 of 10 objects": crossed_scenes(states=2),
    }


def crossed_scenes(states: int) -> Simulated:
    """Ten scenes of six out of ten objects, and as many initial states of each: every one is told each object of its scene."""
    rng = np.random.default_rng(5)
    held = [sorted({scene, *rng.permutation(np.delete(np.arange(10), scene))[:5].tolist()}) for scene in range(10)]
    scene = np.repeat(np.arange(10), 6 * states)
    effects = Effects(0.5, 1.0, 1.0, 1.0)
    return Simulated.of(
        np.concatenate([np.tile(own, states) for own in held]), 2, np.repeat(np.arange(10 * states), 6), effects, scene
    )


def tested(design: Simulated, x: np.ndarray, config: EvaluationConfig) -> pd.DataFrame:
    """What the product says of some cells, features [cells, N, DIMS]: one row a cell, with `p_value_best`."""
    evaluated = Design.of(design.frames(), design.labels(), config)
    found = [closed_form(cell, design.of_frame, evaluated).scores for cell in x]
    table = pd.DataFrame([score_row(scores, evaluated) for scores in found])
    observed = np.array([evaluated.means.mean(scores.beaten[0]) for scores in found])
    return table.assign(p_value_best=p_value_of_best(observed, np.stack([scores.null_beaten for scores in found])))


def coverage(design: Simulated, gain: float, sets: int) -> dict[str, Any]:
    """How many 95 % intervals of the accuracy hold the procedure's expected accuracy, over sets that know the
    instruction equally well: `covered`, with the expected `accuracy` and the mean `width`.
    """
    directions = np.random.default_rng(99).standard_normal((1, int(design.label.max()) + 1, DIMS))
    rows = []
    for number in range(sets):
        x = design.features(np.random.default_rng([8, number]), 1, gain, directions)
        rows.append(tested(design, x, EvaluationConfig(permutations=0, seed=number)))
    table = pd.concat(rows)
    low, high = table["accuracy_low"].to_numpy(), table["accuracy_high"].to_numpy()
    truth = float(np.mean(table["accuracy"]))  # cross-validation is unbiased for what it estimates
    covered = share(list((low <= truth) & (truth <= high)))
    return {"covered": covered, "accuracy": truth, "width": float(np.mean(high - low))}


def share(values: list[Any]) -> dict[str, float]:
    """Mean, and the standard error of a share."""
    mean = float(np.mean(values))
    return {"mean": mean, "error": float(np.sqrt(max(mean * (1 - mean), 1 / len(values) / 4) / len(values)))}

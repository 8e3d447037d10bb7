"""What an analysis can be told: frozen values that the code runs on, and that the commands read from their options.

The string below a field is the help of its option. Nothing here imports numpy, pandas or JAX, so that `--help` is quick.
A command makes these values before it can report an error, so they do not check themselves when they are made: `check`
does, and whatever uses them calls it first.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from vlascope_analysis.errors import AnalysisError

Expert = str
"""Whose states: an expert of the policy's layout (of Pi0 `vlm` and `action`) over every captured token, or `text_only`: the vlm
over the tokens of the prompt."""

TEXT_ONLY = "text_only"

Pool = Literal["mean", "last"]
"""`mean` or `last` over the valid tokens."""

FramesOf = Literal["common", "all"]
"""Timesteps that every episode has, or every captured frame."""

SplitBy = Literal["scene", "init_state", "task", "episode"]
"""What no two parts of a split share: whole scenes, initial states (with all episodes that begin from them), whole
instructions, or episodes alone."""

Windows = Literal["timestep", "fraction", "grasp"]
"""How an episode's frames are told apart along time."""

Range = tuple[int, int]
"""First, and one past the last, as in Python's `range`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeQuery:
    """Which episodes to take. Of each id the store gives the last sealed attempt."""

    task_range: Range | None = None
    """Task ids, the end not included: `0 10` is 0 to 9. Every task unless given."""
    episode_range: Range | None = None
    """Episode numbers within each task, the end not included. Every episode unless given."""
    run_name: str | None = None
    """One run of a folder of runs."""
    campaign: str | None = None
    """Episodes of one campaign, by its id, or `none` for those that are part of no campaign; all unless given.
    `vlascope-latents ls` lists campaigns."""
    suite: str | None = None
    """One suite of tasks; needed with --task-range where a run has several."""
    interrupted: bool = False
    """Take episodes too whose client vanished. Sealed ones are taken whether they succeeded or failed."""
    exclude_episodes: tuple[str, ...] = ()
    """Episodes to leave out, by id, as `vlascope-latents ls` shows them."""
    where: str | None = None
    """Episodes of which a condition holds, such as "prompt_mode == 'other' and success": comparisons of what is known of an
    episode (its metadata, `success`, `total_steps`, ...) joined by and, or and not."""
    allow_missing: bool = False
    """Where tasks or episodes of a given range are missing, take the others and warn."""

    def check(self) -> None:
        """Raises AnalysisError where a range is empty; the message names its option."""
        for what, bounds in (("task", self.task_range), ("episode", self.episode_range)):
            if bounds is not None and bounds[0] >= bounds[1]:
                raise AnalysisError(f"--{what}-range {bounds[0]} {bounds[1]}: selects nothing; the end is not included")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Which frames of an episode to take, and what of a frame becomes its features."""

    rollout_step: tuple[int, ...] = ()
    """Environment timesteps (as stored: 0 is the first action of the policy) whose frames to take, one or several; every
    captured frame unless given."""
    frames: FramesOf = "common"
    """`common`: only timesteps that every episode has, since longer episodes of one instruction would tell it by their
    length; `all`: every captured frame."""
    component: str = "hidden_states"
    """What was captured: embedding, hidden_states, post_attn_embedding, attn_output, mlp_output, mlp_activation,
    pre_attn_norm_scales, pre_mlp_norm_scales, attention, k, v, final_hidden, x_t, v_t, or the name that its site has."""
    pool: Pool = "mean"
    """How the valid tokens of a frame become one vector. Padding of the prompt never counts."""

    @property
    def timesteps(self) -> tuple[int, ...] | None:
        """The rollout steps; None for every frame."""
        return self.rollout_step or None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How frames are split into training, validation and test parts."""

    split: SplitBy | None = None
    """What no two parts share. `scene`: whole scenes, which are a task's layout of objects with all its initial states, where
    scenes have several labels each; `init_state`: initial states, with all episodes that begin from them; `task`: whole
    instructions, to ask whether the map reaches those it never saw; `episode`: episodes, as if each had an initial state of
    its own. Unless given, `scene` where six scenes or more have several labels each, else `init_state`."""
    folds: int | None = None
    """Parts that are tested in turn: 3 or more, or 1, which holds out one part. 5 for fewer than 250 episodes (or initial
    states, or scenes), else 1, unless given."""
    test_fraction: float = 0.2
    """Share of episodes (or instructions) to hold out, where there is one fold."""
    validation_fraction: float = 0.2
    """Share of the others that decide when to stop, or how strong the ridge penalty is, where there is one fold; with several,
    another fold does."""
    seed: int = 42
    """Of splits, order of frames and permutations: the same seed gives the same numbers."""

    def check(self) -> None:
        """Raises AnalysisError where a value cannot be used; the message names its option."""
        for name in ("test_fraction", "validation_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise _unusable(self, name, "a share between 0 and 1")
        if self.folds is not None and (self.folds < 1 or self.folds == 2):
            raise _unusable(
                self, "folds", "1, or 3 and more: one fold is tested, another chooses, the others are fitted"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(SplitConfig):
    """How any probe is tested."""

    permutations: int = 199
    """Labellings to compare with, in which labels are permuted over episodes; n of them can show a p-value of 1 / (n + 1) at
    best."""
    confidence: float = 0.95
    """Coverage of the intervals."""

    def check(self) -> None:
        """Raises AnalysisError where a value cannot be used; the message names its option."""
        super().check()
        if self.permutations < 0:
            raise _unusable(self, "permutations", "0 or more")
        if not 0 < self.confidence < 1:
            raise _unusable(self, "confidence", "a share between 0 and 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a linear map is trained."""

    learning_rate: float = 0.001
    """Learning rate of Adam."""
    num_epochs: int = 100
    """Passes over the training frames, at most."""
    batch_size: int = 32
    """Frames in a training step."""
    patience: float = 0.3
    """Epochs without a better validation loss before training stops: below 1 as a share of --num-epochs. The best
    epoch's map is kept."""

    @property
    def patient_epochs(self) -> int:
        """The patience, in epochs."""
        return max(1, round(self.patience * self.num_epochs if self.patience < 1 else self.patience))

    def check(self) -> None:
        """Raises AnalysisError where a value cannot be used; the message names its option."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise _unusable(self, field.name, "more than 0")


def _unusable(options: object, name: str, expected: str) -> AnalysisError:
    return AnalysisError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected {expected}")

"""Options that the probing subcommands share. Knows nothing of any one of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlascope_latents.store import LatentStore

    from vlascope_analysis.episodes import EpisodeQuery, Numbered
    from vlascope_analysis.probe import EvaluationConfig

LogLevel = Literal["debug", "info", "warning", "error"]
"""Names of the levels of logging."""


@dataclasses.dataclass(kw_only=True)
class ProbingOptions:
    """Which frames, which labels, and how to test."""

    store: Annotated[Path, tyro.conf.Positional]
    """A run, or a folder of runs."""
    rollout_step: tuple[int, ...] = ()
    """Environment timesteps (as stored: 0 is the first action of the policy) whose frames to take, one or several; every
    captured frame unless given."""
    task_range: tuple[int, int] | None = None
    """Task ids, the end not included: `0 10` is 0 to 9. Every task unless given."""
    episode_range: tuple[int, int] | None = None
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
    allow_missing: bool = False
    """Where tasks or episodes of a given range are missing, take the others and warn."""
    component: str = "hidden_states"
    """What was captured: hidden_states, post_attn_embedding, mlp_activation, pre_attn_norm_scales, pre_mlp_norm_scales,
    x_t, v_t."""
    pool: Literal["mean", "last"] = "mean"
    """How the valid tokens of a frame become one vector. Padding of the prompt never counts."""
    encoder: str = "minilm"
    """Text encoder of the instructions: `minilm` (all-MiniLM-L6-v2: no torch, no network), or a T5 (`t5-small`, a folder)."""
    split: Literal["episode", "task"] = "episode"
    """What no two parts share: episodes; or `task`: whole instructions, to ask whether the map reaches those it never saw."""
    folds: int | None = None
    """Parts that are tested in turn; 1 holds out one part. 5 for fewer than 250 episodes, else 1, unless given."""
    test_fraction: float = 0.2
    """Share of episodes (or instructions) to hold out, where there is one fold."""
    validation_fraction: float = 0.2
    """Share of the other episodes (or instructions) that decide when to stop, or how strong the ridge penalty is."""
    permutations: int = 20
    """Shuffled labellings of episodes to compare with; n of them can show a p-value of 1 / (n + 1) at best."""
    bootstrap_samples: int = 2000
    """Draws of episodes behind each interval."""
    confidence: float = 0.95
    """Coverage of the intervals."""
    seed: int = 42
    """Of splits, order of frames, permutations and bootstrap: the same seed gives the same numbers."""
    output_dir: Path = Path("results/linear_probing")
    """Folder of results; made where it is missing. Files of the same name are replaced."""
    log_level: LogLevel = "info"
    """How much to log, to stderr."""

    def query(self) -> EpisodeQuery:
        """The episodes that are asked for."""
        from vlascope_analysis.episodes import EpisodeQuery

        return EpisodeQuery(
            self.run_name,
            self.suite,
            self.task_range,
            self.episode_range,
            self.interrupted,
            self.allow_missing,
            self.campaign,
        )

    def evaluation(self) -> EvaluationConfig:
        """How to test."""
        from vlascope_analysis.probe import EvaluationConfig

        return EvaluationConfig(
            self.split, self.folds, self.test_fraction, self.validation_fraction, self.permutations,
            self.bootstrap_samples, self.confidence, self.seed,
        )  # fmt: skip

    @property
    def timesteps(self) -> tuple[int, ...] | None:
        """The rollout steps; None for every frame."""
        return self.rollout_step or None

    def step_name(self) -> str:
        """The rollout steps as part of a file's name."""
        steps = self.rollout_step
        if len(steps) > 4:
            return f"step{min(steps)}to{max(steps)}x{len(steps)}"
        return "step" + ("-".join(map(str, steps)) if steps else "all")

    def name_suffix(self) -> str:
        """What else a file's name must say, so that no two settings share one: options that the reference has not."""
        parts = {"component": "hidden_states", "pool": "mean", "encoder": "minilm", "split": "episode"}
        given = [Path(str(getattr(self, name))).name for name, usual in parts.items() if getattr(self, name) != usual]
        # two parts of one run, such as those that a cell is chosen on and tested on, must not replace each other
        ranges = {"tasks": self.task_range, "episodes": self.episode_range}
        given += [f"{name}{first}to{stop}" for name, (first, stop) in ((n, r) for n, r in ranges.items() if r)]
        given += [name for name in (self.suite, self.run_name, self.campaign) if name]
        return "".join(f"_{value}" for value in given)

    def provenance(self, store: LatentStore, episodes: Sequence[Numbered]) -> dict[str, Any]:
        """Configuration and data, as every result carries them."""
        used = {e.episode.run for e in episodes}
        return {
            "config": dataclasses.asdict(self),
            "data": {
                "store": str(store.path.resolve()),
                "runs": [{"name": run.name, "created": run.created, "model": run.model, "versions": run.versions}
                         for run in store.runs if run.name in used],
                "episodes": [{"run": e.episode.run, "campaign": e.episode.campaign, "episode": e.episode.id,
                              "attempt": e.episode.row.attempt, "suite": e.suite, "task_id": e.task,
                              "episode_index": e.number} for e in episodes],
            },
        }  # fmt: skip

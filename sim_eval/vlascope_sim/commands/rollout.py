"""`vlascope-sim rollout`: episodes of a policy, with videos, results and, where asked, captured latents.

Knows nothing of how an episode is run; `campaign_options.py` turns options into a campaign.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

from vlascope_sim.commands.options import LogLevel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """Runs LIBERO episodes against policy servers; what is given overrides the campaign's file."""

    server: tuple[str, ...] = ()
    """Addresses such as ws://localhost:8000; workers spread over several, and go to another where theirs is gone."""
    suite: Literal["libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"] | None = None
    """Suite of tasks."""
    tasks: str | None = None
    """Tasks of the suite, such as 0-9 (inclusive) or 0,3,5; all unless given."""
    episodes: str | None = None
    """Episodes of each task, the same way; episode k starts from initial state k modulo their number. 0-9 unless given."""
    noise_seeds: int | None = None
    """Run every episode so often, each time with other noise."""
    seed: int | None = None
    """From which every other seed follows; 7 unless given."""
    replan_steps: int | None = None
    """Actions of a chunk that are executed before the next inference; 5 unless given."""
    settle_steps: int | None = None
    """Dummy actions before timestep 0; 10 unless given."""
    max_steps: int | None = None
    """Environment steps an episode; the suite's own limit unless given."""
    collect_latents: bool = False
    """Ask the server to keep hidden states."""
    stride: int | None = None
    """Environment steps between captures, a multiple of the replan steps; every inference unless given."""
    capture_spec: Path | None = None
    """What to keep, as a JSON or YAML file; the server's default spec unless given."""
    experts: str | None = None
    """Or of a capture spec: vlm, action or vlm,action."""
    components: str | None = None
    """Of a capture spec: such as hidden_states,v_t."""
    layers: str | None = None
    """Of a capture spec: such as 0-17 (inclusive) or 5,11,17."""
    denoise_steps: str | None = None
    """Of a capture spec: such as 0-9 (inclusive) or 0,9."""
    spans: str | None = None
    """Of a capture spec: such as text,action."""
    reduction: Literal["none", "mean", "last"] | None = None
    """Of a capture spec: within each span."""
    annotations: bool = True
    """Send poses and distances with captured frames."""
    render: Literal["full", "fast"] | None = None
    """`full` draws what robosuite draws (the default), `fast` is four times sooner; recorded with every result."""
    image_size: int | None = None
    """Pixels a side of an image; 256 unless given."""
    assets: Path | None = None
    """Folder of LIBERO's assets; what is found unless given."""
    prompt: str | None = None
    """Text sent in place of every task's instruction."""
    prompt_file: Path | None = None
    """JSON or YAML file of such texts by task number or name."""
    prompt_mode: Literal["task", "blank", "swapped", "other"] | None = None
    """The task's instruction, none, that of the next task in the suite, or `other`: each episode is told to take another object
    of its scene, and success is judged by that (libero_object and libero_goal)."""
    perturb: Literal["none", "move", "shuffle", "both"] | None = None
    """Displace the objects that stand free before timestep 0: `move` each on its own, `shuffle` them, or `both`."""
    move_cm: float | None = None
    """How far an object is moved at most; 5 unless given."""
    label: str | None = None
    """Names the campaign for people: the first part of its id."""
    video: Literal["none", "inferences", "steps"] | None = None
    """Frames of the videos: those that the policy saw (the default, no cost), all, or no videos."""
    save_observations: bool = False
    """Keep what the policy saw, as NPZ files."""
    workers: int | None = None
    """Processes that simulate; 2 unless given."""
    attempts: int | None = None
    """How often an episode is tried where its worker or server is lost; 3 unless given."""
    hang_seconds: float | None = None
    """Without a sign of life, until a worker is replaced; 60 unless given."""
    build_seconds: float | None = None
    """That a worker may take to start and build a scene; 300 unless given."""
    reconnect_seconds: float | None = None
    """How long a lost server is waited for; 300 unless given."""
    campaign: Path | None = None
    """YAML file with any of a campaign's fields, such as the campaign.yaml that lies beside results."""
    output: Path | None = None
    """New folder for results; results/rollouts/<time>-<suite> unless given."""
    resume: Path | None = None
    """Folder of results to continue: runs what is missing. Only servers, workers and patience may be given beside it."""
    retry_errors: bool = False
    """With resume: run episodes that ended as errors again."""
    dry_run: bool = False
    """Check everything, say what it takes, and stop."""
    deterministic_check: bool = False
    """Stop unless the server answers the same request with the same bits."""
    api_key: str | None = None
    """For the server; the environment's VLASCOPE_API_KEY unless given. Never written down."""
    log_level: LogLevel = "info"
    """How much to log, to stderr."""

    def run(self) -> int:
        """Prints the cost, runs, and says where the results lie; 1 where episodes could not be run."""
        from vlascope_sim.commands.campaign_options import campaign_of
        from vlascope_sim.commands.rollout_run import run_rollout

        campaign, output = campaign_of(self)
        return run_rollout(
            campaign,
            output,
            api_key=self.api_key or os.environ.get("VLASCOPE_API_KEY") or None,
            dry_run=self.dry_run,
            deterministic_check=self.deterministic_check,
            retry_errors=self.retry_errors,
        )

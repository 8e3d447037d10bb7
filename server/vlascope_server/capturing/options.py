"""Everything that a person decides about a capture without a robot, as one frozen value. Importing it does not import JAX."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from vlascope_base import VlascopeError
from vlascope_base.options import CommandOptions
from vlascope_base.text import short, why_unkept

from vlascope_server.options import Capture, EpisodeOptions, StoreOptions
from vlascope_server.policies.options import WhichPolicy

_LABEL = r"([A-Za-z0-9][A-Za-z0-9._-]{0,47})?"
MAY_DIFFER = frozenset({"log_level", "resume", "dry_run", "queue_bytes", "min_free", "writers"})
"""Options that a capture may go on with other values of: they change nothing that is stored."""


_LARGEST_BATCH = 4096


class CaptureError(VlascopeError):
    """A capture that cannot begin or go on; one line: what was wrong, which value, what was allowed, what to do."""


def check_prompt(where: str, prompt: str) -> None:
    """Raises `CaptureError` where a policy server would not take an instruction; the message begins with `where`."""
    from vlascope_client.protocol import PROMPT_CHARACTERS  # not wanted by those who ask for help

    if len(prompt) > PROMPT_CHARACTERS:
        raise CaptureError(f"{where}: {len(prompt)} characters; expected at most {PROMPT_CHARACTERS}")
    if why := why_unkept(prompt):
        raise CaptureError(
            f"{where}: {short(prompt)}: expected text that UTF-8 can write, without NUL, {why}; write it in UTF-8"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptureOptions(WhichPolicy, StoreOptions, EpisodeOptions, CommandOptions):
    """A capture without a robot.

    Raises:
        CaptureError: an option is out of its range, or contradicts another; the message begins with its name.
    """

    checkpoint: str = dataclasses.field()  # the default of other commands would be a guess
    """A step folder, its params/, a safetensors file, a URL, or a preset's name; or drawn:SEED with --like."""
    store: Path
    """Folder of runs; a new run is made in it."""
    dataset: Path | None = None
    """Folder of a LeRobot dataset whose frames the policy is shown."""
    observations: Path | None = None
    """Folder of a campaign that ran with `vlascope-sim rollout --save-observations`: the policy is shown what was seen."""
    stride: int | None = None
    """Environment steps between captures, frames of a dataset. Unless given: every frame of a dataset; of a campaign the
    inferences that it captured, or all where it captured none."""
    prompt: str | None = None
    """Tell the policy this in place of what the episodes' own instructions say."""
    noise_seed: int | None = None
    """Seed from which that of each inference follows, with episode and timestep; it becomes the label `seed`. Unless given, a
    campaign's inferences have the seeds that they had, and 0 is that of a dataset."""
    batch_size: int | None = None
    """Observations in one batch, at most 4096 and never more than there are; 8 unless given, and 4 on a CPU. Another size may
    change last bits of what is captured."""
    capture: Capture = None
    """What to keep, as JSON (docs/model.md); unless given what the campaign kept, or hidden states of every layer and token."""
    label: str = ""
    """Names the capture for people: the first part of its campaign's id."""
    resume: Path | None = None
    """A run that was not finished: captures what it lacks. All other options are those that it was begun with; one that would
    change what is stored is refused."""
    dry_run: bool = False
    """Check everything, say how many frames and bytes would be stored, and stop."""

    @property
    def origin_of_seeds(self) -> int | None:
        """From which the seeds of inferences follow: `noise_seed` or its default; None where each has the one that it had."""
        return 0 if self.noise_seed is None and self.dataset is not None else self.noise_seed

    def __post_init__(self):
        """Raises `CaptureError` that names the first option out of its range."""
        if (self.dataset is None) == (self.observations is None):
            found = "found none" if self.dataset is None else "found both"
            raise CaptureError(f"dataset and observations: expected one of --dataset and --observations, {found}")
        for name, value, least in (
            ("stride", self.stride, 1),
            ("batch_size", self.batch_size, 1),
            ("noise_seed", self.noise_seed, 0),
            ("writers", self.writers, 1),
        ):
            if value is not None and value < least:
                raise CaptureError(f"{name}: expected at least {least}, found {value}")
        if not self.checkpoint:
            raise CaptureError("checkpoint: expected a path, a URL or a preset's name, found nothing")
        if self.prompt is not None:
            check_prompt("prompt", self.prompt)
        if self.batch_size is not None and self.batch_size > _LARGEST_BATCH:
            raise CaptureError(f"batch_size: expected at most {_LARGEST_BATCH}, found {self.batch_size}")
        if self.noise_seed is not None and self.noise_seed >= 2**63:
            raise CaptureError(f"noise_seed: expected at most 2^63-1, found {self.noise_seed}")
        if not re.fullmatch(_LABEL, self.label):
            raise CaptureError(
                f"label {self.label!r}: expected at most 48 letters, digits, '.', '_' or '-', and a letter or digit first"
            )
        if self.observations is not None and self.columns:
            raise CaptureError("columns: only for --dataset: saved observations have the keys that the policy was sent")

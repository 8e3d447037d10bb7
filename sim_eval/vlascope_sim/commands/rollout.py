"""`vlascope-sim rollout`: episodes of a policy, with videos, results and, where asked, captured latents.

Options become a campaign here; `rollout_run.py` runs it. The values of `--campaign FILE`, or of the campaign that `--resume
FOLDER` goes on with, are the defaults of all other options.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from vlascope_base import OptionError
from vlascope_base.options import CommandOptions, Numbers, NumbersOrAll, word_of
from vlascope_base.provenance import now_for_names
from vlascope_base.text import parse_numbers

from vlascope_sim.environment.tasks import Suite, suite_tasks
from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import Campaign, CampaignOptions, new_campaign_id, prompts_from_map
from vlascope_sim.rollout.campaign_file import CAMPAIGN_FILE, read_campaign, read_campaign_fields, read_map
from vlascope_sim.rollout.results import RESULT_FILE, read_results

_NOT_OPTIONS = ("id", "capture_spec", "prompts")
"""Fields of a campaign that no option has in the same form."""
_MAY_DIFFER = (
    "servers",
    "workers",
    "attempts",
    "hang_seconds",
    "build_seconds",
    "connect_seconds",
    "reconnect_seconds",
)
"""Fields that a campaign may go on with other values of: they change no result."""
_SPEC = ("experts", "components", "layers", "denoise_steps", "spans", "reduction")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Episodes:
    """Which episodes are run, and where their policy is."""

    server: tuple[str, ...] = ()
    """Addresses such as ws://localhost:8000; workers spread over several, and go to another where theirs is gone."""
    suite: Suite | None = None
    """Suite of tasks."""
    tasks: NumbersOrAll = None
    """Tasks of the suite, such as 0-9 (inclusive) or 0,3,5; all unless given."""
    episodes: Numbers = tuple(range(10))
    """Episodes of each task, the same way; episode k starts from initial state k modulo their number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout(CommandOptions, CampaignOptions, _Episodes):
    """Runs LIBERO episodes against policy servers; what is given overrides the campaign's file."""

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
    prompt: str | None = None
    """Text sent in place of every task's instruction."""
    prompt_file: Path | None = None
    """JSON or YAML file of such texts by task number or name."""
    campaign: Path | None = None
    """YAML file with any of a campaign's fields, such as the campaign.yaml that lies beside results."""
    output: Path | None = None
    """New folder for results; results/rollouts/<time>-<suite> unless given."""
    resume: Path | None = None
    """Folder of results to continue: runs what is missing. Servers, workers and patience may be others than before."""
    retry_errors: bool = False
    """With resume: run episodes that ended as errors again."""
    dry_run: bool = False
    """Check everything, say what it takes, and stop."""
    deterministic_check: bool = False
    """Stop unless the server answers the same request with the same bits."""
    api_key: str | None = None
    """For the server; the environment's VLASCOPE_API_KEY unless given. Never written down."""

    @classmethod
    def defaults(cls, args: Sequence[str]) -> Rollout | None:
        """Options with the values of the campaign that the command line names; None where it names none.

        Raises:
            RolloutError: its file cannot be read.
        """
        file = word_of("--campaign", args)
        if folder := word_of("--resume", args):
            file = str(Path(folder) / CAMPAIGN_FILE)
        if file is None:
            return None
        fields = read_campaign_fields(Path(file))
        options = {name: value for name, value in fields.items() if name not in _NOT_OPTIONS}
        if "servers" in options:
            options["server"] = options.pop("servers")
        return cls(**options)

    def run(self) -> int:
        """Prints the cost, runs, and says where the results lie; 1 where episodes could not be run."""
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


def campaign_of(options: Rollout) -> tuple[Campaign, Path]:
    """The campaign that the options ask for, and the folder of its results.

    Raises:
        RolloutError: they ask for none, for one that cannot run, or for another than the one that they go on with.
    """
    if options.resume is not None:
        return _resumed(options, options.resume), options.resume
    if options.output is not None and (options.output / RESULT_FILE).exists():
        raise RolloutError(f"{options.output}: {_what_to_do(options.output)}")
    fields = _fields(options, read_campaign_fields(options.campaign) if options.campaign else {})
    for name in ("capture_spec", "stride"):
        if fields.get(name) is not None and not options.collect_latents:
            raise RolloutError(f"{name}: without collect_latents nothing is captured; give both, or neither")
    fields["id"] = new_campaign_id(options.label)  # the same options again are another campaign
    campaign = Campaign(**fields)
    return campaign, options.output or Path("results") / "rollouts" / f"{now_for_names()}-{campaign.suite}"


def _what_to_do(folder: Path) -> str:
    """With a folder that holds results: what `--resume` would refuse is not advised."""
    try:
        campaign, rows = read_campaign(folder / CAMPAIGN_FILE), read_results(folder / RESULT_FILE)
        resumable = all(row.campaign == campaign.id for row in rows)
    except RolloutError:
        resumable = False
    if resumable:
        return f"holds results already; `--resume {folder}` continues them"
    return "holds results already, which this vlascope cannot continue; choose another --output"


def _resumed(options: Rollout, folder: Path) -> Campaign:
    file = folder / CAMPAIGN_FILE
    for name in ("campaign", "output"):
        if getattr(options, name) is not None:
            raise RolloutError(f"{name}: cannot be given with `resume`: the campaign is that of {file}")
    saved = read_campaign(file)
    asked = _fields(options, vars(saved))
    for name, now in asked.items():
        before = getattr(saved, name)
        if now != before and name not in _MAY_DIFFER:
            raise RolloutError(
                f"{name}: {_readable(now)} was given, and the campaign of {file} has {_readable(before)}; leave the option out "
                f"to go on with it, or begin another campaign with `--campaign {file}`"
            )
    return Campaign(**asked)


def _readable(value: object) -> str:
    return str(value) if isinstance(value, Path) else repr(value)


def _fields(options: Rollout, of_file: dict[str, Any]) -> dict[str, Any]:
    """The fields of the campaign that the options ask for; `of_file` has those that no option gives."""
    fields = {name: of_file[name] for name in _NOT_OPTIONS if name in of_file}
    fields |= {field.name: getattr(options, field.name) for field in dataclasses.fields(CampaignOptions)}
    if not options.server:
        raise RolloutError("server: expected one, found none")
    if options.suite is None:
        raise RolloutError("suite: expected one, found none")
    every_task = tuple(range(len(suite_tasks(options.suite))))
    fields |= {
        "servers": options.server,
        "suite": options.suite,
        "tasks": every_task if options.tasks is None else options.tasks,
        "episodes": options.episodes,
    }
    _add_prompts(options, fields)
    _add_spec(options, fields)
    return fields


def _add_prompts(options: Rollout, fields: dict[str, Any]) -> None:
    if options.prompt is not None and options.prompt_file is not None:
        raise RolloutError("prompt: not together with prompt_file")
    if options.prompt is not None:
        fields["prompts"] = dict.fromkeys(fields["tasks"], options.prompt)
    if options.prompt_file is not None:
        fields["prompts"] = prompts_from_map(read_map(options.prompt_file), fields["suite"])


def _add_spec(options: Rollout, fields: dict[str, Any]) -> None:
    given = {name: value for name in _SPEC if (value := getattr(options, name)) is not None}
    if given and options.capture_spec is not None:
        raise RolloutError(f"{next(iter(given))}: not together with capture_spec, which says all of it")
    if options.capture_spec is not None:
        fields["capture_spec"] = read_map(options.capture_spec)
    elif given:
        fields["capture_spec"] = {name: _spec_value(name, value) for name, value in given.items()}


def _spec_value(name: str, value: str) -> str | list[int] | list[str]:
    if name == "reduction":
        return value
    if name in ("layers", "denoise_steps"):
        try:
            return value if value == "all" else list(parse_numbers(value))
        except OptionError as error:
            raise RolloutError(f"{name} {error}") from error
    return [part.strip() for part in value.split(",")]

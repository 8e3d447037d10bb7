"""Options of `vlascope-sim rollout` and campaign files, made one campaign. Knows nothing of running it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import yaml

from vlascope_sim.commands.ranges import parse_numbers
from vlascope_sim.commands.rollout import Rollout
from vlascope_sim.environment.tasks import suite_tasks
from vlascope_sim.rollout.campaign import Campaign, new_campaign_id, prompts_from_map
from vlascope_sim.rollout.campaign_file import read_campaign, read_fields
from vlascope_sim.rollout.errors import RolloutError
from vlascope_sim.rollout.results import read_results
from vlascope_sim.rollout.runner import CAMPAIGN_FILE, RESULT_FILE

_PLAIN = (
    "suite", "noise_seeds", "seed", "replan_steps", "settle_steps", "max_steps", "stride",
    "render", "image_size", "perturb", "move_cm", "prompt_mode", "label", "video", "workers", "attempts",
    "hang_seconds", "build_seconds", "reconnect_seconds",
)  # fmt: skip
_SWITCHES = (("collect_latents", False), ("save_observations", False), ("annotations", True))
_HOW = ("workers", "attempts", "hang_seconds", "build_seconds", "reconnect_seconds")
_SPEC = ("experts", "components", "layers", "denoise_steps", "spans", "reduction")


def campaign_of(options: Rollout) -> tuple[Campaign, Path]:
    """The campaign that the options ask for, and the folder of its results.

    Raises:
        RolloutError: they ask for none, or for one that cannot run.
    """
    if options.resume is not None:
        return _resumed(options, options.resume), options.resume
    if options.output is not None and (options.output / RESULT_FILE).exists():
        raise RolloutError(f"{options.output}: {_what_to_do(options.output)}")
    fields = read_fields(options.campaign) if options.campaign else {}
    fields.pop("id", None)  # the same options again are another campaign
    fields |= {name: value for name in _PLAIN if (value := getattr(options, name)) is not None}
    fields |= {name: value for name, off in _SWITCHES if (value := getattr(options, name)) != off}
    if options.server:
        fields["servers"] = options.server
    for name in ("servers", "suite"):
        if not fields.get(name):
            raise RolloutError(f"{name.removesuffix('s')}: expected one, found none")
    if options.tasks is not None:
        fields["tasks"] = parse_numbers(options.tasks, "tasks")
    fields.setdefault("tasks", tuple(range(len(suite_tasks(fields["suite"])))))
    if options.episodes is not None:
        fields["episodes"] = parse_numbers(options.episodes, "episodes")
    fields.setdefault("episodes", tuple(range(10)))
    if options.assets is not None:
        fields["assets"] = str(options.assets)
    _add_prompts(options, fields)
    _add_spec(options, fields)
    campaign = Campaign(id=new_campaign_id(fields.get("label", "")), **fields)
    named = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{campaign.suite}"
    return campaign, options.output or Path("results") / "rollouts" / named


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
    own = {"server", "resume", "retry_errors", "dry_run", "deterministic_check", "api_key", "log_level", *_HOW}
    for field in dataclasses.fields(options):
        if field.name not in own and getattr(options, field.name) not in (None, field.default):
            raise RolloutError(
                f"{field.name}: cannot be given with `resume`: the campaign is that of {folder / CAMPAIGN_FILE}"
            )
    campaign = read_campaign(folder / CAMPAIGN_FILE)
    how: dict[str, Any] = {name: value for name in _HOW if (value := getattr(options, name)) is not None}
    return dataclasses.replace(campaign, **how, **({"servers": options.server} if options.server else {}))


def _add_prompts(options: Rollout, fields: dict[str, Any]) -> None:
    if options.prompt is not None and options.prompt_file is not None:
        raise RolloutError("prompt: not together with prompt_file")
    if options.prompt is not None:
        fields["prompts"] = dict.fromkeys(fields["tasks"], options.prompt)
    if options.prompt_file is not None:
        fields["prompts"] = prompts_from_map(_read_map(options.prompt_file), fields["suite"])


def _add_spec(options: Rollout, fields: dict[str, Any]) -> None:
    given = {name: value for name in _SPEC if (value := getattr(options, name)) is not None}
    if given and options.capture_spec is not None:
        raise RolloutError(f"{next(iter(given))}: not together with capture_spec, which says all of it")
    if options.capture_spec is not None:
        fields["capture_spec"] = _read_map(options.capture_spec)
    elif given:
        fields["capture_spec"] = {name: _spec_value(name, value) for name, value in given.items()}
    for name in ("capture_spec", "stride"):
        if fields.get(name) is not None and not fields.get("collect_latents"):
            raise RolloutError(f"{name}: without collect_latents nothing is captured; give both, or neither")


def _spec_value(name: str, value: str) -> Any:
    if name == "reduction":
        return value
    if name in ("layers", "denoise_steps"):
        return value if value == "all" else list(parse_numbers(value, name))
    return [part.strip() for part in value.split(",")]


def _read_map(path: Path) -> dict[Any, Any]:
    """A JSON or YAML file's map; JSON is YAML."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RolloutError(f"{path}: expected JSON or YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise RolloutError(f"{path}: expected a map, found {type(found).__name__}")
    return found

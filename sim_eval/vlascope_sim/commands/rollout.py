"""`vlascope-sim rollout`: episodes of a policy, with videos, results and, where asked, captured latents.

Options become a campaign here; `rollout_run.py` runs it. The values of `--campaign FILE`, or of the campaign that `--resume
FOLDER` goes on with, are the defaults of all other options.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from vlascope_base import OptionError
from vlascope_base.options import CommandOptions, Numbers, NumbersOrAll, file_of
from vlascope_base.provenance import now_for_names
from vlascope_base.text import counted, listed, parse_numbers

from vlascope_sim.environment.tasks import STEP_LIMITS, Suite, suite_tasks
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
    def given_by_file(cls, args: Sequence[str]) -> tuple[Path, dict[str, Any]] | None:
        """The campaign's file that the command line names, and its fields; None where it names none.

        Raises:
            RolloutError: the file cannot be read, or there is no such folder to go on with.
        """
        file = file_of("--campaign", args)
        if folder := file_of("--resume", args):
            file = _campaign_in(folder)
        return None if file is None else (file, read_campaign_fields(file))

    @classmethod
    def defaults(cls, args: Sequence[str]) -> Rollout | None:
        """Options with the values of the campaign that the command line names; None where it names none.

        Raises:
            RolloutError: as `given_by_file`.
        """
        given = cls.given_by_file(args)
        if given is None:
            return None
        options = {name: value for name, value in given[1].items() if name not in _NOT_OPTIONS}
        if "servers" in options:
            options["server"] = options.pop("servers")
        return cls(**options)

    def configuration(self) -> dict[str, Any]:
        """The fields of the campaign that is asked for, as a file for `--campaign` gives them.

        Raises:
            RolloutError: options do not go together, or contradict the campaign that they go on with.
        """
        if self.resume is not None:
            fields = dataclasses.asdict(_resumed(self, self.resume))
        else:
            fields = _fields(self, read_campaign_fields(self.campaign) if self.campaign else {}, complete=False)
        return {name: value for name, value in fields.items() if name != "id"}

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
    if options.retry_errors and options.resume is None:
        raise RolloutError("--retry-errors: only with --resume FOLDER: a new campaign has no errors to run again")
    if options.resume is not None:
        return _resumed(options, options.resume), options.resume
    if options.output is not None and (options.output / RESULT_FILE).exists():
        raise RolloutError(f"{options.output}: {_what_to_do(options.output)}")
    fields = _fields(options, read_campaign_fields(options.campaign) if options.campaign else {})
    for name in ("capture_spec", "stride"):
        if fields.get(name) is not None and not options.collect_latents:
            raise RolloutError(f"{_option(name)}: without --collect-latents nothing is captured; give both, or neither")
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


def _campaign_in(folder: Path) -> Path:
    """The file of the campaign whose results lie in a folder."""
    if not folder.is_dir():
        raise RolloutError(f"{folder}: no such folder to go on with")
    if not (folder / CAMPAIGN_FILE).is_file():
        raise RolloutError(f"{folder}: expected a folder of rollouts, found no {CAMPAIGN_FILE} in it")
    return folder / CAMPAIGN_FILE


def _resumed(options: Rollout, folder: Path) -> Campaign:
    file = _campaign_in(folder)
    if given := [f"--{name}" for name in ("campaign", "output") if getattr(options, name) is not None]:
        raise RolloutError(f"{', '.join(given)}: cannot be given with --resume: the campaign is that of {file}")
    saved = read_campaign(file)
    asked = _fields(options, vars(saved))
    if differing := list(_contradictions(options, asked, saved)):
        them = "them" if differing[1:] else "it"
        raise RolloutError(
            f"{'; '.join(differing)}: that contradicts the campaign of {file}; leave {them} out to go on with it, or begin "
            f"another campaign with `--campaign {file}`"
        )
    return Campaign(**asked)


def _contradictions(options: Rollout, asked: dict[str, Any], saved: Campaign) -> Iterable[str]:
    """What is asked for and is not so in the campaign that was saved: each option as it is written, and what is so instead."""
    for name, now in asked.items():
        before = getattr(saved, name)
        if now == before or name in _MAY_DIFFER:
            continue
        if name == "capture_spec" and options.capture_spec is None:
            kept = before or {}
            for part in _SPEC:
                value = getattr(options, part)
                if value is not None and now[part] != kept.get(part):
                    yield f"{_option(part)} {value} (the campaign has {_readable(kept.get(part))})"
        elif name == "prompts":
            given = (
                f"--prompt {options.prompt!r}"
                if options.prompt_file is None
                else f"--prompt-file {options.prompt_file}"
            )
            yield f"{given} (the campaign has {_readable_prompts(before)})"
        elif name == "capture_spec":
            yield f"--capture-spec {options.capture_spec} (the campaign has {_readable(before)})"
        elif isinstance(now, bool):
            words = _option(name), _option(f"no_{name}")
            yield f"{words[not now]} (the campaign has {words[now]})"
        else:
            yield f"{_option(name)} {_readable(now)} (the campaign has {_readable(before)})"


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _readable(value: object) -> str:
    if isinstance(value, tuple | list):
        return listed(value).replace(", ", ",")
    return "none" if value in (None, {}) else str(value)


def _readable_prompts(prompts: dict[int, str]) -> str:
    texts = set(prompts.values())
    if len(texts) == 1:
        return repr(texts.pop())
    return counted(len(texts), "text") if texts else "none"


def _fields(options: Rollout, of_file: dict[str, Any], *, complete: bool = True) -> dict[str, Any]:
    """The fields of the campaign that the options ask for.

    Args:
        options: what is asked for.
        of_file: has the fields that no option gives.
        complete: refuse options without a server or a suite; else fields that they are needed for are left out.
    """
    fields = {name: of_file[name] for name in _NOT_OPTIONS if name in of_file}
    fields |= {field.name: getattr(options, field.name) for field in dataclasses.fields(CampaignOptions)}
    if complete and not options.server:
        raise RolloutError("--server: expected an address such as ws://localhost:8000, found none")
    if complete and options.suite is None:
        raise RolloutError(f"--suite: expected {', '.join(STEP_LIMITS)}; found none")
    every_task = None if options.suite is None else tuple(range(len(suite_tasks(options.suite))))
    needed = {
        "servers": options.server or None,
        "suite": options.suite,
        "tasks": every_task if options.tasks is None else options.tasks,
    }
    fields |= {name: value for name, value in needed.items() if value is not None} | {"episodes": options.episodes}
    if options.suite is None:
        return fields
    _add_prompts(options, fields)
    _add_spec(options, fields)
    return fields


def _add_prompts(options: Rollout, fields: dict[str, Any]) -> None:
    if options.prompt is not None and options.prompt_file is not None:
        raise RolloutError("--prompt: not together with --prompt-file")
    if options.prompt is not None:
        fields["prompts"] = dict.fromkeys(fields["tasks"], options.prompt)
    if options.prompt_file is not None:
        fields["prompts"] = prompts_from_map(read_map(options.prompt_file), fields["suite"])


def _add_spec(options: Rollout, fields: dict[str, Any]) -> None:
    given = {name: value for name in _SPEC if (value := getattr(options, name)) is not None}
    if given and options.capture_spec is not None:
        raise RolloutError(f"{_option(next(iter(given)))}: not together with --capture-spec, which says all of it")
    if options.capture_spec is not None:
        fields["capture_spec"] = read_map(options.capture_spec)
    elif given:
        spec = {name: _spec_value(name, value) for name, value in given.items()}
        kept = fields.get("capture_spec") or {}
        # with resume, options that say what the campaign has already say nothing against the rest of it
        agrees = options.resume is not None and all(kept.get(name) == value for name, value in spec.items())
        fields["capture_spec"] = kept if agrees else spec


def _spec_value(name: str, value: str) -> str | list[int] | list[str]:
    if name == "reduction":
        return value
    if name in ("layers", "denoise_steps"):
        try:
            return value if value == "all" else list(parse_numbers(value))
        except OptionError as error:
            raise RolloutError(f"{name} {error}") from error
    return [part.strip() for part in value.split(",")]

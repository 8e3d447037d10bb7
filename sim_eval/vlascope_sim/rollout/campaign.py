"""Everything that decides what a set of rollouts is, in one value that a YAML file can hold."""

from __future__ import annotations

import dataclasses
import math
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vlascope_base.provenance import now_for_names
from vlascope_base.text import why_unkept

from vlascope_sim.environment.cameras import RenderMode
from vlascope_sim.environment.libero import SETTLE_STEPS
from vlascope_sim.environment.tasks import STEP_LIMITS, Suite, load_task, suite_tasks
from vlascope_sim.errors import RolloutError
from vlascope_sim.perturb import Kind, Perturbation
from vlascope_sim.rollout.told import Told, check_others, crossed_count, crossed_object, other_object, own_object
from vlascope_sim.seeds import environment_seed, noise_seed, perturbation_seed

PromptMode = Literal["task", "blank", "swapped", "other", "crossed"]
_MOVE_CM = 5.0
_LABEL, _ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}", r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"


@dataclasses.dataclass(frozen=True, order=True)
class EpisodeKey:
    """Which episode of a campaign.

    Attributes:
        task: its number in the suite.
        episode: its number; it starts from initial state `episode` modulo the number of those (`Campaign.init_state`).
        noise: 0, or which of the repeats with other noise.
    """

    task: int
    episode: int
    noise: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CampaignOptions:
    """How episodes are run: the part of a campaign that `vlascope-sim rollout` takes as options just as it is."""

    noise_seeds: int = 1
    """How often every episode is run, each time with other noise."""
    seed: int = 7
    """The seed from which every other seed follows."""
    replan_steps: int = 5
    """Actions of a chunk that are executed before the next inference."""
    settle_steps: int = SETTLE_STEPS
    """Dummy actions before timestep 0."""
    max_steps: int | None = None
    """Environment steps an episode; the suite's own limit unless given."""
    collect_latents: bool = False
    """Ask the server to keep hidden states."""
    stride: int | None = None
    """Environment steps between captures, a multiple of the replan steps; every inference unless given."""
    annotations: bool = True
    """Send poses and distances with captured frames."""
    render: RenderMode = "full"
    """`full` draws what robosuite draws, `fast` is four times sooner; recorded with every result."""
    image_size: int = 256
    """Pixels a side of an image."""
    assets: Path | None = None
    """Folder of LIBERO's assets; what is found unless given."""
    prompt_mode: PromptMode = "task"
    """The task's instruction, none, that of the next task in the suite, `other` or `crossed`. With `other` each episode is told
    to take another object of its scene. With `crossed` each scene is told every one of its objects: as many episodes as it
    has objects begin from the same initial state, with the same noise, and differ in the instruction alone. Success is judged
    by what was told. Both are for libero_object and libero_goal."""
    perturb: Kind = "none"
    """Displace the objects that stand free before timestep 0: `move` each on its own, `shuffle` them, or `both`; the same for
    all repeats of an episode with other noise."""
    move_cm: float | None = None
    """How far an object is moved at most; 5 unless given."""
    label: str = ""
    """Names the campaign for people: the first part of its id."""
    video: Literal["none", "inferences", "steps"] = "inferences"
    """Frames of the videos: those that the policy saw (no cost), all, or no videos."""
    save_observations: bool = False
    """Keep what the policy saw, as NPZ files."""
    workers: int = 2
    """Processes that simulate."""
    attempts: int = 3
    """How often an episode is tried where its worker dies or hangs, or its server is lost."""
    hang_seconds: float = 60.0
    """Time without a sign of life after which a worker is replaced."""
    build_seconds: float = 300.0
    """Time that a worker may take to start and build a scene, signs of life or not."""
    connect_seconds: float = 15.0
    """How long a server that has never answered is waited for, before a campaign begins."""
    reconnect_seconds: float = 300.0
    """How long a lost server is waited for, and the others are tried."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Campaign(CampaignOptions):
    """A set of rollouts."""

    id: str
    """Its own, and no other campaign's (`new_campaign_id`), whatever else they share: stores keep episodes of different
    campaigns apart by it."""
    servers: tuple[str, ...]
    """Websocket addresses; workers spread over them."""
    suite: Suite
    """Suite of tasks."""
    tasks: tuple[int, ...]
    """Tasks of the suite, in the order in which they are run."""
    episodes: tuple[int, ...]
    """Episodes of each task."""
    capture_spec: dict[str, Any] | None = None
    """What to keep, passed on to the server as it is; the server's default spec unless given."""
    prompts: dict[int, str] = dataclasses.field(default_factory=dict)
    """Task → text that is sent in place of its instruction; wins over `prompt_mode`."""

    def __post_init__(self):
        for name in ("servers", "tasks", "episodes"):
            if not getattr(self, name):
                raise RolloutError(f"{name}: expected at least one, found none")
        for name in ("noise_seeds", "replan_steps", "image_size", "workers", "attempts"):
            _at_least(1, name, getattr(self, name))
        for name in ("seed", "settle_steps"):
            _at_least(0, name, getattr(self, name))
        for name in ("hang_seconds", "build_seconds", "connect_seconds"):
            if getattr(self, name) <= 0:
                raise RolloutError(f"{name}: expected more than 0, found {getattr(self, name)}")
        _at_least(0, "episodes", min(self.episodes))
        if self.max_steps is not None:
            _at_least(1, "max_steps", self.max_steps)
        for name, value in (("label", self.label), ("id", self.id)):
            if not re.fullmatch(_ID if name == "id" else f"({_LABEL})?", value):
                raise RolloutError(
                    f"{name} {value!r}: expected at most {80 if name == 'id' else 48} letters, digits, '.', '_' or '-', and a "
                    "letter or digit first"
                )
        if self.id == "none":
            raise RolloutError("id 'none': is the word for episodes of no campaign; choose another")
        suite_tasks(self.suite)
        for task in (*self.tasks, *self.prompts):
            load_task(self.suite, task)
        for task, text in self.prompts.items():
            _check_text(f"prompt of task {task}", text)
        _check_stride(self.stride, self.replan_steps)
        _check_perturb(self)
        if self.prompt_mode in ("other", "crossed"):
            if self.prompts:
                raise RolloutError(
                    f"prompts: not together with prompt_mode {self.prompt_mode}, which chooses what each episode is told"
                )
            if self.prompt_mode == "other":
                check_others(self.suite, self.tasks)
            else:
                _check_crossed(self)

    @property
    def capture_stride(self) -> int:
        """Environment steps between two captures."""
        return self.replan_steps if self.stride is None else self.stride

    @property
    def step_limit(self) -> int:
        """Environment steps of an episode, at most."""
        return STEP_LIMITS[self.suite] if self.max_steps is None else self.max_steps

    @property
    def keys(self) -> tuple[EpisodeKey, ...]:
        """Every episode, task by task."""
        repeats = range(self.noise_seeds)
        keys = (EpisodeKey(t, e, n) for t in self.tasks for e in self.episodes for n in repeats)
        return tuple(dict.fromkeys(keys))

    @property
    def frames(self) -> int:
        """Captures, at most: an episode that succeeds early has fewer."""
        return len(self.keys) * math.ceil(self.step_limit / self.capture_stride) if self.collect_latents else 0

    @property
    def conditions(self) -> str:
        """What differs from plain episodes, in words for people; empty where nothing does."""
        moved = f"moved by up to {_MOVE_CM if self.move_cm is None else self.move_cm:g} cm"
        scene = {"move": f"objects {moved}", "shuffle": "objects shuffled", "both": f"objects shuffled and {moved}"}
        told = {
            "blank": "no instruction",
            "swapped": "another task's instruction",
            "other": "told another object",
            "crossed": "told each object of the scene",
        }
        modes = {self.prompt_mode_of(key): None for key in self.keys}
        words = [{"given": "prompts of its own", **told}.get(mode) for mode in modes]
        return ", ".join(part for part in (scene.get(self.perturb), *words) if part)

    def prompt_mode_of(self, key: EpisodeKey) -> str:
        """How it is decided what the policy is told in an episode: `given` where `prompts` says it, else `prompt_mode`."""
        return "given" if key.task in self.prompts else self.prompt_mode

    def told(self, key: EpisodeKey) -> Told:
        """What the policy is told in an episode."""
        tasks = suite_tasks(self.suite)
        if key.task in self.prompts:
            return Told(self.prompts[key.task])
        if self.prompt_mode == "task":
            return Told(tasks[key.task].instruction, own_object(tasks[key.task]))
        if self.prompt_mode == "other":
            return other_object(tasks[key.task], self.seed, key.episode)
        if self.prompt_mode == "crossed":
            turn = self._place(key) % crossed_count(tasks[key.task])
            return crossed_object(tasks[key.task], self.seed, self.scene_of(key), turn)
        return Told("" if self.prompt_mode == "blank" else tasks[(key.task + 1) % len(tasks)].instruction)

    def scene_of(self, key: EpisodeKey) -> int:
        """The episode whose scene this one has: itself, or in a crossed campaign the first of those that share it."""
        if self.prompt_mode != "crossed":
            return key.episode
        place, count = self._place(key), crossed_count(load_task(self.suite, key.task))
        return self._numbers[place - place % count]

    @property
    def _numbers(self) -> tuple[int, ...]:
        """The episodes' numbers, each once."""
        return tuple(dict.fromkeys(self.episodes))

    def _place(self, key: EpisodeKey) -> int:
        """Where an episode's number stands among the campaign's."""
        return self._numbers.index(key.episode)

    def init_state(self, key: EpisodeKey) -> int:
        """The initial state that an episode begins from."""
        return self.scene_of(key) % load_task(self.suite, key.task).init_state_count

    def perturbation(self, key: EpisodeKey) -> Perturbation:
        """What is done to an episode's scene."""
        seed = perturbation_seed(self.seed, self.suite, key.task, self.scene_of(key)) if self.perturb != "none" else 0
        return _perturbation(self, seed)

    def episode_name(self, key: EpisodeKey) -> str:
        """An episode's name within the campaign, and of its files."""
        noise = f"-noise{key.noise}" if self.noise_seeds > 1 else ""
        return f"{self.suite}-task{key.task:02d}-episode{key.episode:03d}{noise}"

    def episode_id(self, key: EpisodeKey) -> str:
        """An episode's id in the store: no other campaign has it."""
        return f"{self.id}+{self.episode_name(key)}"

    def seeds(self, key: EpisodeKey) -> tuple[int, int]:
        """An episode's seeds: of its scene, and of its policy's noise."""
        scene = self.scene_of(key)
        return (
            environment_seed(self.seed, self.suite, key.task, scene),
            noise_seed(self.seed, self.suite, key.task, scene, key.noise),
        )


def new_campaign_id(label: str = "") -> str:
    """The id of a campaign that begins now: its label, the time (UTC), and something that two which begin at once differ in."""
    now = f"{now_for_names()}-{secrets.token_hex(3)}"
    return f"{label}-{now}" if label else now


def prompts_from_map(found: Mapping[object, object], suite: str) -> dict[int, str]:
    """A file's prompts: keys are task numbers or names.

    Raises:
        RolloutError: a key is neither, or a value is no text.
    """
    names: dict[object, int] = {task.name: task.id for task in suite_tasks(suite)}
    prompts = {}
    for key, text in found.items():
        number = names.get(key, key)
        number = int(number) if isinstance(number, str) and number.isdigit() else number
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise RolloutError(
                f"prompts: {key!r} is neither a name nor a number of {suite}'s tasks, 0-{len(names) - 1}"
            )
        if not isinstance(text, str):
            raise RolloutError(f"prompts.{key}: expected text, found {type(text).__name__}")
        prompts[number] = text
    return prompts


def _at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise RolloutError(f"{name}: expected at least {least}, found {value}")


def _check_text(what: str, text: str) -> None:
    """Refuses text that neither results nor a server can keep."""
    if why := why_unkept(text):
        raise RolloutError(
            f"{what}: {text!r}: expected text that UTF-8 can write, without NUL, {why}; write it in UTF-8"
        )


def _perturbation(campaign: Campaign, seed: int) -> Perturbation:
    moves = campaign.perturb in ("move", "both")
    default = _MOVE_CM if moves else 0.0
    return Perturbation(
        kind=campaign.perturb, move_cm=default if campaign.move_cm is None else campaign.move_cm, seed=seed
    )


def _check_perturb(campaign: Campaign) -> None:
    """A `PerturbationError` says what is wrong with `move_cm`."""
    _perturbation(campaign, 0)
    if campaign.suite == "libero_spatial" and campaign.perturb in ("shuffle", "both"):
        raise RolloutError(
            f"perturb {campaign.perturb!r}: libero_spatial tells its bowls apart by where they stand; use none or move"
        )


def _check_crossed(campaign: Campaign) -> None:
    counts = {task: crossed_count(load_task(campaign.suite, task)) for task in campaign.tasks}
    step, found = math.lcm(*counts.values()), len(set(campaign.episodes))
    if found % step:
        above, first = (found // step + 1) * step, min(campaign.episodes)
        scenes = f"the {step} objects of a scene" if len(set(counts.values())) == 1 else "the objects of every scene"
        raise RolloutError(
            f"episodes: {found} of each task; prompt_mode 'crossed' tells {scenes} equally often: expected a multiple of "
            f"{step}; the next that fits is {above}, such as --episodes {first}-{first + above - 1}"
        )


def _check_stride(stride: int | None, replan: int) -> None:
    if stride is None or (stride > 0 and stride % replan == 0):
        return
    below, above = max(replan, stride // replan * replan), max(replan, (stride // replan + 1) * replan)
    nearest = f"{below} or {above}" if below != above else f"{below}"
    raise RolloutError(
        f"stride {stride}: captures happen at inferences, every {replan} steps (replan_steps); the nearest that work: {nearest}"
    )

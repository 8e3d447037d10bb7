"""What a campaign is follows from its options and its file alone, and one that cannot run says why."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from vlascope_base.command import parse_command
from vlascope_base.seeds import derive_seed
from vlascope_latents.store.run_folder import check_episode_id
from vlascope_sim.commands import SUBCOMMANDS, main
from vlascope_sim.commands.rollout import Rollout, campaign_of
from vlascope_sim.errors import RolloutError
from vlascope_sim.perturb import Perturbation
from vlascope_sim.rollout.campaign import Campaign, EpisodeKey, new_campaign_id
from vlascope_sim.rollout.campaign_file import CAMPAIGN_FILE, read_campaign, write_campaign
from vlascope_sim.rollout.cost import estimate
from vlascope_sim.rollout.results import RESULT_FILE, ResultFile
from vlascope_sim.rollout.told import Told
from vlascope_sim.seeds import environment_seed, inference_seed, noise_seed, perturbation_seed

from tests.sim_eval.campaigns import campaign, row


def asked(*words: object) -> tuple[Campaign, Path]:
    """What `vlascope-sim rollout` makes of a command line."""
    return campaign_of(parse_command("vlascope-sim", "", SUBCOMMANDS, ["rollout", *map(str, words)]))


@pytest.mark.parametrize(
    ("stride", "nearest"), [(7, "5 or 10"), (12, "10 or 15"), (3, "5"), (0, "5"), (-4, "5"), (11, "10 or 15")]
)
def test_a_stride_between_inferences_names_the_nearest_that_work(stride, nearest):
    with pytest.raises(RolloutError, match=rf"stride {stride}: .*that work: {nearest}$"):
        campaign(stride=stride)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"suite": "libero"}, "libero_spatial, libero_object"),
        ({"tasks": (3, 10)}, "task 10: libero_object has 0-9"),
        ({"tasks": ()}, "tasks: expected at least one"),
        ({"episodes": (-1,)}, "episodes: expected at least 0"),
        ({"replan_steps": 0}, "replan_steps: expected at least 1"),
        ({"max_steps": 0}, "max_steps: expected at least 1"),
        ({"label": "a/b"}, "label 'a/b': expected at most 48 .* a letter or digit first"),
        ({"id": ""}, "id ''"),
        ({"id": "none"}, "id 'none': is the word for episodes of no campaign; choose another"),
        ({"id": "a+b"}, r"id 'a\+b'"),
        ({"prompts": {12: "x"}}, "task 12"),
        (
            {"prompts": {0: "bad \udcff"}},
            r"^prompt of task 0: 'bad \\udcff': expected text .* found '\\udcff' at character 5",
        ),
        ({"label": "bad\udcff"}, r"^label 'bad\\udcff': expected at most 48"),
        ({"perturb": "shuffle", "move_cm": 3.0}, "move_cm 3: 'shuffle' moves nothing"),
        ({"perturb": "move", "move_cm": 31.0}, "move_cm 31"),
        ({"suite": "libero_spatial", "perturb": "both"}, "by where they stand; use none or move"),
        ({"suite": "libero_10", "prompt_mode": "other"}, "expected libero_object or libero_goal.*found libero_10"),
        ({"prompts": {0: "x"}, "prompt_mode": "other"}, "prompts: not together with prompt_mode other"),
        ({"prompts": {0: "x"}, "prompt_mode": "crossed"}, "prompts: not together with prompt_mode crossed"),
        (
            {"suite": "libero_spatial", "prompt_mode": "crossed"},
            "expected libero_object or libero_goal.*found libero_spatial",
        ),
        (
            {"episodes": tuple(range(40, 47)), "prompt_mode": "crossed"},
            "episodes: 7 of each task.*a multiple of 6; the next that fits is 12, such as --episodes 40-51",
        ),
    ],
)
def test_a_campaign_that_cannot_run_says_why(changed, message):
    with pytest.raises(ValueError, match=message):
        campaign(**changed)


def test_a_campaign_survives_its_file(tmp_path):
    ours = campaign(
        servers=("ws://a:1", "ws://b:2"), tasks=(3, 1), noise_seeds=2, stride=20, collect_latents=True, max_steps=40,
        capture_spec={"experts": ["vlm"], "layers": [5, 11]}, prompts={1: "grasp “it”: now"}, hang_seconds=2.5,
        build_seconds=30.0, perturb="move", move_cm=1.5,
    )  # fmt: skip
    write_campaign(tmp_path / "c.yaml", ours)
    assert read_campaign(tmp_path / "c.yaml") == ours


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stide": 5}, "field 'stide' is unknown; the fields are .*replan_steps"),
        ({"tasks": ["0"]}, r"tasks\[0\]: expected int, found '0'"),
        ({"workers": True}, "workers: expected int, found True"),
        ({"render": "quick"}, "render: expected full, fast, found 'quick'"),
        ({"prompts": {"a": "x"}}, "prompts: expected int, found 'a'"),
        ({"stride": 7}, "5 or 10"),
    ],
)
def test_a_file_with_a_wrong_field_names_file_and_field(tmp_path, changed, message):
    fields = {"id": "c", "servers": ["ws://a:1"], "suite": "libero_object", "tasks": [0], "episodes": [0], **changed}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(fields))
    with pytest.raises(RolloutError, match=rf"c\.yaml: .*{message}"):
        read_campaign(tmp_path / "c.yaml")


def test_a_file_without_a_suite_says_so(tmp_path):
    (tmp_path / "c.yaml").write_text("id: c\nservers: [ws://a:1]\ntasks: [0]\nepisodes: [0]\n")
    with pytest.raises(RolloutError, match="field suite is missing"):
        read_campaign(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("servers: [ws://a:1]\nsuite: libero_goal\ntasks: [0]\nepisodes: [0]\n")
    with pytest.raises(RolloutError, match=r"field id is missing: it is of an older vlascope; `--campaign \S+c\.yaml`"):
        read_campaign(tmp_path / "c.yaml")


def test_episodes_are_every_combination_in_order_and_have_names_of_their_own():
    ours = campaign(tasks=(2, 0), episodes=(0, 4), noise_seeds=2)
    assert ours.keys == tuple(EpisodeKey(t, e, n) for t in (2, 0) for e in (0, 4) for n in (0, 1))
    names = [ours.episode_id(key) for key in ours.keys]
    assert len(set(names)) == 8
    assert names[1] == "ours+libero_object-task02-episode000-noise1"


def test_equal_options_are_another_campaign_and_a_resumed_one_is_the_same(tmp_path):
    first, _ = campaign_of(Rollout(**BASE, label="told", output=tmp_path / "a"))
    again, _ = campaign_of(Rollout(**BASE, label="told", output=tmp_path / "b"))
    assert re.fullmatch(r"told-\d{8}T\d{6}-[0-9a-f]{6}", first.id)
    assert first.id != again.id
    assert dataclasses.replace(again, id=first.id) == first
    (tmp_path / "a").mkdir()
    write_campaign(tmp_path / "a" / CAMPAIGN_FILE, first)
    resumed, _ = asked("--resume", tmp_path / "a", "--workers", 1)
    assert resumed.id == first.id
    copied, _ = asked("--campaign", tmp_path / "a" / CAMPAIGN_FILE, "--output", tmp_path / "c")
    assert copied.id.startswith("told-")
    assert copied.id not in (first.id, again.id)
    longest = campaign(
        id=new_campaign_id("l" * 48), suite="libero_spatial", tasks=(9,), episodes=(999,), noise_seeds=99
    )
    assert check_episode_id(longest.episode_id(longest.keys[-1]))


def test_seeds_are_the_same_everywhere_and_differ_where_they_should():
    """Numbers that a stored result names: they may never change."""
    assert derive_seed("a", 1) == 2201408217121697680
    assert environment_seed(7, "libero_object", 0, 1) == 1536122110
    assert noise_seed(7, "libero_object", 0, 1, 0) == 12758804959911756
    assert perturbation_seed(7, "libero_object", 0, 1) == 3877635491
    seeds = {
        noise_seed(s, "libero_goal", t, e, n) for s in range(3) for t in range(3) for e in range(3) for n in range(3)
    }
    assert len(seeds) == 81
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({inference_seed(5, k) for k in range(100)}) == 100
    ours = campaign(noise_seeds=2)
    (scene, noise), (other_scene, other_noise) = ours.seeds(EpisodeKey(0, 1)), ours.seeds(EpisodeKey(0, 1, 1))
    assert scene == other_scene
    assert noise != other_noise
    np.random.default_rng(noise)


def test_what_episodes_are_told():
    ours = campaign(prompts={1: "wave"})
    own = Told("pick up the alphabet soup and place it in the basket", "alphabet_soup_1")
    assert ours.told(EpisodeKey(0, 0)) == own
    assert ours.told(EpisodeKey(1, 0)) == Told("wave")
    blank = dataclasses.replace(ours, tasks=(0, 1), prompt_mode="blank")
    assert blank.told(EpisodeKey(0, 0)) == Told("")
    assert [blank.prompt_mode_of(EpisodeKey(task, 0)) for task in (0, 1)] == ["blank", "given"]
    assert blank.conditions == "no instruction, prompts of its own"
    assert dataclasses.replace(ours, prompt_mode="swapped").told(EpisodeKey(9, 0)) == Told(own.instruction)


@pytest.mark.parametrize("suite", ["libero_object", "libero_goal"])
def test_told_another_object_never_means_the_tasks_own(suite):
    ours = campaign(suite=suite, tasks=tuple(range(10)), episodes=tuple(range(30)), noise_seeds=2, prompt_mode="other")
    plain = dataclasses.replace(ours, prompt_mode="task")
    for key in ours.keys:
        told, own = ours.told(key), plain.told(key)
        assert told.object != own.object
        assert told.goal
        assert told.goal[1] == told.object
        assert told == ours.told(dataclasses.replace(key, noise=1 - key.noise))
    chosen = [ours.told(key).object for key in ours.keys if key.task == 0]
    shares = {name: chosen.count(name) / len(chosen) for name in chosen}
    assert len(shares) == (5 if suite == "libero_object" else 3)
    assert min(shares.values()) > 0.4 / len(shares)
    elsewhere = dataclasses.replace(ours, seed=8)
    assert [ours.told(key) for key in ours.keys] != [elsewhere.told(key) for key in ours.keys]


@pytest.mark.parametrize(("suite", "objects"), [("libero_object", 6), ("libero_goal", 3)])
def test_a_crossed_campaign_tells_every_scene_each_of_its_objects_once(suite, objects):
    episodes = tuple(range(40, 40 + 2 * objects))
    ours = campaign(suite=suite, tasks=tuple(range(10)), episodes=episodes, prompt_mode="crossed", perturb="move")
    plain = dataclasses.replace(ours, prompt_mode="task")
    scenes: dict[tuple[int, int], list[EpisodeKey]] = {}
    for key in ours.keys:
        scenes.setdefault((key.task, ours.init_state(key)), []).append(key)
    assert sorted(scenes) == [(task, state) for task in range(10) for state in (40, 40 + objects)]
    for (task, state), keys in scenes.items():
        told = [ours.told(key) for key in keys]
        assert len({one.object for one in told}) == len(keys) == objects
        assert all(one.goal and one.goal[1] == one.object for one in told)
        own = plain.told(keys[0]).object
        assert own is None or own in {one.object for one in told}
        # nothing but the instruction differs
        assert {ours.seeds(key) for key in keys} == {plain.seeds(EpisodeKey(task, state))}
        assert {ours.perturbation(key) for key in keys} == {plain.perturbation(EpisodeKey(task, state))}
        assert len({ours.episode_id(key) for key in keys}) == objects
    assert ours.conditions == "objects moved by up to 5 cm, told each object of the scene"
    repeated = dataclasses.replace(ours, noise_seeds=2)
    first, second = (EpisodeKey(0, 41, noise) for noise in range(2))
    assert repeated.told(first) == repeated.told(second)
    assert repeated.seeds(first)[1] != repeated.seeds(second)[1]


def test_scenes_are_perturbed_by_seeds_of_their_own():
    ours = campaign(tasks=(0, 1), episodes=(0, 1), noise_seeds=2, perturb="both")
    asked = {key: ours.perturbation(key) for key in ours.keys}
    assert {(p.kind, p.move_cm) for p in asked.values()} == {("both", 5.0)}
    assert len({p.seed for p in asked.values()}) == 4
    assert asked[EpisodeKey(1, 0, 0)] == asked[EpisodeKey(1, 0, 1)]
    assert campaign(perturb="move", move_cm=2.5).perturbation(EpisodeKey(0, 0)).move_cm == 2.5
    assert campaign(perturb="shuffle").perturbation(EpisodeKey(0, 0)).move_cm == 0
    assert campaign().perturbation(EpisodeKey(0, 0)) == Perturbation()
    assert ours.conditions == "objects shuffled and moved by up to 5 cm"
    assert campaign(perturb="move", move_cm=2, prompt_mode="other").conditions == (
        "objects moved by up to 2 cm, told another object"
    )
    assert campaign().conditions == ""


def test_cost_counts_what_is_left():
    ours = campaign(collect_latents=True, stride=10, max_steps=45)
    assert ours.frames == 2 * 5
    cost = estimate(ours, 1, 1_000_000, cores=4)
    assert (cost.episodes, cost.steps, cost.frames, cost.nbytes) == (1, 45, 5, 5_000_000)
    assert str(cost).startswith("1 episode, at most 45 steps; at most 5 frames, 5 MB\n")
    assert "of a size that is not known" in str(estimate(ours, 2, None, cores=4))
    assert "policy: not known" in str(cost)
    assert estimate(campaign(), 2, 10, cores=4).frames == 0
    assert "; nothing stored\n" in str(estimate(campaign(), 2, 10, cores=4))
    one = dataclasses.replace(ours, stride=45, episodes=(0,))
    assert "at most 1 frame, 10 B" in str(estimate(one, 1, 10, cores=4))
    assert str(estimate(ours, 0, 1_000_000, cores=4)) == "nothing to run: every episode has its result"


def test_cost_promises_no_more_than_the_machine_and_the_servers_have():
    ours = campaign(max_steps=45, workers=32, episodes=tuple(range(100)))
    alone, two, many = (estimate(dataclasses.replace(ours, workers=n), 100, None, cores=2) for n in (1, 2, 32))
    assert alone.minutes == pytest.approx(2 * two.minutes)
    assert many.minutes == two.minutes, "two cores simulate no faster with 32 workers"
    assert "32 workers on this machine's 2 cores" in " ".join(str(many).split())
    assert "assumed: " in str(many)
    assert "steps/s" in str(many)
    timed = estimate(ours, 100, None, cores=2, latency_ms=60e3)
    assert timed.policy_minutes == 100 * 9, "one server answers one request at a time"
    said = " ".join(str(timed).split())
    assert "policy: about 15.0 hours on 1 server, one inference after the other (measured: 60000 ms each)" in said
    assert "batches" in said
    assert "at most" not in said.partition("simulation")[2]
    two_servers = dataclasses.replace(ours, servers=("ws://a:1", "ws://b:2"))
    halved = estimate(two_servers, 100, None, cores=2, latency_ms=60e3)
    assert halved.policy_minutes == 100 * 9 / 2
    assert (
        estimate(dataclasses.replace(two_servers, workers=1), 100, None, cores=2, latency_ms=60e3).policy_minutes == 900
    )
    assert estimate(two_servers, 1, None, cores=2, latency_ms=60e3).policy_minutes == 9, "one episode is on one server"
    assert "simulation: less than a minute with" in str(estimate(ours, 1, None, cores=2))
    assert "batches" not in str(estimate(two_servers, 100, None, cores=2, latency_ms=60e3, deterministic=True))
    assert all(len(line) <= 80 for line in str(timed).splitlines())


BASE = {"server": ("ws://a:1",), "suite": "libero_object"}


def test_options_override_the_file(tmp_path):
    write_campaign(tmp_path / "c.yaml", campaign(seed=3, replan_steps=2, tasks=(4,)))
    file, folder = tmp_path / "c.yaml", tmp_path / "o"
    ours, output = asked("--campaign", file, "--output", folder, "--replan-steps", 10, "--episodes", "0-2")
    assert (ours.seed, ours.replan_steps, ours.tasks, ours.episodes, output) == (3, 10, (4,), (0, 1, 2), tmp_path / "o")


def test_a_spec_is_put_together_from_options_or_read(tmp_path):
    spec = {"collect_latents": True, "experts": "vlm", "layers": "5-7,11", "denoise_steps": "all", "reduction": "mean"}
    ours, _ = campaign_of(Rollout(**BASE, **spec, output=tmp_path))
    assert ours.capture_spec == {
        "experts": ["vlm"],
        "layers": [5, 6, 7, 11],
        "denoise_steps": "all",
        "reduction": "mean",
    }
    (tmp_path / "s.json").write_text('{"spans": ["text"]}')
    ours, _ = campaign_of(Rollout(**BASE, collect_latents=True, capture_spec=tmp_path / "s.json", output=tmp_path))
    assert ours.capture_spec == {"spans": ["text"]}


def test_displaced_scenes_and_other_objects_from_options(tmp_path):
    given = {"perturb": "move", "move_cm": 2.5, "prompt_mode": "other", "build_seconds": 9.0}
    ours, _ = campaign_of(Rollout(**BASE, **given, output=tmp_path))
    assert {name: getattr(ours, name) for name in given} == given
    write_campaign(tmp_path / CAMPAIGN_FILE, ours)
    resumed, _ = asked("--resume", tmp_path, "--build-seconds", 5)
    assert resumed == dataclasses.replace(ours, build_seconds=5.0)


def test_prompts_from_options(tmp_path):
    ours, _ = campaign_of(Rollout(**BASE, tasks=(0, 1), prompt="wave", output=tmp_path))
    assert ours.prompts == {0: "wave", 1: "wave"}
    name = "pick_up_the_cream_cheese_and_place_it_in_the_basket"
    (tmp_path / "p.yaml").write_text(f"0: a\n'2': b\n{name}: c\n")
    ours, _ = campaign_of(Rollout(**BASE, prompt_file=tmp_path / "p.yaml", output=tmp_path))
    assert ours.prompts == {0: "a", 1: "c", 2: "b"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--server: expected an address"),
        ({"output": "."}, "--server: expected an address"),
        ({**BASE, "retry_errors": True}, "--retry-errors: only with --resume FOLDER"),
        ({**BASE, "output": ".", "prompt": "a", "prompt_file": "b"}, "not together"),
        ({**BASE, "output": ".", "experts": "vlm"}, "--experts|--capture-spec: without --collect-latents"),
        ({**BASE, "stride": 10}, "--stride: without --collect-latents"),
        ({**BASE, "hang_seconds": 0.0}, "hang_seconds: expected more than 0"),
        ({**BASE, "connect_seconds": 0.0}, "connect_seconds: expected more than 0"),
        (
            {**BASE, "output": ".", "collect_latents": True, "layers": "9-2"},
            "layers '9-2': 9-2 runs backwards; write 2-9",
        ),
        ({"resume": "nowhere"}, "nowhere"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    paths = {name: Path(value) for name, value in options.items() if name in ("output", "resume", "prompt_file")}
    with pytest.raises(RolloutError, match=message):
        campaign_of(Rollout(**{**options, **paths}))


def test_prompts_that_are_no_text_are_refused_before_anything_starts(tmp_path, capsys):
    out = ["--output", str(tmp_path / "o"), "--server", "ws://127.0.0.1:9", "--suite", "libero_object"]
    (tmp_path / "p.json").write_text('{"3": "a\\ud800"}')
    for given, message in (
        (["--prompt", "bad \udcff"], r"prompt of task 0: 'bad \udcff'"),
        (["--prompt-file", str(tmp_path / "p.json")], r"prompt of task 3: 'a\ud800'"),
        (["--label", "bad\udcff"], r"label 'bad\udcff'"),
    ):
        for dry in ([], ["--dry-run"]):
            assert main(["rollout", *out, *given, *dry]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert message in line
    assert not (tmp_path / "o").exists()


def test_only_what_can_be_resumed_is_advised(tmp_path):
    ours = campaign()
    write_campaign(tmp_path / CAMPAIGN_FILE, ours)
    results = ResultFile(tmp_path / RESULT_FILE)
    results.append(row(ours, EpisodeKey(0, 0)))
    content = (tmp_path / RESULT_FILE).read_bytes() + b'{"torn'
    (tmp_path / RESULT_FILE).write_bytes(content)
    with pytest.raises(RolloutError, match=r"holds results already; `--resume \S+` continues them$"):
        campaign_of(Rollout(**BASE, output=tmp_path))
    assert (tmp_path / RESULT_FILE).read_bytes() == content, "another process may be at work here"
    write_campaign(tmp_path / CAMPAIGN_FILE, campaign(id="other"))
    with pytest.raises(RolloutError, match=r"which this vlascope cannot continue; choose another --output$"):
        campaign_of(Rollout(**BASE, output=tmp_path))
    (tmp_path / RESULT_FILE).write_text('{"suite": "libero_object", "prompt": "x"}\n')
    with pytest.raises(RolloutError, match=r"which this vlascope cannot continue; choose another --output$"):
        campaign_of(Rollout(**BASE, output=tmp_path))


def test_resume_takes_the_folders_campaign_with_new_servers(tmp_path):
    ours = campaign(seed=99)
    write_campaign(tmp_path / CAMPAIGN_FILE, ours)
    resumed, output = asked("--resume", tmp_path, "--server", "ws://new:9", "--workers", 2)
    assert resumed == dataclasses.replace(ours, servers=("ws://new:9",), workers=2)
    assert output == tmp_path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--seed", 7), "--seed 7 (the campaign has 99): that contradicts the campaign of {file}; leave it out"),
        (("--tasks", "0-1"), "--tasks 0,1 (the campaign has 0)"),
        (("--perturb", "both"), "--perturb both (the campaign has move)"),
        (("--no-collect-latents",), "--no-collect-latents (the campaign has --collect-latents)"),
        (("--layers", "3"), "--layers 3 (the campaign has 5)"),
        (("--layers", "5", "--experts", "vlm"), "--experts vlm (the campaign has none)"),
        (("--prompt", "b"), "--prompt 'b' (the campaign has 'a')"),
        (("--max-steps", "None"), "--max-steps none (the campaign has 40)"),
        (
            ("--layers", "3", "--seed", "7", "--no-annotations"),
            "--layers 3 (the campaign has 5); --seed 7 (the campaign has 99); --no-annotations (the campaign has --annotations)"
            ": that contradicts the campaign of {file}; leave them out to go on with it, or begin another campaign with "
            "`--campaign {file}`",
        ),
        (("--campaign", "c.yaml"), "--campaign: cannot be given with --resume: the campaign is that of {file}"),
        (("--output", "o"), "--output: cannot be given with --resume: the campaign is that of {file}"),
    ],
)
def test_resume_refuses_what_contradicts_the_campaign(tmp_path, capsys, given, said):
    ours = campaign(
        seed=99, perturb="move", max_steps=40, collect_latents=True, capture_spec={"layers": [5]}, prompts={0: "a"}
    )
    file = tmp_path / CAMPAIGN_FILE
    write_campaign(file, ours)
    assert main(["rollout", "--resume", str(tmp_path), *map(str, given)]) == 2
    assert said.format(file=file) in capsys.readouterr().err.splitlines()[-1]


def test_resume_takes_what_agrees_with_the_campaign_and_other_patience(tmp_path):
    ours = campaign(
        seed=99, perturb="move", max_steps=40, collect_latents=True, capture_spec={"layers": [5]}, prompts={0: "a"}
    )
    write_campaign(tmp_path / CAMPAIGN_FILE, ours)
    same = {"seed": 99, "tasks": 0, "perturb": "move", "layers": 5, "prompt": "a", "max-steps": 40}
    how = {
        "workers": 5,
        "attempts": 7,
        "hang-seconds": 1.5,
        "build-seconds": 2.5,
        "connect-seconds": 4.5,
        "reconnect-seconds": 3.5,
    }
    words = [word for name, value in (same | how).items() for word in (f"--{name}", value)]
    resumed, _ = asked("--resume", tmp_path, "--collect-latents", *words)
    assert resumed == dataclasses.replace(
        ours, workers=5, attempts=7, hang_seconds=1.5, build_seconds=2.5, connect_seconds=4.5, reconnect_seconds=3.5
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tasks", "9-2"), "'9-2': 9-2 runs backwards; write 2-9"),
        (("--episodes", "0:3"), "'0:3': expected numbers such as 0-9 (inclusive) or 0,3,5"),
    ],
)
def test_what_is_no_range_is_named_with_its_option(capsys, words, said):
    with pytest.raises(SystemExit) as end:
        main(["rollout", *words])
    assert end.value.code == 2
    written = capsys.readouterr()
    shown = " ".join((written.out + written.err).replace("│", " ").split())
    assert words[0] in shown
    assert said in shown


def test_all_tasks_unless_told(tmp_path):
    write_campaign(tmp_path / "c.yaml", campaign(tasks=(4,)))
    given = ("--server", "ws://a:1", "--suite", "libero_goal", "--output", tmp_path / "o")
    assert asked(*given)[0].tasks == tuple(range(10))
    assert asked(*given)[0].episodes == tuple(range(10))
    assert asked("--campaign", tmp_path / "c.yaml")[0].tasks == (4,)
    assert asked("--campaign", tmp_path / "c.yaml", "--tasks", "all")[0].tasks == tuple(range(10))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--campaign", "none.yaml"), "none.yaml: No such file or directory"),
        (("--campaign", "empty.yaml"), "empty.yaml: expected a map such as `name: value`, found nothing"),
        (("--campaign", "twice.yaml"), "twice.yaml: seed: is given twice"),
        (("--campaign", "far.yaml"), "far.yaml: workers: expected at least 1, found 0"),
        (("--campaign", "far.yaml", "--workers", "-1"), "workers: expected at least 1, found -1"),
        (("--campaign=",), "--campaign: expected a file, found nothing"),
        (("--resume=nowhere",), "nowhere: no such folder to go on with"),
        (("--resume", "."), ".: expected a folder of rollouts, found no campaign.yaml in it"),
    ],
)
def test_a_campaigns_file_that_cannot_be_used_is_one_line(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    for name, content in (("empty", ""), ("twice", "seed: 1\nseed: 2"), ("far", "workers: 0")):
        Path(f"{name}.yaml").write_text(content)
    assert main(["rollout", "--server", "ws://a:1", "--suite", "libero_goal", *words]) == 2
    assert capsys.readouterr().err == f"vlascope-sim: {said}\n"


def printed(capsys, *words: object) -> dict:
    assert main(["rollout", *map(str, words), "--print-config"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_print_config_prints_is_a_campaigns_file(tmp_path, capsys):
    given = (
        "--server", "ws://a:1", "--suite", "libero_goal", "--seed", 3, "--collect-latents", "--layers", "3,5", "--prompt",
        "wave", "--tasks", "1-2", "--assets", "somewhere", "--api-key", "hunter2",
    )  # fmt: skip
    file = tmp_path / "printed.json"
    file.write_text(json.dumps(printed(capsys, *given)))
    assert "hunter2" not in file.read_text()
    assert dataclasses.replace(asked("--campaign", file)[0], id="x") == dataclasses.replace(asked(*given)[0], id="x")
    assert printed(capsys, "--campaign", file) == json.loads(file.read_text())
    half = tmp_path / "half.json"
    half.write_text(json.dumps(printed(capsys, "--seed", 9)))  # with neither server nor suite
    assert asked("--campaign", half, *given[:4])[0].seed == 9


def test_print_config_of_a_resumed_campaign_shows_what_would_run(tmp_path, capsys):
    ours = campaign(seed=99, capture_spec={"layers": [5]}, collect_latents=True)
    write_campaign(tmp_path / CAMPAIGN_FILE, ours)
    shown = printed(capsys, "--resume", tmp_path, "--workers", 7)["rollout"]
    assert (shown["seed"], shown["workers"], shown["capture_spec"]) == (99, 7, {"layers": [5]})
    assert main(["rollout", "--resume", str(tmp_path), "--seed", "1", "--print-config"]) == 2
    assert "--seed 1 (the campaign has 99)" in capsys.readouterr().err


def test_a_switch_of_the_file_can_be_switched_off(tmp_path):
    write_campaign(tmp_path / "c.yaml", campaign(collect_latents=True, annotations=False, save_observations=True))
    ours, _ = asked(
        "--campaign", tmp_path / "c.yaml", "--no-collect-latents", "--annotations", "--suite", "libero_goal"
    )
    assert (ours.collect_latents, ours.annotations, ours.save_observations) == (False, True, True)
    assert ours.suite == "libero_goal"


def test_help_shows_a_files_values_as_defaults(tmp_path, capsys):
    write_campaign(tmp_path / "c.yaml", campaign(seed=12345, tasks=(2, 3, 4, 7)))
    with pytest.raises(SystemExit):
        main(["rollout", "--campaign", str(tmp_path / "c.yaml"), "--help"])
    shown = capsys.readouterr().out
    assert "12345" in shown
    assert "2-4,7" in shown


@pytest.mark.parametrize("words", [["--help"], ["rollout", "--help"], ["demonstrate", "--help"], ["assets", "--help"]])
def test_help_imports_no_simulator_and_no_jax(words):
    program = (
        "import sys; from vlascope_sim.commands import main\n"
        f"try: main({words})\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "usage: vlascope-sim" in run.stdout
    loaded = {name.partition(".")[0] for name in run.stderr.split()}
    assert not loaded & {"mujoco", "robosuite", "libero", "jax", "torch", "pyarrow", "pandas", "matplotlib", "av"}

"""One episode in this process: it ends where the goal is reached, and tells the server so."""

from __future__ import annotations

import dataclasses

import av
import pytest
from vlascope_client import PolicyClient, SpecMismatchError
from vlascope_latents.store import LatentStore
from vlascope_sim.environment import LiberoEnvironment, load_task
from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import EpisodeKey
from vlascope_sim.rollout.episode import blank_result, run_episode
from vlascope_sim.rollout.recorder import video_path
from vlascope_sim.rollout.results import ResultFile
from vlascope_sim.rollout.session import PolicySession, open_client

from tests.server.serving.live_server import serve
from tests.sim_eval.campaigns import campaign

STOVE = 7
KEY = EpisodeKey(STOVE, 3)


class HelpedEnvironment(LiberoEnvironment):
    """Somebody turns the stove on in the seventh step."""

    def reset(self, *args, **options):
        self.taken = 0
        return super().reset(*args, **options)

    def step(self, action, *, render=True):
        self.taken += 1
        if self.taken == 7:
            self.domain.sim.data.set_joint_qpos("flat_stove_1_button", 1.5)
        return super().step(action, render=render)


@pytest.fixture(scope="module")
def environment(assets):
    with HelpedEnvironment(load_task("libero_goal", STOVE), assets.folder, render="fast") as environment:
        yield environment


def of(policy_server, **changed):
    return campaign(
        servers=(policy_server.url,), suite="libero_goal", tasks=(STOVE,), episodes=(3,), render="fast", max_steps=30,
        video="steps", replan_steps=3, **changed,
    )  # fmt: skip


def test_an_episode_ends_with_the_goal_and_is_sealed_as_a_success(environment, assets, policy_server, tmp_path):
    ours = of(policy_server, collect_latents=True, stride=6, id="helped", prompts={STOVE: "light the stove"})
    (tmp_path / "videos").mkdir()
    video_path(tmp_path / "videos", ours.episode_name(KEY), False).touch()  # of an attempt whose result was lost
    phases = []
    with open_client(policy_server.url, ours, None) as client:
        row = run_episode(
            environment,
            client,
            ours,
            blank_result(ours, assets, KEY, 1),
            tmp_path,
            lambda phase, steps: phases.append(phase),
        )
    assert (row.status, row.success, row.steps, row.inferences, row.captures, row.frames) == ("done", True, 7, 3, 2, 2)
    assert (row.instruction, row.task_instruction) == ("light the stove", "turn on the stove")
    assert {"policy", "step"} == set(phases)
    with av.open(str(tmp_path / str(row.video))) as video:
        assert sum(1 for _ in video.decode(video=0)) == 7 + 20  # one second more
        assert video.streams.video[0].average_rate == 20
    assert [f"videos/{p.name}" for p in (tmp_path / "videos").iterdir()] == [row.video]
    assert str(row.video).endswith("-success.mp4")

    (stored,) = (e for e in LatentStore(policy_server.run).episodes() if e.row.episode == row.episode)
    assert (stored.success, stored.row.total_steps, stored.status) == (True, 7, "sealed")
    told = {name: stored.metadata[name] for name in ("instruction", "task_instruction", "prompt_mode")}
    assert told == {
        "instruction": "light the stove", "task_instruction": "turn on the stove", "prompt_mode": "given",
    }  # fmt: skip
    ended = {name: stored.metadata[name] for name in ("lifted_first", "inferences", "trajectory")}
    assert ended == {"lifted_first": None, "inferences": 3, "trajectory": row.trajectory}
    assert (row.lifted_first, len(str(row.trajectory))) == (None, 32)
    assert [line.timestep for line in stored.lines()] == [0, 6]


def test_the_same_episode_again_is_the_same_and_other_noise_is_not(environment, assets, policy_server, tmp_path):
    ours = dataclasses.replace(of(policy_server, noise_seeds=2), video="none")
    keys = [KEY, KEY, EpisodeKey(STOVE, 3, 1)]
    with open_client(policy_server.url, ours, None) as client:
        first, again, other = (
            run_episode(environment, client, ours, blank_result(ours, assets, key, 1), tmp_path, lambda *_: None)
            for key in keys
        )
    assert first.trajectory == again.trajectory != other.trajectory
    assert first.environment_seed == other.environment_seed
    assert first.run is None  # nothing was captured


def test_a_prompt_that_was_cut_is_said_once_and_is_in_each_result(environment, assets, policy_server, tmp_path, caplog):
    ours = dataclasses.replace(of(policy_server, noise_seeds=2, id="cut", prompts={STOVE: "so " * 200}), video="none")
    with open_client(policy_server.url, ours, None) as client:
        rows = [
            run_episode(environment, client, ours, blank_result(ours, assets, key, 1), tmp_path, lambda *_: None)
            for key in (KEY, EpisodeKey(STOVE, 3, 1))
        ]
    said = [r.getMessage() for r in caplog.records if "the server warns" in r.getMessage()]
    assert len(said) == 1
    for row in rows:
        (warning,) = row.warnings
        assert warning.endswith("the policy has not seen them")
        assert warning in said[0]
    results = ResultFile(tmp_path / "episodes.jsonl")
    results.append(rows[0])
    assert ResultFile(tmp_path / "episodes.jsonl").rows == rows[:1]


def test_chunks_shorter_than_the_replan_steps_are_refused(policy_server):
    ours = campaign(servers=(policy_server.url,), replan_steps=11)
    with (
        PolicyClient(policy_server.url) as client,
        pytest.raises(RolloutError, match="replan_steps: 11 is more than the policy's action_horizon, 10"),
    ):
        PolicySession(client, ours, EpisodeKey(0, 0), {"id": "x"})


def test_a_server_without_a_store_is_refused_before_any_work():
    ours = campaign(collect_latents=True)
    with (
        serve(ready=False) as bare,
        pytest.raises(SpecMismatchError, match=r"store: expected .a server with one: vlascope-server serve --store"),
    ):
        open_client(bare.url, ours, None, first_contact=True)

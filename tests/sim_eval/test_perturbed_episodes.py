"""Episodes in displaced scenes, and told another object: they repeat, and say what was done, told and lifted."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from vlascope_client import PolicyClient
from vlascope_latents.store import LatentStore
from vlascope_sim.environment import LiberoEnvironment, load_task
from vlascope_sim.errors import SimulationError
from vlascope_sim.perturb import PerturbationError
from vlascope_sim.rollout.campaign import Campaign, EpisodeKey
from vlascope_sim.rollout.episode import blank_result, run_episode
from vlascope_sim.rollout.results import EpisodeResult, ResultFile

from tests.sim_eval.campaigns import campaign

KEY = EpisodeKey(0, 2)


class HandyEnvironment(LiberoEnvironment):
    """Somebody lifts an object in the third step, and lets it fall into the basket in the fifth."""

    lifts: str | None = None

    def reset(self, *args, **options):
        self.taken = 0
        return super().reset(*args, **options)

    def step(self, action, *, render=True):
        self.taken += 1
        if self.lifts and self.taken == 3:
            self.carry(self.lifts, np.array([0, 0, 0.1]), self.place(self.lifts))
        if self.lifts and self.taken == 5:
            self.carry(self.lifts, np.array([0, 0, 0.08]), self.place("basket_1"))
        return super().step(action, render=render)

    def place(self, name: str) -> np.ndarray:
        return np.array(self.domain.sim.data.body_xpos[self.domain.obj_body_id[name]])

    def carry(self, name: str, over: np.ndarray, place: np.ndarray) -> None:
        joint = self.domain.objects_dict[name].joints[-1]
        turn = self.domain.sim.data.get_joint_qpos(joint)[3:]
        self.domain.sim.data.set_joint_qpos(joint, np.concatenate([place + over, turn]))


@pytest.fixture(scope="module")
def environment(assets):
    with HandyEnvironment(load_task("libero_object", 0), assets.folder, render="fast") as environment:
        yield environment


@pytest.fixture
def run(environment, assets, policy_server, tmp_path):
    def run(lifts: str | None = None, **changed) -> tuple[Campaign, EpisodeResult]:
        environment.lifts = lifts
        ours = campaign(episodes=(2,), render="fast", max_steps=20, replan_steps=10, video="none", **changed)
        with PolicyClient(policy_server.url) as client:
            row = run_episode(environment, client, ours, blank_result(ours, assets, KEY, 1), tmp_path, lambda *_: None)
        return ours, row

    return run


def test_a_perturbed_episode_repeats_and_differs_from_the_plain_one(run, policy_server, tmp_path):
    _, plain = run()
    ours, moved = run(perturb="both", move_cm=4.0, collect_latents=True, id="moved")
    _, again = run(perturb="both", move_cm=4.0)
    _, elsewhere = run(perturb="both", move_cm=4.0, seed=8)
    assert moved.trajectory == again.trajectory
    assert moved.perturbation == again.perturbation
    assert len({plain.trajectory, moved.trajectory, elsewhere.trajectory}) == 3
    assert plain.perturbation is None
    assert moved.perturbation["perturbation"] == ours.perturbation(KEY).to_map()
    assert set(moved.perturbation["after"].values()) != set(elsewhere.perturbation["after"].values())
    assert moved.settle_speed is not None
    assert moved.settle_speed < 0.05
    assert (moved.lifted_first, moved.told_object, moved.told_goal) == (None, "alphabet_soup_1", None)

    (stored,) = (e for e in LatentStore(policy_server.run).episodes() if e.row.episode == moved.episode)
    kept = stored.metadata["perturbation"]
    assert kept == json.loads(json.dumps(moved.perturbation))
    results = ResultFile(tmp_path / "episodes.jsonl")
    results.append(moved)
    (read,) = ResultFile(tmp_path / "episodes.jsonl").rows
    assert read.perturbation == kept


def test_told_another_object_success_is_what_was_told(run):
    ours = campaign(episodes=(2,), prompt_mode="other")
    told = ours.told(KEY)
    _, obeyed = run(told.object, prompt_mode="other")
    assert (obeyed.instruction, obeyed.told_object) == (told.instruction, told.object)
    assert obeyed.told_goal == f"in {told.object} basket_1_contain_region"
    assert obeyed.lifted_first == told.object
    assert obeyed.success

    _, deaf = run("alphabet_soup_1", prompt_mode="other")
    assert (deaf.success, deaf.lifted_first) == (False, "alphabet_soup_1")
    _, plain = run("alphabet_soup_1")
    assert (plain.success, plain.lifted_first, plain.told_object) == (True, "alphabet_soup_1", "alphabet_soup_1")
    _, idle = run()
    assert (idle.success, idle.lifted_first) == (False, None)


def test_annotations_follow_the_goal(environment):
    environment.lifts = None
    environment.pursue([("in", "milk_1", "basket_1_contain_region")])
    environment.reset(0, seed=1, render=False)
    distance = np.linalg.norm(environment.place("milk_1") - environment.annotations()["gripper_position"])
    np.testing.assert_allclose(environment.annotations()["gripper_distance"], [distance], atol=1e-6)
    environment.pursue(None)
    distance = np.linalg.norm(environment.place("alphabet_soup_1") - environment.annotations()["gripper_position"])
    np.testing.assert_allclose(environment.annotations()["gripper_distance"], [distance], atol=1e-6)
    with pytest.raises(SimulationError, match=r"task 0 of libero_object has no 'wine_1'; it has .*milk_1"):
        environment.pursue([("in", "wine_1", "basket_1_contain_region")])


def test_a_scene_without_room_is_an_error_and_no_failed_episode(run, monkeypatch):
    def full(*_):
        raise PerturbationError("no room")

    monkeypatch.setattr("vlascope_sim.perturb.displace.apply", full)
    _, row = run(perturb="move")
    assert (row.status, row.reason, row.success) == ("error", "no room", None)
    assert dataclasses.replace(row, status="done").key == KEY

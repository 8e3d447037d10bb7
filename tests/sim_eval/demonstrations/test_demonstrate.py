"""The expert does what it is told, starts over after a miss, and what it did becomes a dataset."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from vlascope_datasets import DatasetWriter, LeRobotDataset
from vlascope_sim.commands import demonstrate_run, main
from vlascope_sim.demonstrations.collect import Collector
from vlascope_sim.demonstrations.dataset import features, open_dataset
from vlascope_sim.demonstrations.episode import AFTERWARDS, Frames, Outcome
from vlascope_sim.demonstrations.expert import Expert
from vlascope_sim.demonstrations.grasps import choose_grasp
from vlascope_sim.demonstrations.options import PlanOptions
from vlascope_sim.demonstrations.plan import plan
from vlascope_sim.demonstrations.records import append_run
from vlascope_sim.environment import LiberoEnvironment, load_task
from vlascope_sim.environment.goals import goals_of
from vlascope_sim.errors import SimulationError
from vlascope_sim.perturb.scene import Scene

SIZE = 48


@pytest.fixture(scope="module")
def collector(assets):
    made = Collector(assets.folder, image_size=SIZE)
    yield made
    made.close()


def test_another_object_than_the_tasks_is_put_into_the_basket_when_told(collector):
    """Shuffled: neither the scene nor a place tells what to do."""
    usual = goals_of(load_task("libero_object", 0), "told")[0]
    (made,) = [
        each
        for each in plan(
            PlanOptions(suite="libero_object", tasks=(0,), episodes=(1,), targets="all", perturb="shuffle")
        )
        if each.goal.target == "milk_1"
    ]
    outcome, frames = collector.make(made)
    assert outcome.success
    assert len(frames.image) == len(frames.actions) == outcome.frames == outcome.steps + AFTERWARDS
    assert outcome.lifted_first == "milk_1" != usual.target
    scene = Scene(collector._environment)
    assert scene.holds(made.goal.condition)
    assert not scene.holds(usual.condition)
    assert not collector._environment.step(np.zeros(7), render=False)[1]  # the task's own goal is not reached


def test_a_demonstration_repeats_bit_for_bit(collector):
    noise = {"noise": True, "noise_sigmas": (0.25,), "noise_bursts": 1}
    (made,) = plan(PlanOptions(tasks=(1,), episodes=(0,), perturb="both", move_cm=4, **noise))
    (first, seen), (again, seen_again) = (collector.make(made) for _ in range(2))
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(again, seconds=0)
    np.testing.assert_array_equal(seen.image, seen_again.image)
    np.testing.assert_array_equal(seen.actions, seen_again.actions)
    assert first.sigma == 0.25


def test_a_missed_grasp_is_tried_again(assets):
    """A bowl by its rim, onto a plate."""
    task = load_task("libero_goal", 8)
    (goal,) = goals_of(task, "told")
    with LiberoEnvironment(task, assets.folder, render="fast") as environment:
        environment.reset(0, 0, render=False)
        scene = Scene(environment)
        expert = Expert(scene, goal)
        for _ in range(task.step_limit):
            action = expert.act()
            if expert.grasps == 1:
                action[6] = -1  # the fingers do not obey
            _, success = environment.step(action, render=False)
            if scene.holds(goal.condition):
                break
        assert success
        assert expert.grasps == 2
        assert environment.lifted_first == goal.target


def test_a_bowl_is_taken_by_the_same_rim_wherever_it_stands_in_the_shipped_scenes(assets):
    """Otherwise the side turns on what nobody sees, and a policy learns to reach between the two."""
    with LiberoEnvironment(load_task("libero_goal", 8), assets.folder, render="fast") as environment:
        for init_state in range(8):
            environment.reset(init_state, 0, render=False)
            grasps = [choose_grasp(Scene(environment), "akita_black_bowl_1", "plate_1", attempt) for attempt in (1, 2)]
            assert all(grasp.offset[1] < -0.03 for grasp in grasps)
        third = choose_grasp(Scene(environment), "akita_black_bowl_1", "plate_1", 3)
        assert third.offset[1] > 0.02  # a side that failed twice is given up


def test_half_a_line_that_a_full_disk_left_is_taken_back(tmp_path):
    assert append_run(tmp_path, {"run": 0}) == 0
    with (tmp_path / "collections.jsonl").open("a") as file:
        file.write('{"run"')
    assert append_run(tmp_path, {"run": 1}) == 1
    assert [json.loads(line) for line in (tmp_path / "collections.jsonl").open()] == [{"run": 0}, {"run": 1}]


@pytest.mark.slow
def test_the_command_writes_a_dataset_that_can_be_added_to(assets, tmp_path, capsys):
    folder = tmp_path / "demonstrations"
    asked = [
        "demonstrate",
        "--output",
        str(folder),
        "--suite",
        "libero_object",
        "--tasks",
        "1",
        "--image-size",
        str(SIZE),
        "--noise",
    ]
    assert main([*asked, "--episodes", "0", "--dry-run"]) == 0
    assert not folder.exists()
    assert main([*asked, "--episodes", "0"]) == 0
    assert main([*asked, "--episodes", "0-1", "--resume"]) == 0
    assert main([*asked, "--episodes", "0"]) == 2
    assert "not empty" in capsys.readouterr().err

    dataset = LeRobotDataset.open(folder)
    rows = [json.loads(line) for line in (folder / "demonstrations.jsonl").read_text().splitlines()]
    assert [row["dataset_episode"] for row in rows if row["outcome"]["success"]] == list(range(len(dataset.episodes)))
    assert [row["demonstration"]["episode"] for row in rows] == [0, 1]
    assert [row["collection"] for row in rows] == [0, 1]
    assert rows[0]["outcome"]["success"]
    assert dataset.info.fps == 20
    row = rows[0]["outcome"]
    assert dataset.episodes[0].length == row["frames"] == row["steps"] + AFTERWARDS
    assert dataset.task(0) == load_task("libero_object", 1).instruction

    frames = dataset.frames(0)
    assert frames["state"].shape == (row["frames"], 8)
    assert frames["actions"].shape == (row["frames"], 7)
    assert set(np.unique(frames["actions"][:, 6])) == {-1, 1}
    assert frames["action_mask"].dtype == bool
    away = np.linalg.norm(frames["image_target"] - frames["image_place"], axis=-1)
    assert away[0] > 0.2
    assert away[-1] < 0.15
    with LiberoEnvironment(load_task("libero_object", 1), assets.folder, render="fast", image_size=SIZE) as environment:
        made = rows[0]["demonstration"]
        seen = environment.reset(made["init_state"], made["environment_seed"])
    np.testing.assert_array_equal(dataset.image(0, 0, "image"), seen.image)
    np.testing.assert_array_equal(dataset.image(0, 0, "wrist_image"), seen.wrist_image)
    np.testing.assert_allclose(frames["state"][0], seen.state, rtol=1e-6)

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["all"]["tried"] == 2
    assert summary["last_run"]["assets"]["hash"] == assets.hash


def test_starts_of_every_goal_in_one_scene(assets, tmp_path):
    """The same scene for each target: the first image is the same, and only the instruction tells what follows."""
    folder = tmp_path / "starts"
    options = [
        "--tasks", "1", "--episodes", "0", "--targets", "all", "--perturb", "both",
        "--max-steps", "12", "--keep-failures", "--image-size", "32",
    ]  # fmt: skip
    assert main(["demonstrate", "--output", str(folder), "--assets", str(assets.folder), *options]) == 0
    dataset = LeRobotDataset.open(folder)
    count = len(dataset.episodes)
    assert count == len({dataset.task(number) for number in range(count)}) == 6
    assert {episode.length for episode in dataset.episodes} == {12}
    for number in range(1, count):
        np.testing.assert_array_equal(dataset.image(number, 0, "image"), dataset.image(0, 0, "image"))
    places = np.stack([dataset.frames(number)["image_target"][0] for number in range(count)])
    assert ((places > 0.2) & (places < 0.9)).all()
    assert np.linalg.norm(places[:, None] - places[None], axis=-1)[~np.eye(count, dtype=bool)].min() > 0.03
    # the basket stays where it is, whatever is told
    baskets = np.stack([dataset.frames(number)["image_place"] for number in range(count)])
    assert np.ptp(baskets, axis=(0, 1)).max() < 1e-3
    assert np.linalg.norm(places - baskets[:, 0], axis=-1).min() > 0.03
    ways = np.stack([dataset.frames(number)["actions"][:, :3].mean(axis=0) for number in range(count)])
    assert len(np.unique(ways.round(2), axis=0)) == count


def test_a_demonstration_that_was_announced_and_not_written_is_made_again(tmp_path):
    from vlascope_sim.demonstrations.records import DemonstrationList

    lines = [{"id": "a", "dataset_episode": 0}, {"id": "b", "dataset_episode": None}, {"id": "c", "dataset_episode": 1}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"id": "d", "data'
    (tmp_path / "demonstrations.jsonl").write_text(text)
    assert DemonstrationList(tmp_path, episodes=1).done == {"a", "b"}
    assert len((tmp_path / "demonstrations.jsonl").read_text().splitlines()) == 2


def test_failures_that_were_left_out_are_made_again_where_they_are_to_be_kept(assets, tmp_path, monkeypatch):
    made = []

    def failing(demonstrations, *_, **__):
        for demonstration in demonstrations:
            made.append(demonstration.episode)
            if demonstration.episode == 2:
                yield demonstration, Outcome(success=False, problem="no room"), None
            else:
                pictures = np.zeros((3, SIZE, SIZE, 3), np.uint8)
                state, actions, target = (np.zeros((3, n), np.float32) for n in (8, 7, 2))
                frames = Frames(pictures, pictures, state, actions, np.ones(3, bool), *[target] * 4)
                yield demonstration, Outcome(success=False, steps=3, frames=3), frames

    monkeypatch.setattr(demonstrate_run, "collect", failing)
    folder = tmp_path / "demonstrations"
    asked = ["demonstrate", "--output", str(folder), "--assets", str(assets.folder), "--tasks", "1"]
    asked += ["--episodes", "0-2", "--image-size", str(SIZE)]
    assert main(asked) == 1
    assert main([*asked, "--resume"]) == 1
    assert made == [0, 1, 2]
    assert main([*asked, "--resume", "--keep-failures"]) == 0
    assert made == [0, 1, 2, 0, 1]
    assert main([*asked, "--resume", "--keep-failures"]) == 0
    assert made == [0, 1, 2, 0, 1]
    assert len(LeRobotDataset.open(folder).episodes) == 2
    rows = [json.loads(line) for line in (folder / "demonstrations.jsonl").read_text().splitlines()]
    assert {row["demonstration"]["episode"]: row["dataset_episode"] for row in rows} == {0: 0, 1: 1, 2: None}
    assert len(rows) == 3
    summary = json.loads((folder / "summary.json").read_text())["all"]
    assert (summary["tried"], summary["no_room"]) == (2, 1)


def test_another_version_than_the_datasets_is_refused(tmp_path):
    with DatasetWriter.create(tmp_path / "it", fps=20, features=features(SIZE), version="v3.0"):
        pass
    with pytest.raises(SimulationError) as error:
        open_dataset(tmp_path / "it", SIZE, "v2.1", resume=True)
    assert "dataset_version v2.1: the dataset is v3.0" in str(error.value)
    open_dataset(tmp_path / "it", SIZE, "v3.0", resume=True).close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--suite", "libero_goal", "--tasks", "7"], "none is of picking up"),
        (["--suite", "libero_spatial", "--targets", "all"], "targets 'all'"),
        (["--workers", "0"], "workers 0"),
        (["--max-steps", "0"], "max_steps 0"),
        (["--noise", "--noise-bursts", "-1"], "noise_bursts -1"),
        (["--noise", "--noise-sigmas", "0.1", "-0.1"], "noise_sigmas (0.1, -0.1)"),
        (["--tasks", "11"], "task 11"),
        (["--resume"], "no such folder"),
    ],
)
def test_what_cannot_be_made_is_one_line(options, said, assets, tmp_path, capsys):
    assert main(["demonstrate", "--output", str(tmp_path / "new"), *options]) == 2
    said_last = capsys.readouterr().err.strip().splitlines()[-1]
    assert said_last.startswith("vlascope-sim: ")
    assert said in said_last
    assert not (tmp_path / "new").exists()

"""Frames along time: those that all episodes have, and those of each window."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from vlascope_analysis.data.episodes import choose_episodes
from vlascope_analysis.data.features import Slice, load_features
from vlascope_analysis.data.windows import gripper_closes, make_windows
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EpisodeQuery
from vlascope_latents import CaptureSpec
from vlascope_latents.store import LatentStore

from tests.analysis.stores import make_run

SPEC = CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",), dtype="float32")


def frames(*timesteps: tuple[int, ...], total: int | None = None) -> pd.DataFrame:
    """A table of episodes with frames at these timesteps."""
    rows = [(f"e{n}", t) for n, own in enumerate(timesteps) for t in own]
    table = pd.DataFrame(rows, columns=["episode", "timestep"]).assign(run="r")
    return table.assign(total_steps=pd.array([total] * len(table), dtype="Int64"))


def test_one_window_unless_told():
    (window,), warnings = make_windows(frames((0, 5), (0,)), None, 4)
    assert (window.frames.tolist(), warnings) == ([0, 1, 2], [])


def test_by_timestep_and_those_that_lack_one_are_left_out_of_all():
    windows, warnings = make_windows(frames((0, 5, 10), (0, 5), (0, 5, 10)), "timestep", 4)
    assert [(w.name, w.frames.tolist()) for w in windows] == [("0", [0, 5]), ("5", [1, 6]), ("10", [2, 7])]
    assert warnings == ["1 of 3 episodes left out: they have no frame in some window (0, 5, 10)"]
    with pytest.raises(AnalysisError, match=r"--by timestep: no episode has a frame in every window \(0, 5\)"):
        make_windows(frames((0,), (5,)), "timestep", 4)


def test_parts_of_an_episode_are_of_its_own_length():
    table = frames((0, 5, 10, 15), (0, 10, 20, 30))
    windows, _ = make_windows(table, "fraction", 2)  # of 16 and of 31 steps: the last frame is the end
    assert [(w.name, w.frames.tolist()) for w in windows] == [("0-50 %", [0, 1, 4, 5]), ("50-100 %", [2, 3, 6, 7])]
    longer, _ = make_windows(table.assign(total_steps=pd.array([16] * 4 + [60] * 4, dtype="Int64")), "fraction", 2)
    assert longer[1].frames.tolist() == [2, 3, 7], "the store knows how long an episode was"
    with pytest.raises(AnalysisError, match="--parts 1: expected at least 2"):
        make_windows(table, "fraction", 1)


def test_before_the_grasp_and_from_it_on():
    table = frames((0, 5, 10), (0, 5, 10), (0, 5, 10))
    closing = np.array([False, True, False, False, False, True, False, False, False])
    windows, warnings = make_windows(table, "grasp", 4, closing)
    assert [(w.name, w.frames.tolist()) for w in windows] == [
        ("before the grasp", [0, 3, 4]), ("from the grasp on", [1, 2, 5])
    ]  # fmt: skip
    assert "1 of 3 episodes left out" in warnings[0]
    with pytest.raises(AnalysisError, match="none has one from the grasp on"):
        make_windows(table, "grasp", 4, np.zeros(9, bool))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Two runs whose episodes are of different lengths, with actions whose gripper closes at timestep 10."""
    root = tmp_path_factory.mktemp("runs")
    actions = lambda moment: {"actions": np.full((3, 7), 1.0 if moment.timestep >= 10 else -1.0, np.float32)}  # noqa: E731
    make_run(root, tasks=2, episodes=2, timesteps=(0, 10), spec=SPEC, campaign="short", values=actions)
    make_run(root, tasks=2, episodes=2, timesteps=(0, 10, 20), spec=SPEC, campaign="long", values=actions)
    store = LatentStore(root)
    return store, choose_episodes(store, EpisodeQuery())[0]


def test_timesteps_that_all_episodes_have(uneven):
    store, episodes = uneven
    common = load_features(store, episodes, Slice("vlm"), frames="common")
    assert sorted(common.frames["timestep"]) == [0] * 8 + [10] * 8
    assert "taken are the 2 rollout steps that all of them have (to 10), 16 of 20 frames" in common.warnings[0]
    assert len(load_features(store, episodes, Slice("vlm")).frames) == 20
    both = load_features(store, episodes, Slice("vlm"), timesteps=(10, 20), frames="common")
    assert (len(both.frames), set(both.frames["campaign"])) == (8, {"long"})
    assert "4 of 8 episodes lack a frame at one of the rollout steps" in both.warnings[0]
    assert len(load_features(store, episodes, Slice("vlm"), timesteps=(10, 20)).frames) == 12


def test_where_the_gripper_closes_is_read_off_the_actions(uneven):
    store, episodes = uneven
    found = load_features(store, episodes, Slice("vlm")).frames
    np.testing.assert_array_equal(gripper_closes(store, episodes, Slice("vlm"), None), found["timestep"] >= 10)


def test_episodes_can_be_left_out(uneven):
    store, episodes = uneven
    name = episodes[0].episode.id
    assert len(choose_episodes(store, EpisodeQuery(exclude_episodes=(name,)))[0]) == 7
    with pytest.raises(AnalysisError, match="--exclude-episodes: no episode nobody; `vlascope-latents ls` lists"):
        choose_episodes(store, EpisodeQuery(exclude_episodes=("nobody",)))

"""Which episodes are taken, and what is said where some are missing."""

from __future__ import annotations

import pytest
from vlascope_analysis.data.episodes import choose_episodes
from vlascope_analysis.data.features import Slice, load_features
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EpisodeQuery
from vlascope_latents import CaptureSpec
from vlascope_latents.store import LatentStore, StoreError

from tests.analysis.stores import INSTRUCTIONS, make_run

TINY = CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Tasks 0 to 2, episodes 0 to 2; one interrupted."""
    return make_run(
        tmp_path_factory.mktemp("runs"), tasks=3, episodes=3, timesteps=(0,), spec=TINY,
        statuses=lambda task, number: "interrupted" if (task, number) == (1, 2) else "sealed",
    )  # fmt: skip


def chosen(store, **query) -> list[tuple[int, int]]:
    return [(e.task, e.number) for e in choose_episodes(store, EpisodeQuery(**query))[0]]


def test_ranges_are_half_open(store):
    assert chosen(store, task_range=(0, 2), episode_range=(1, 2)) == [(0, 1), (1, 1)]
    assert len(chosen(store)) == 8


def test_interrupted_ones_are_left_out_and_counted(store):
    episodes, warnings = choose_episodes(store, EpisodeQuery())
    assert (1, 2) not in [(e.task, e.number) for e in episodes]
    assert warnings == ["1 episode left out: interrupted"]
    episodes, warnings = choose_episodes(store, EpisodeQuery(interrupted=True))
    assert len(episodes) == 9
    assert warnings == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"task_range": (0, 5)}, "tasks 3, 4 are not there; found tasks 0-2 with episodes 0-2; --allow-missing"),
        ({"task_range": (7, 9)}, "tasks 7, 8 are not there; found tasks 0-2 with episodes 0-2$"),
        ({"episode_range": (0, 3)}, "task 1 lacks episodes 2; found tasks 0-2"),
        ({"episode_range": (0, 9), "task_range": (2, 3)}, "task 2 lacks episodes 3-8"),
        ({"episode_range": (2, 2)}, "--episode-range 2 2: selects nothing"),
        ({"suite": "libero_10"}, "'libero_10' is not there; found libero_goal"),
    ],
)
def test_what_is_missing_is_listed(store, query, message):
    with pytest.raises(AnalysisError, match=message):
        choose_episodes(store, EpisodeQuery(**query))


def test_allow_missing_takes_the_rest(store):
    episodes, warnings = choose_episodes(store, EpisodeQuery(task_range=(2, 5), allow_missing=True))
    assert [(e.task, e.number) for e in episodes] == [(2, 0), (2, 1), (2, 2)]
    assert any("tasks 3, 4 are not there" in warning for warning in warnings)


def test_only_interrupted(tmp_path):
    store = make_run(tmp_path, tasks=1, episodes=1, spec=TINY, statuses=lambda *_: "interrupted")
    with pytest.raises(AnalysisError, match=r"no sealed episodes .*--interrupted"):
        choose_episodes(store, EpisodeQuery())


def test_several_runs(tmp_path):
    make_run(tmp_path, tasks=1, episodes=2, timesteps=(0,), spec=TINY)
    make_run(tmp_path, tasks=1, episodes=2, timesteps=(0,), spec=TINY)
    store = LatentStore(tmp_path)
    episodes, _ = choose_episodes(store, EpisodeQuery())
    assert len(episodes) == 4
    frames = load_features(store, episodes, Slice("text_only")).frames
    assert len(set(frames["init_state"])) == 2, (
        "the same episode in two runs begins alike: it stays on one side of a split"
    )
    make_run(tmp_path, tasks=1, episodes=2, timesteps=(0,), spec=TINY, fingerprint="other", suite="libero_10")
    store = LatentStore(tmp_path)
    with pytest.raises(AnalysisError, match=r"runs of different policies: .*f00d.*other.*--run"):
        choose_episodes(store, EpisodeQuery())
    with pytest.raises(AnalysisError, match=r"several suites .*libero_10, libero_goal.*--suite"):
        choose_episodes(store, EpisodeQuery(task_range=(0, 1)))
    assert len(choose_episodes(store, EpisodeQuery(suite="libero_10"))[0]) == 2


def test_two_campaigns_of_one_scene(tmp_path):
    small = {"tasks": 2, "episodes": 2, "timesteps": (0,), "spec": TINY}
    make_run(tmp_path, campaign="own", **small)
    make_run(tmp_path, campaign="again", **small)
    make_run(tmp_path, campaign="swapped", **small, metadata=lambda task, _: {"instruction": INSTRUCTIONS[1 - task]})
    store = LatentStore(tmp_path)
    episodes, warnings = choose_episodes(store, EpisodeQuery())
    assert len(episodes) == 12
    assert warnings == ["episodes of several campaigns: again, own, swapped; --campaign takes those of one"]
    frames = load_features(store, episodes, Slice("text_only")).frames
    one = frames[(frames["task_id"] == 0) & (frames["episode_index"] == 1)]
    assert len(set(one["init_state"])) == 1, "one initial state, whatever the campaign and whatever was told"
    assert (len(set(frames["init_state"])), len(set(frames["scene"]))) == (4, 2)
    episodes, warnings = choose_episodes(store, EpisodeQuery(campaign="swapped"))
    assert ([e.episode.campaign for e in episodes], warnings) == (["swapped"] * 4, [])
    with pytest.raises(StoreError, match="no episodes without a campaign; found again, own, swapped"):
        choose_episodes(store, EpisodeQuery(campaign="none"))
    make_run(tmp_path, **small)
    store = LatentStore(tmp_path)
    _, warnings = choose_episodes(store, EpisodeQuery())
    assert warnings == ["episodes of several campaigns: again, none, own, swapped; --campaign takes those of one"]
    episodes, warnings = choose_episodes(store, EpisodeQuery(campaign="none"))
    assert ([e.episode.campaign for e in episodes], warnings) == ([None] * 4, [])


def test_without_numbers_episodes_are_counted(tmp_path):
    store = make_run(
        tmp_path, tasks=2, episodes=2, timesteps=(0,), spec=TINY, metadata=lambda *_: {"episode_index": None}
    )
    assert chosen(store) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def of_no_task(root, episodes: int, *, instruction: str | None = "wave", campaign: str = "aa") -> None:
    """Episodes as a client stores them that gives an id and a prompt alone: the server adds the instruction."""
    make_run(
        root, tasks=1, episodes=episodes, timesteps=(0,), spec=TINY, campaign=campaign, suite="robot",
        metadata=lambda *_: {**dict.fromkeys(("suite", "task_id", "task_name", "episode_index", "task_instruction")),
                             "instruction": instruction},
    )  # fmt: skip


def test_an_episode_of_no_task_is_no_class_beside_the_tasks(tmp_path):
    make_run(tmp_path, tasks=2, episodes=2, timesteps=(0,), spec=TINY, campaign="aa")
    of_no_task(tmp_path, 2)
    store = LatentStore(tmp_path)
    episodes, warnings = choose_episodes(store, EpisodeQuery(campaign="aa"))
    assert [(e.task, e.number) for e in episodes] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert warnings == [
        "2 episodes left out, of no task where others have one (their metadata lack `task_id`): "
        "aa+robot-task0-ep0, aa+robot-task0-ep1"
    ]
    frames = load_features(store, episodes, Slice("text_only")).frames
    assert set(frames["instruction"]) == set(INSTRUCTIONS[:2])
    with pytest.raises(AnalysisError, match="tasks 2 are not there; found tasks 0, 1 with"):
        choose_episodes(store, EpisodeQuery(task_range=(0, 3)))


def test_where_no_episode_has_a_task_the_instruction_alone_counts(tmp_path):
    of_no_task(tmp_path, 1)
    of_no_task(tmp_path, 2, instruction="", campaign="bb")
    episodes, warnings = choose_episodes(LatentStore(tmp_path), EpisodeQuery())
    assert len(episodes) == 3
    assert warnings == ["episodes of several campaigns: aa, bb; --campaign takes those of one"]


def test_an_episode_that_does_not_say_what_was_told_is_left_out_and_named(tmp_path):
    make_run(tmp_path, tasks=2, episodes=2, timesteps=(0,), spec=TINY, metadata=lambda task, number: (
        {"instruction": None, "task_name": None} if (task, number) == (1, 0) else {}))  # fmt: skip
    episodes, warnings = choose_episodes(LatentStore(tmp_path), EpisodeQuery())
    assert [(e.task, e.number) for e in episodes] == [(0, 0), (0, 1), (1, 1)]
    assert warnings == ["1 episode left out, with neither an instruction nor a task's name: libero_goal-task1-ep0"]


def test_where_nothing_says_what_was_told_there_is_nothing_to_predict(tmp_path):
    of_no_task(tmp_path, 1, instruction=None)
    with pytest.raises(AnalysisError, match=r"no episode says what the policy was told.*: nothing to predict"):
        choose_episodes(LatentStore(tmp_path), EpisodeQuery())

"""What a label says of each episode: metadata, outcomes, constant annotations. What is none is refused, and gaps are named."""

from __future__ import annotations

import numpy as np
import pytest
from vlascope_analysis.data.encoders import open_encoder
from vlascope_analysis.data.episodes import choose_episodes
from vlascope_analysis.data.features import Slice, load_features
from vlascope_analysis.data.labels import labels_of
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EpisodeQuery
from vlascope_latents import CaptureSpec

from tests.analysis.stores import INSTRUCTIONS, make_run

TINY = CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",))
OBJECTS = ("milk", "butter", "ketchup")


def metadata(task: int, number: int) -> dict:
    told = OBJECTS[(task + number) % 3]
    return {
        "prompt_mode": "other" if number < 3 else "task", "told_object": None if (task, number) == (1, 2) else told,
        "lifted_first": told if number % 2 else None, "stride": 10 + number % 2, "moved_cm": 0.5 * (number + 10 * task),
        "told_goal": [told], "instruction": f"pick up the {told}",
    }  # fmt: skip


def values(moment) -> dict:
    return {
        "annotations": {
            "drawer_open": np.bool_(moment.task == 0), "grasped": np.float32(moment.timestep), "pose": np.zeros(3),
        }
    }  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_run(
        tmp_path_factory.mktemp("runs"), tasks=3, episodes=6, timesteps=(0, 10), spec=TINY, metadata=metadata, values=values
    )  # fmt: skip


def labelled(store, label: str):
    """Frames of the episodes that were told another object, their labels, and warnings."""
    episodes, warnings = choose_episodes(store, EpisodeQuery(where="prompt_mode == 'other'"), label)
    features = load_features(store, episodes, Slice("vlm"))
    return features.frames, labels_of(features.frames, label, open_encoder("onehot")), warnings


def test_a_told_object_is_a_class_and_a_gap_is_named(store):
    frames, labels, warnings = labelled(store, "told_object")
    assert labels.names == ("butter", "ketchup", "milk")
    assert labels.task_ids == (None,) * 3
    np.testing.assert_array_equal(labels.embeddings, np.eye(3))
    named = np.array(labels.names)[labels.index]
    assert [f"pick up the {name}" for name in named] == frames["instruction"].tolist()
    assert warnings == ["1 episode left out, of which the told object is not known: libero_goal-task1-ep2"]
    assert len(frames) == 2 * 8


def test_each_kind_of_value_is_a_class(store):
    assert labelled(store, "success")[1].names == ("False", "True")
    assert labelled(store, "stride")[1].names == ("10", "11")
    frames, labels, warnings = labelled(store, "lifted_first")
    assert set(labels.names) <= set(OBJECTS)
    assert warnings[0].startswith("6 episodes left out, of which the object lifted first is not known: ")
    assert len(frames) == 2 * 3
    assert labelled(store, "drawer_open")[1].names == labelled(store, "annotations/drawer_open")[1].names
    own = labelled(store, "task_instruction")[1]
    assert (own.names, own.task_ids) == (INSTRUCTIONS[:3], (0, 1, 2))


def test_an_annotation_that_changes_is_no_label_but_at_one_timestep(store):
    with pytest.raises(
        AnalysisError, match=r"changes within episode .*from 0.0 at timestep 0 to 10.0 at 10; .*--rollout-step 0"
    ):
        labelled(store, "grasped")
    episodes, _ = choose_episodes(store, EpisodeQuery(where="prompt_mode == 'other'"), "grasped", timesteps=(10,))
    assert {e.value for e in episodes} == {10.0}


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("pose", "holds 3 numbers a frame; a label is one value an episode"),
        ("timestep", "changes from frame to frame"),
        ("nothing", r"no episode has it; known of episodes are run, .*stride.*; annotations are annotations/drawer_open, "),
        ("told_goal", "no episode has it"),  # a list
        ("campaign", "none of 9 episodes has a value of it"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused(store, label, said):
    with pytest.raises(AnalysisError, match=said):
        labelled(store, label)


def test_numbers_with_many_values_are_no_classes(tmp_path):
    store = make_run(
        tmp_path, tasks=5, episodes=5, timesteps=(0,), spec=TINY, metadata=lambda t, n: {"moved": 0.1 * (5 * t + n), "n": t + n}
    )  # fmt: skip
    with pytest.raises(
        AnalysisError, match=r"numbers, 25 different ones \(from 0 to 2.4\) in 25 episodes; a probe tells"
    ):
        choose_episodes(store, EpisodeQuery(), "moved")
    assert {e.value for e in choose_episodes(store, EpisodeQuery(), "n")[0]} == set(range(9))


def test_several_prompt_modes_are_chosen_or_refused(store):
    with pytest.raises(AnalysisError) as error:
        choose_episodes(store, EpisodeQuery())
    assert "several prompt modes, other (9 episodes), task (9 episodes), which are different designs" in str(
        error.value
    )
    assert "--where \"prompt_mode == 'other'\"" in str(error.value)
    for where, count in (("prompt_mode == 'task'", 9), ("prompt_mode in ['other', 'task']", 18)):
        assert len(choose_episodes(store, EpisodeQuery(where=where))[0]) == count
    assert len(choose_episodes(store, EpisodeQuery(episode_range=(0, 3)))[0]) == 9  # all of one mode
    with pytest.raises(AnalysisError, match="several prompt modes"):
        choose_episodes(store, EpisodeQuery(where="success"))

"""What counts as one instruction, whose words it is, and what is said of labels that look alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from vlascope_analysis.data.encoders import open_encoder
from vlascope_analysis.data.labels import NEAR, instruction_labels, near_pairs
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EvaluationConfig
from vlascope_analysis.statistics.evaluation import Design

from tests.analysis.stores import INSTRUCTIONS, direction

onehot = open_encoder("onehot")


def encode(texts) -> np.ndarray:
    """Embeddings that need no model: a direction a text."""
    return np.stack([direction(*map(ord, f"text {text}"), width=24) for text in texts])


def frames(tasks: int, episodes: int) -> pd.DataFrame:
    """One frame an episode."""
    rows = [
        {
            "run": "r", "campaign": "c", "episode": f"{t}-{e}", "suite": "s", "task_id": t, "task_name": "",
            "instruction": INSTRUCTIONS[t], "task_instruction": INSTRUCTIONS[t], "scene": f"s/{t}", "init_state": f"s/{t}/{e}",
        }
        for t in range(tasks) for e in range(episodes)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_labels():
    table = frames(3, 2)
    table.loc[table["task_id"] == 2, "instruction"] = INSTRUCTIONS[0]
    table.loc[table["task_id"] == 1, ["instruction", "task_instruction"]] = None
    table.loc[table["task_id"] == 1, "task_name"] = "turn_on_the_stove"
    labels = instruction_labels(table, encode)
    assert labels.names == ("open the drawer", "turn on the stove")
    assert labels.index.tolist() == [0, 0, 1, 1, 0, 0]
    assert len(labels.warnings) == 2
    np.testing.assert_allclose(np.linalg.norm(labels.embeddings, axis=1), 1, atol=1e-6)
    table["task_name"] = ""
    with pytest.raises(AnalysisError, match="episode 1-0: neither an instruction nor a task name"):
        instruction_labels(table, encode)


def test_a_label_is_what_was_told_and_not_what_the_scene_says():
    table = frames(3, 2)
    told = ["wave", INSTRUCTIONS[0], INSTRUCTIONS[0], "", "wave", ""]
    labels = instruction_labels(table.assign(instruction=told), encode)
    assert labels.names == (INSTRUCTIONS[0], "", "wave")
    assert labels.task_ids == (0, None, None)  # nobody's task is to wave
    assert labels.index.tolist() == [2, 0, 0, 1, 2, 1]
    assert labels.warnings == ()


def test_what_was_told_never_stands_in_for_a_tasks_own_words():
    table = frames(2, 2).assign(instruction=["do one", "do one", "do zero", "do zero"], task_instruction=None)
    labels = instruction_labels(table, encode)
    assert (labels.names, labels.task_ids) == (("do one", "do zero"), (None, None))
    plain = instruction_labels(table.assign(task_id=-1, task_instruction="do one"), encode)
    assert plain.task_ids == (None, None)


def test_being_told_nothing_is_no_gap_to_fill():
    table = frames(3, 2).assign(instruction="", task_name="open_the_drawer")
    labels = instruction_labels(table, encode)
    assert (labels.names, labels.task_ids) == (("",), (None,))
    with pytest.raises(AnalysisError, match="the policy was told the same in every episode"):
        Design.of(table, labels, EvaluationConfig())


def test_capitals_and_spaces_make_no_other_instruction():
    told = [
        "Open the drawer",
        " open the  drawer",
        "Open the drawer",
        "turn on\tthe stove",
        "turn on the stove",
        "wave",
    ]
    labels = instruction_labels(frames(2, 3).assign(instruction=told), encode)
    # the first is the spelling of most frames; of the second's two, one is the task's own
    assert labels.names == ("Open the drawer", "turn on the stove", "wave")
    assert labels.task_ids == (0, 1, None)
    assert labels.index.tolist() == [0, 0, 0, 1, 1, 2]
    assert labels.warnings == (
        "texts that differ in capitals or spaces alone are taken as one instruction: ' open the  drawer' and "
        "'Open the drawer'; 'turn on\\tthe stove' and 'turn on the stove'",
    )


def test_of_two_spellings_as_frequent_the_first_in_order_is_shown():
    labels = instruction_labels(frames(1, 2).assign(instruction=["wave", "Wave"]), encode)
    assert labels.names == ("Wave",)


def test_a_tasks_own_words_may_be_spelled_in_another_way():
    table = frames(2, 2)
    table["task_instruction"] = table["task_instruction"].str.title() + " "
    labels = instruction_labels(table, encode)
    assert (labels.names, labels.task_ids, labels.warnings) == (INSTRUCTIONS[:2], (0, 1), ())
    # two tasks of the same words: the first one's
    table["task_instruction"] = ["Open  the drawer", "Open  the drawer", "open the drawer", "open the drawer"]
    assert instruction_labels(table, encode).task_ids == (0, None)


def test_a_blank_text_is_the_empty_instruction():
    labels = instruction_labels(frames(1, 4).assign(instruction=["  ", "\n", "  ", "wave"]), encode)
    assert labels.names == ("", "wave")
    assert labels.index.tolist() == [0, 0, 0, 1]
    assert labels.warnings == (
        r"texts that differ in capitals or spaces alone are taken as one instruction: '\n' and '  '",
    )
    assert instruction_labels(frames(1, 1).assign(instruction=" "), encode).warnings == ()
    with pytest.raises(AnalysisError, match="neither an instruction nor a task name"):
        instruction_labels(frames(1, 1).assign(instruction=None, task_name="_"), encode)


def test_a_warning_names_three_examples_and_commands_no_terminal():
    told = [text for n in range(5) for text in (f"\x1b do {n}", f"\x1b Do {n}")]
    (warning,) = instruction_labels(frames(1, 10).assign(instruction=told), encode).warnings
    assert warning.isprintable()
    assert warning.endswith(r"'\x1b Do 2' and '\x1b do 2', and 2 more")
    long = ["a " * 1000, "A " * 1000]
    (warning,) = instruction_labels(frames(1, 2).assign(instruction=long), encode).warnings
    assert len(warning) < 300


def at_angles(*cosines: float) -> np.ndarray:
    """Vectors of length 1: the first, and one at each cosine to it."""
    return np.array([[1, 0], *([c, np.sqrt(1 - c * c)] for c in cosines)], np.float32)


def test_near_pairs_come_nearest_first():
    pairs = near_pairs(at_angles(0.96, 0.5, -1.0, 1.0))
    assert [pair[:2] for pair in pairs] == [(0, 4), (0, 1), (1, 4)]
    np.testing.assert_allclose([pair[2] for pair in pairs], [1, 0.96, 0.96], atol=1e-6)
    assert near_pairs(at_angles(NEAR - 0.001)) == []


def test_labels_that_look_alike_are_named():
    table = frames(3, 1)
    labels = instruction_labels(table, lambda _: 3 * at_angles(0.5, 0.97)[[0, 2, 1]])
    (warning,) = labels.warnings
    assert "'open the drawer' and 'turn on the stove' (0.970); --encoder onehot" in warning
    assert instruction_labels(table, lambda _: at_angles(0.5, 0.0)).warnings == ()


def test_minilm_takes_left_for_right_and_onehot_does_not():
    table = frames(2, 1).assign(instruction=["move the left mug to the left", "move the right mug to the right"])
    (warning,) = instruction_labels(table, open_encoder("minilm")).warnings
    assert "'move the left mug to the left' and 'move the right mug to the right' (0.9" in warning
    labels = instruction_labels(table, onehot)
    assert labels.warnings == ()
    np.testing.assert_array_equal(labels.embeddings, np.eye(2))


def test_onehot_gives_each_text_an_axis():
    found = onehot(["b", "a", "", "b"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])

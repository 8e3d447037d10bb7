"""A condition on episodes says what it says, runs no code, and names what is wrong with it in one line."""

from __future__ import annotations

import pytest
from vlascope_analysis.data.where import Where
from vlascope_analysis.errors import AnalysisError

EPISODES = (
    {"prompt_mode": "other", "success": True, "total_steps": 80, "told_object": "milk", "moved": 0.05},
    {"prompt_mode": "other", "success": False, "total_steps": 280, "told_object": "it's", "moved": -1.5},
    {"prompt_mode": "task", "success": True, "total_steps": 120, "told_object": None},
    {"prompt_mode": "task", "success": None, "total_steps": None, "told_object": "milk"},
)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("prompt_mode == 'other' and success", [0]),
        ("prompt_mode != 'other'", [2, 3]),
        ("success", [0, 2]),
        ("not success", [1, 3]),
        ("success == False or total_steps > 100", [1, 2]),
        ("80 <= total_steps < 200", [0, 2]),
        ("told_object in ['milk', \"it's\"] and not prompt_mode == 'task'", [0, 1]),
        ("told_object not in ('milk',)", [1, 2]),
        ("told_object is None", [2]),
        ("total_steps is not None and told_object == None", [2]),
        ("moved < -1", [1]),
        ("moved == 0.05", [0]),
        ("success == 1", []),  # a truth value is no number
        ("(success or total_steps == 280) and True", [0, 1, 2]),
        ("  success ", [0, 2]),
    ],
)
def test_a_condition_chooses_episodes(text, chosen):
    where = Where.parse(text)
    known = dict.fromkeys(name for own in EPISODES for name in own)
    assert [n for n, own in enumerate(EPISODES) if where.holds(known | own)] == chosen
    if chosen:
        assert [n for n, holds in enumerate(where.chosen(EPISODES)) if holds] == chosen
    else:
        with pytest.raises(AnalysisError, match="holds of none of 4 episodes"):
            where.chosen(EPISODES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("prompt_mode = 'other'", "cannot be read"),
        ("prompt_mode == ", "cannot be read"),
        ("a\x00b", "cannot be read"),
        ("(" * 900, "cannot be read"),
        ("__import__('os').system('true')", "is no condition"),
        ("success.real", "is no condition"),
        ("success == success.real", "cannot be compared"),
        ("len(told_object) == 3", "cannot be compared"),
        ("@success", "cannot be read"),
        ("[x for x in told_object]", "is no condition"),
        ("told_object[0] == 'm'", "cannot be compared"),
        ("f'{success}' == ''", "cannot be compared"),
        ("total_steps + 1 == 2", "cannot be compared"),
        ("(lambda: True)()", "is no condition"),
        ("'milk'", "is no condition"),
        ("'m' in told_object", "in and not in stand before a list"),
        ("told_object == ['milk']", "in and not in stand before a list"),
        ("told_object in [success]", "a list holds texts and numbers alone"),
        ("told_object is 'milk'", "is stands before None alone: use =="),
        ("['a'] == told_object", "a list stands behind in alone"),
        ("success := True", "cannot be read"),
        ("x" * 2000, "expected at most 1000"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(text, said):
    with pytest.raises(AnalysisError) as error:
        Where.parse(text)
    assert said in str(error.value)
    assert str(error.value).isprintable()


def test_names_and_values_that_there_are_are_listed():
    with pytest.raises(AnalysisError, match=r"no episode has promt_mode; known are moved, prompt_mode, success, to"):
        Where.parse("promt_mode == 'other'").chosen(EPISODES)
    with pytest.raises(AnalysisError) as error:
        Where.parse("prompt_mode == 'blank' and told_object == 'milk'").chosen(EPISODES)
    assert "prompt_mode: 'other' 2, 'task' 2; told_object: 'milk' 2, \"it's\" 1, None 1" in str(error.value)
    with pytest.raises(AnalysisError, match="`prompt_mode` is 'other' in an episode, and no truth value: compare it"):
        Where.parse("prompt_mode").chosen(EPISODES)
    with pytest.raises(AnalysisError, match="'other' and 3 have no order"):
        Where.parse("prompt_mode < 3").chosen(EPISODES)

import os
from pathlib import Path

import numpy as np
import pytest
from vlascope_server.prompts import clean, state_bins, state_prompt


@pytest.fixture(scope="module")
def golden():
    folder = os.environ.get("VLASCOPE_GOLDENS") or Path(__file__).parents[2] / "goldens"
    path = Path(folder) / "preprocessing.npz"
    if not path.exists():
        pytest.skip(f"no goldens: {path} is missing")
    return np.load(path)


def test_the_state_text_equals_the_reference(golden):
    state = golden["pi05_state/in"]
    np.testing.assert_array_equal(state_bins(state), golden["pi05_state/bins"])
    assert state_prompt("pick up the bowl", state) == str(golden["pi05_state/prompt"])


@pytest.mark.parametrize(
    ("number", "expected"),
    [(-np.inf, -1), (-1.0001, -1), (-1.0, 0), (-0.9922, 0), (-0.9921, 1), (-1e-9, 127), (0.0, 128), (0.9921, 254),
     (0.9922, 255), (1.0, 255), (1.0001, 255), (np.inf, 255)],
)  # fmt: skip
def test_bins_at_their_edges(number, expected):
    assert state_bins(np.array([number])) == [expected]


def test_nan_has_no_bin():
    with pytest.raises(ValueError, match="state: number 1 is NaN"):
        state_prompt("open", np.array([0.0, np.nan]))


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  pick up the bowl\n", "pick up the bowl"),
        ("pick_up_the_bowl", "pick up the bowl"),
        ("pick\nup", "pick up"),
        ("Pick  UP", "Pick  UP"),
        ("_open_", " open "),
        ("", ""),
    ],
)
def test_cleaning(raw, cleaned):
    assert clean(raw) == cleaned


def test_the_prompt_with_a_state_is_cleaned_too():
    assert state_prompt(" open_it\n", np.array([-2.0, 0.0])) == "Task: open it, State: -1 128;\nAction: "

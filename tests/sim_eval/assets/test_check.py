"""The check of a task: what the committed table says is found again, and assets that do not serve are found out."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from vlascope_sim.assets.check import TaskCheck, check_task, failures, read_checks, write_checks
from vlascope_sim.assets.pictures import lab
from vlascope_sim.environment import STEP_LIMITS, LiberoEnvironment, load_task, suite_tasks

CAN = "stable_hope_objects/alphabet_soup/alphabet_soup.xml"


@pytest.fixture
def broken(assets, tmp_path):
    """A copy of the stand-ins with one file's text replaced."""

    def broken(name: str, old: str, new: str):
        folder = tmp_path / "broken"
        shutil.copytree(assets.folder, folder)
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
        return folder

    return broken


@pytest.mark.parametrize(
    ("suite", "task_id"), [("libero_object", 0), pytest.param("libero_goal", 3, marks=pytest.mark.slow)]
)
def test_the_table_is_found_again(assets, suite, task_id):
    committed = next(row for row in read_checks()[1] if (row.suite, row.task) == (suite, task_id))
    found = check_task(load_task(suite, task_id), assets.folder)
    assert found.failure is None
    assert found.goal
    assert found.fewest_pixels == pytest.approx(committed.fewest_pixels, rel=0.1)
    assert found.nearest_color == pytest.approx(committed.nearest_color, abs=3)


@pytest.mark.slow
def test_a_basket_that_holds_nothing_is_found_out(broken):
    folder = broken("stable_scanned_objects/basket/basket.xml", 'size="0.061 0.061 0.069"', 'size="0.001 0.001 0.001"')
    assert check_task(load_task("libero_object", 0), folder).failure == "the goal was not reached"


def test_a_label_like_anothers_is_found_out(broken, assets):
    like = (assets.folder / "stable_hope_objects/tomato_sauce/tomato_sauce.xml").read_text()
    folder = broken(CAN, (assets.folder / CAN).read_text(), like)
    found = check_task(load_task("libero_object", 0), folder)
    assert "alphabet_soup and tomato_sauce differ by" in str(found.failure)


def test_a_scene_that_cannot_be_built_is_a_finding(broken):
    folder = broken(CAN, "<worldbody>", "<worldbody><geom/>")
    (folder / CAN).write_text("no xml")
    assert str(check_task(load_task("libero_object", 0), folder).failure).startswith("does not build: ")


def test_a_table_is_read_as_it_was_written(tmp_path):
    rows = [
        TaskCheck("libero_goal", 1, 0.5, 1.0, 90, None, True),
        TaskCheck("libero_goal", 0, failure="does not build"),
    ]
    write_checks(rows, "abc", {"mujoco": "3"}, tmp_path / "table.json")
    assert read_checks(tmp_path / "table.json") == ("abc", (rows[1], rows[0]))
    assert failures("libero_goal", "0" * 16)[0].startswith("the committed check is of other assets")


def test_colors_are_cielab():
    white, red, grey = lab(np.array([[255, 255, 255], [255, 0, 0], [119, 119, 119]], np.uint8))
    assert white == pytest.approx([100, 0, 0], abs=0.1)
    assert red == pytest.approx([53.2, 80.1, 67.2], abs=0.3)
    assert grey == pytest.approx([50, 0, 0], abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("suite", STEP_LIMITS)
def test_every_task_takes_its_initial_states(assets, suite):
    for task in suite_tasks(suite):
        with LiberoEnvironment(task, assets.folder, render="fast") as environment:
            for index in (0, task.init_state_count - 1):
                environment.reset(index, seed=0, render=False)
                assert environment.settle_speed < 0.5, (task.name, index)

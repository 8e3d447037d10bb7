"""Goals have LIBERO's own words, and scenes with one thing to do only are passed over."""

from __future__ import annotations

import pytest
from vlascope_sim.demonstrations.options import PlanOptions
from vlascope_sim.demonstrations.plan import plan
from vlascope_sim.environment import load_task, suite_tasks
from vlascope_sim.environment.goals import goals_of
from vlascope_sim.errors import SimulationError


@pytest.mark.parametrize("suite", ["libero_object", "libero_goal"])
def test_the_told_goal_is_among_all_and_has_the_words_of_the_task(suite):
    told = [(task, goals_of(task, "told")) for task in suite_tasks(suite)]
    passed_over = [task.name for task, goals in told if not goals]
    for task, goals in told:
        for goal in goals:
            assert goal.instruction == task.instruction
            assert goal in goals_of(task, "all")
    assert passed_over == (
        []
        if suite == "libero_object"
        else [
            "open_the_middle_drawer_of_the_cabinet",
            "open_the_top_drawer_and_put_the_bowl_inside",
            "push_the_plate_to_the_front_of_the_stove",
            "turn_on_the_stove",
        ]
    )


def test_every_object_of_a_scene_is_a_target_of_its_own():
    goals = goals_of(load_task("libero_object", 0), "all")
    assert len({goal.target for goal in goals}) == len({goal.instruction for goal in goals}) == 6
    assert {goal.place for goal in goals} == {"basket_1_contain_region"}
    kitchen = goals_of(load_task("libero_goal", 8), "all")
    assert len({goal.instruction for goal in kitchen}) == len(kitchen) == 11


def test_spatial_goals_are_told_ones_only():
    assert all(len(goals_of(task, "told")) == 1 for task in suite_tasks("libero_spatial"))
    with pytest.raises(SimulationError, match="apart by where they stand"):
        goals_of(load_task("libero_spatial", 0), "all")
    with pytest.raises(SimulationError, match="libero_90"):
        goals_of(load_task("libero_90", 0), "told")


def test_a_plan_has_an_id_and_seeds_of_its_own_for_each_demonstration():
    one = plan(
        PlanOptions(suite="libero_object", tasks=(0, 1), episodes=(0, 1, 50), targets="all", perturb="both", move_cm=5)
    )
    assert len({made.id for made in one}) == len(one) == 2 * 6 * 3
    assert len({made.noise_seed for made in one}) == len(one)
    # one scene an episode, whatever is asked for in it
    assert len({made.perturbation.seed for made in one}) == len({made.environment_seed for made in one}) == 2 * 3
    assert {made.init_state for made in one} == {0, 1}
    assert one == plan(
        PlanOptions(suite="libero_object", tasks=(0, 1), episodes=(0, 1, 50), targets="all", perturb="both", move_cm=5)
    )
    others = [
        plan(PlanOptions(suite="libero_object", tasks=(0,), episodes=(0,))),
        plan(PlanOptions(suite="libero_object", tasks=(0,), episodes=(0,), seed=8)),
        plan(PlanOptions(suite="libero_object", tasks=(0,), episodes=(0,), max_steps=30)),
        plan(PlanOptions(suite="libero_object", tasks=(0,), episodes=(0,), noise=True)),
        plan(PlanOptions(suite="libero_object", tasks=(0,), episodes=(0,), noise=True, noise_bursts=1)),
        plan(PlanOptions(suite="libero_object", tasks=(0,), episodes=(0,), perturb="shuffle")),
        plan(PlanOptions(suite="libero_object", tasks=(0,), episodes=(0,), perturb="move", move_cm=3)),
        plan(PlanOptions(suite="libero_object", tasks=(0,), episodes=(0,), perturb="move", move_cm=4)),
    ]
    assert len({made.id for (made,) in others}) == len(others)


def test_a_plan_of_nothing_or_without_sense_is_refused():
    with pytest.raises(SimulationError, match="none is of picking up"):
        plan(PlanOptions(suite="libero_goal", tasks=(7,), episodes=(0,)))
    with pytest.raises(SimulationError, match="use none or move"):
        plan(PlanOptions(suite="libero_spatial", tasks=(0,), episodes=(0,), perturb="shuffle"))

"""Suites and tasks are LIBERO's own, in its order, and what does not exist is named."""

from __future__ import annotations

import importlib.util
import io
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from vlascope_sim.environment import STEP_LIMITS, load_task, suite_tasks
from vlascope_sim.environment.init_states import read_init_states
from vlascope_sim.environment.package import libero_folder
from vlascope_sim.errors import SimulationError


@pytest.mark.parametrize(("suite", "count"), [(s, 90 if s == "libero_90" else 10) for s in STEP_LIMITS])
def test_every_task_has_its_files(suite, count):
    tasks = suite_tasks(suite)
    assert [task.id for task in tasks] == list(range(count))
    assert all(task.bddl_file.is_file() and task.init_file.is_file() for task in tasks)


@pytest.mark.parametrize(
    ("suite", "number", "instruction"),
    [
        ("libero_object", 0, "pick up the alphabet soup and place it in the basket"),
        ("libero_goal", 7, "turn on the stove"),
        (
            "libero_spatial",
            4,
            "pick up the black bowl in the top drawer of the wooden cabinet and place it on the plate",
        ),
        ("libero_10", 2, "turn on the stove and put the moka pot on it"),
        ("libero_90", 0, "close the top drawer of the cabinet"),
    ],
)
def test_order_and_instructions_are_the_benchmarks(suite, number, instruction):
    assert load_task(suite, number).instruction == instruction


def test_instructions_name_no_scene():
    assert not any("SCENE" in task.instruction or "_" in task.instruction for task in suite_tasks("libero_90"))


def test_initial_states_hold_time_positions_and_velocities():
    task = load_task("libero_object", 3)
    assert task.init_state_count == 50
    state = task.init_state(49)
    assert state.dtype == np.float64
    assert len(state) == 110
    assert not np.array_equal(state, task.init_state(48))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: suite_tasks("libero_objects"), "libero_spatial, libero_object, libero_goal, libero_10, libero_90"),
        (lambda: load_task("libero_object", 10), "0-9"),
        (lambda: load_task("libero_90", -1), "0-89"),
        (lambda: load_task("libero_goal", 0).init_state(50), "0-49"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(call, named):
    with pytest.raises(SimulationError, match=named):
        call()


class _Harmful:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("value", [_Harmful(), "text", np.zeros(3, np.float32)])
def test_no_file_of_initial_states_runs_code_or_passes_for_one(tmp_path, capsys, value):
    file = tmp_path / "x.pruned_init"
    with zipfile.ZipFile(file, "w") as archive:
        content = io.BytesIO()
        pickle.dump(value, content)
        archive.writestr("archive/data.pkl", content.getvalue())
    with pytest.raises(SimulationError, match=r"x\.pruned_init"):
        read_init_states(file)
    assert capsys.readouterr().out == ""


def test_reading_tasks_imports_neither_torch_nor_the_simulator():
    code = (
        "import sys; from vlascope_sim.environment import load_task; load_task('libero_goal', 1).init_state(0); "
        "print({'torch', 'mujoco', 'robosuite', 'libero.libero'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("missing", ["libero", "bddl", "robosuite"])
def test_without_libero_the_error_is_the_command_that_brings_it(monkeypatch, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(SimulationError) as error:
        libero_folder.__wrapped__()
    asked = "pip install --no-deps hf-libero==0.1.4 bddl==1.0.1 robosuite==1.4.0"
    assert str(error.value) == f"{missing}: not installed; run {asked}"

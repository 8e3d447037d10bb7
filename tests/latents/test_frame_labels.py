"""What is known of each frame: as a table, as arrays and along the frames of an xarray."""

from __future__ import annotations

import shutil
import sys
import time

import numpy as np
import pytest
from vlascope_latents import CaptureSpec
from vlascope_latents.store import LatentStore, RunWriter, StoreError

from tests.latents.store_fixtures import LAYOUT, frame, plan, values

pd = pytest.importorskip("pandas")
pytest.importorskip("xarray")

CAPTURE = plan(CaptureSpec(layers=(0, 2), spans=("text", "state", "action")))
KNOWN = {
    "suite": "s", "task_id": 3, "task_name": "wave_hand", "instruction": "wave", "task_instruction": "rest",
    "episode_index": 1, "init_state": 4, "seed": 2**62 + 1,
}  # fmt: skip
COLUMNS = [
    "run", "campaign", "episode", "attempt", "status", *KNOWN, "success", "total_steps", "timestep", "frame",
]  # fmt: skip


def write(root, episodes, name="tiny"):
    """A run of episodes, each a name, metadata, success and timesteps; one whose success is "lost" is interrupted."""
    with RunWriter.create(root, name, LAYOUT) as run:
        for number, (episode_id, metadata, success, timesteps) in enumerate(episodes):
            episode = run.open_episode(episode_id, metadata, CAPTURE)
            for k, timestep in enumerate(timesteps):
                episode.append(frame(CAPTURE, 10 * number + k), timestep=timestep, values=values(k))
            if success == "lost":
                episode.interrupt()
            else:
                episode.seal(success=success, total_steps=None if success is None else 9)
        return run.path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write(
        tmp_path_factory.mktemp("runs"),
        [
            ("c+a", {**KNOWN, "render": "fast", "noise": 0, "versions": {"x": "1"}}, True, (0, 5)),
            (
                "c+b",
                {**KNOWN, "instruction": "rest", "noise": 0.5, "held": [1], "success": "mostly"},
                False,
                (0, 5, 10),
            ),
            ("d", {"instruction": "", "render": None}, None, (2,)),
            ("e", {}, "lost", (7,)),
        ],
    )


def test_a_table_has_one_row_a_frame_and_every_label(run):
    table = LatentStore(run.parent).frames()
    assert list(table) == [*COLUMNS, "metadata.render", "metadata.noise", "metadata.success"]
    assert table["episode"].tolist() == ["c+a"] * 2 + ["c+b"] * 3 + ["d", "e"]
    assert table["frame"].tolist() == [0, 1, 0, 1, 2, 0, 0]
    assert table["timestep"].tolist() == [0, 5, 0, 5, 10, 2, 7]
    assert table["status"].tolist() == ["sealed"] * 6 + ["interrupted"]
    assert set(table["run"]) == {run.name}
    first = table.iloc[0].to_dict()
    assert {name: first[name] for name in KNOWN} == KNOWN  # seeds keep every digit
    assert (first["campaign"], first["attempt"], first["total_steps"], first["metadata.render"]) == ("c", 1, 9, "fast")
    kinds = {"string": ["campaign", "instruction"], "Int64": ["task_id", "seed", "total_steps"], "boolean": ["success"]}
    for kind, names in kinds.items():
        assert {str(table[name].dtype) for name in names} == {kind}


def test_what_is_not_known_is_neither_guessed_nor_false(run):
    table = LatentStore(run).frames()
    assert table["instruction"].tolist() == ["wave"] * 2 + ["rest"] * 3 + ["", pd.NA]  # told nothing is known
    assert table[table["success"]]["timestep"].tolist() == [0, 5]
    assert table[~table["success"]]["timestep"].tolist() == [0, 5, 10]
    assert table["success"].isna().tolist() == [False] * 5 + [True] * 2
    assert table["task_id"].isna().tolist() == table["campaign"].isna().tolist() == [False] * 5 + [True] * 2
    np.testing.assert_array_equal(table["metadata.noise"], [0, 0, 0.5, 0.5, 0.5, np.nan, np.nan])
    assert table["metadata.render"].isna().tolist() == [False] * 2 + [True] * 5
    assert table["metadata.success"].dropna().tolist() == ["mostly"] * 3


def test_a_table_needs_neither_tensors_nor_zarr_groups(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / run.name)
    for episode in LatentStore(copy).episodes():
        shutil.rmtree(episode.folder)
    store = LatentStore(copy)
    pd.testing.assert_frame_equal(store.frames(), LatentStore(run).frames())
    assert store.shards.bytes_read == 0


def test_a_table_of_some_runs_campaigns_and_attempts(tmp_path):
    runs = [
        write(tmp_path, [("c+a", {}, True, (0, 1)), ("c+a", {}, True, (0, 1, 2)), ("x", {}, True, (0,))], "one").name,
        write(tmp_path, [("x", {}, True, (4, 5))], "two").name,
    ]
    store = LatentStore(tmp_path)
    assert store.frames()["timestep"].tolist() == [0, 1, 2, 0, 4, 5]
    assert store.frames(runs[1])["timestep"].tolist() == [4, 5]
    assert store.frames(campaign="c")["attempt"].tolist() == [2] * 3
    assert store.frames(campaign="none")["run"].tolist() == [runs[0], *runs[1:] * 2]
    assert store.frames(attempts="all")["attempt"].tolist() == [1, 1, 2, 2, 2, 1, 1, 1]
    with pytest.raises(StoreError, match="no campaign 'b'; found c"):
        store.frames(campaign="b")


def test_a_table_of_a_run_without_frames_has_its_columns(tmp_path):
    write(tmp_path, [])
    table = LatentStore(tmp_path).frames()
    assert (len(table), list(table)) == (0, COLUMNS)
    assert {name: str(table[name].dtype) for name in ("run", "task_id", "success", "timestep")} == {
        "run": "string", "task_id": "Int64", "success": "boolean", "timestep": "int64",
    }  # fmt: skip


def test_a_table_shows_what_is_committed_of_an_open_episode(tmp_path):
    with RunWriter.create(tmp_path, "live", LAYOUT) as run:
        episode = run.open_episode("e", KNOWN, CAPTURE)
        episode.append(frame(CAPTURE, 0), timestep=3, values=values(0))
        deadline = time.monotonic() + 30
        while episode.committed < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        table = LatentStore(tmp_path).frames()
    assert table[["timestep", "status", "instruction"]].values.tolist() == [[3, "open", "wave"]]


def test_metadata_of_any_kind_are_columns_of_their_kind(tmp_path):
    write(
        tmp_path,
        [
            ("a", {"mixed": 1, "large": 2**64 - 1, "flag": True, "task_id": "three", "empty": None}, True, (0,)),
            ("b", {"mixed": "one", "large": 1, "task_id": 4, "list": [1], "map": {"x": 1}}, True, (0,)),
        ],
    )
    store = LatentStore(tmp_path)
    table = store.frames()
    assert list(table)[len(COLUMNS) :] == ["metadata.mixed", "metadata.large", "metadata.flag", "metadata.empty"]
    assert table["metadata.mixed"].tolist() == [1, "one"]
    assert table["metadata.large"].tolist() == [2**64 - 1, 1]
    assert table["task_id"].tolist() == ["three", 4]
    assert str(table["metadata.flag"].dtype) == "boolean"
    assert table["metadata.flag"].tolist() == [True, pd.NA]
    assert table["metadata.empty"].isna().tolist() == [True, True]
    labels = store.select("vlm").labels
    assert list(labels) == list(table)
    assert labels["metadata.flag"].tolist() == [True, None]


def test_labels_of_a_selection_say_what_is_unknown(run):
    x = LatentStore(run).select("vlm")
    assert list(x.labels) == list(LatentStore(run).frames())
    assert x.labels["task_id"].tolist() == [3] * 5 + [-1] * 2
    assert x.labels["suite"].tolist() == ["s"] * 5 + [""] * 2
    assert x.labels["campaign"].tolist() == ["c"] * 5 + [""] * 2
    assert x.labels["success"].tolist() == [True] * 2 + [False] * 3 + [None] * 2
    assert x.labels["seed"].tolist() == [2**62 + 1] * 5 + [None] * 2
    known = x[:5].labels
    assert (known["success"].dtype, known["seed"].dtype, known["instruction"].dtype.kind) == (bool, np.int64, "U")
    np.testing.assert_array_equal(x[[6, 0, 3]].labels["timestep"], [7, 0, 5])
    assert x[[6, 0, 3]].labels["episode"].tolist() == ["e", "c+a", "c+b"]
    assert x[:0].labels["task_id"].shape == (0,)


def test_an_xarray_has_layers_steps_and_labels(run):
    store = LatentStore(run)
    x = store.select("action", denoise_steps=[3, 1])
    data = x.to_xarray()
    want = x.array()
    assert set(data.coords) == {
        *set(store.frames()) - {"frame"}, "frame_number", "failure", "layer", "denoise_step", "token", "token_span",
    }  # fmt: skip
    assert data["layer"].values.tolist() == [0, 2]
    np.testing.assert_array_equal(data.sel(layer=2, denoise_step=1).values, want[:, 1, 1])
    assert data["frame_number"].values.tolist() == [0, 1, 0, 1, 2, 0, 0]
    assert data["token_span"].values.tolist() == ["state", *["action"] * 5]
    only = store.select("vlm", span="text", layers=0).to_xarray()
    assert set(only["token_span"].values) == {"text"}

    told = data.sel(layer=2).groupby("instruction").mean()
    assert told["instruction"].values.tolist() == ["", "rest", "wave"]  # None is no instruction
    np.testing.assert_allclose(told.sel(instruction="rest").values, want[2:5, :, 1].mean(axis=0), rtol=1e-6)
    assert data.groupby("task_id").mean()["task_id"].values.tolist() == [3]


def test_an_xarray_takes_no_unknown_outcome_for_success_or_failure(run):
    x = LatentStore(run).select("vlm")
    data, want = x.to_xarray(), x.array()
    assert data["success"].dtype == data["failure"].dtype == bool
    np.testing.assert_array_equal(data.where(data.success, drop=True).values, want[:2])
    np.testing.assert_array_equal(data.where(data.failure, drop=True).values, want[2:5])
    assert int((~data.success & ~data.failure).sum()) == 2


def test_an_xarray_with_every_label_can_be_written_as_netcdf(run, tmp_path):
    pytest.importorskip("h5netcdf")
    import xarray

    data = LatentStore(run).select("vlm", layers=0)[:5].to_xarray()
    data.rename("hidden_states").to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    again = xarray.open_dataarray(tmp_path / "x.nc", engine="h5netcdf")
    assert again["instruction"].values.tolist() == data["instruction"].values.tolist()
    assert again["metadata.noise"].values.tolist() == [0, 0, 0.5, 0.5, 0.5]


def test_without_pandas_the_error_names_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(StoreError, match=r"frames: needs pandas: install vlascope-latents\[pandas\]"):
        LatentStore(run).frames()

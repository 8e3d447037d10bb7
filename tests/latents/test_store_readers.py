"""Other people's Zarr readers see the same numbers in sealed episodes."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from vlascope_latents.store import LatentStore, RunWriter, StoreError

from tests.latents.store_fixtures import LAYOUT, frame, plan, values

FRAMES = 3
PATHS = ("vlm/hidden_states", "vlm/mlp_activation", "action/hidden_states", "action/pre_attn_norm_scales", "action/x_t")


@pytest.fixture(scope="module")
def episode(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with RunWriter.create(root, "tiny", LAYOUT) as run:
        writer = run.open_episode("ep", {"task_id": 4}, plan())
        for n in range(FRAMES):
            writer.append(frame(plan(), n), timestep=5 * n, values=values(n))
        writer.seal(success=True, total_steps=11)
    return LatentStore(root).episode("ep")


def check(path: str, stored: np.ndarray) -> None:
    """`stored` is what another reader gave: bits of bfloat16, or float32."""
    stored = np.asarray(stored)
    if stored.dtype == np.uint16:
        stored = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    want = np.stack([frame(plan(), n)[path] for n in range(FRAMES)])
    np.testing.assert_array_equal(stored, want, err_msg=path)


def test_zarr_python(episode):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(episode.folder, mode="r")
    for path in PATHS:
        check(path, group[path][:])
    assert group["vlm/hidden_states"].attrs["dtype"] == "bfloat16"
    assert group["timestep"][:].tolist() == [0, 5, 10]
    assert group["annotations/pose"].shape == (FRAMES, 7)
    np.testing.assert_array_equal(group["prompt_mask"][:], np.stack([values(n)["prompt_mask"] for n in range(FRAMES)]))
    assert group.attrs["success"] is True
    assert group.attrs["total_steps"] == 11


def test_xarray(episode):
    xarray = pytest.importorskip("xarray")
    for expert in ("vlm", "action"):
        data = xarray.open_zarr(episode.folder, group=expert, consolidated=False)
        for path in PATHS:
            if path.startswith(expert):
                check(path, data[path.split("/")[1]].values)
    assert data["hidden_states"].dims == ("frame", "denoise_step", "layer", "token", "feature")
    assert xarray.open_zarr(episode.folder, consolidated=False)["actions"].shape == (FRAMES, 5, 7)


def test_tensorstore(episode):
    tensorstore = pytest.importorskip("tensorstore")
    for path in PATHS:
        kvstore = {"driver": "file", "path": str(episode.folder / path)}
        check(path, tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result())


def test_zarrs(episode):
    pytest.importorskip("zarrs")
    import zarr

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        group = zarr.open_group(episode.folder, mode="r")
        for path in PATHS:
            array = group[path]
            assert "zarrs" in sys.modules
            check(path, array[:])  # pyright: ignore[reportIndexIssue]


def test_our_adapter_to_xarray(episode):
    pytest.importorskip("xarray")
    data = LatentStore(episode.path).select("action", span="action").to_xarray()
    assert data.dims == ("frame", "denoise_step", "layer", "token", "feature")
    part = data.sel(layer=2, denoise_step=3)
    want = np.stack([frame(plan(), n)["action/hidden_states"][3, 1, 1:] for n in range(FRAMES)])
    np.testing.assert_array_equal(part.values, want)
    assert data.coords["timestep"].values.tolist() == [0, 5, 10]


@pytest.fixture
def tree(episode):
    xarray = pytest.importorskip("xarray")
    return xarray.open_datatree(episode.path, engine="vlascope")


def want(path: str) -> np.ndarray:
    return np.stack([frame(plan(), n)[path] for n in range(FRAMES)])


def test_our_engine_of_xarray_decodes(episode, tree):
    for path in PATHS:
        array = tree["episodes/ep"][path]
        assert array.dtype == np.float32
        assert array.attrs == {"stored_dtype": episode.tensors()[path].dtype}
        np.testing.assert_array_equal(array.values, want(path), err_msg=path)
    group = tree["episodes/ep/action"]
    assert group["hidden_states"].dims == ("frame", "denoise_step", "layer", "token", "feature")
    assert group["layer"].values.tolist() == [0, 2]
    assert group["denoise_step"].values.tolist() == [0, 1, 2, 3]
    assert group["token"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert group["token_span"].values.tolist() == ["state", *["action"] * 5]
    assert group["timestep"].values.tolist() == [0, 5, 10]
    own = tree["episodes/ep"]
    assert own["annotations/pose"].shape == (FRAMES, 7)
    assert own["actions"].dims == ("frame", "actions_1", "actions_2")
    assert (own.attrs["task_id"], own.attrs["status"]) == (4, "sealed")
    assert own.attrs["success"] is True
    assert tree.attrs["run"] == episode.run


@pytest.mark.parametrize(
    "index",
    [
        {"layer": 1},
        {"frame": 0, "denoise_step": -1, "layer": 1, "token": 2, "feature": 3},
        {"frame": [2, 0], "layer": [1, 0], "token": slice(1, None, 2)},
        {"token": [4, 4, 0], "feature": slice(None, None, -1)},
        {"frame": slice(0, 0), "layer": 0},
    ],
)
def test_our_engine_of_xarray_indexes_as_numpy_does(tree, index):
    lazy = tree["episodes/ep/action"]["hidden_states"]
    loaded = lazy.copy(data=want("action/hidden_states"))
    np.testing.assert_array_equal(lazy.isel(index).values, loaded.isel(index).values)
    points = {"frame": ("p", [0, 2]), "token": ("p", [1, 5])}
    np.testing.assert_array_equal(lazy.isel(points).values, loaded.isel(points).values)


def test_our_engine_of_xarray_opens_folders_of_runs_single_groups_and_what_is_being_written(tmp_path):
    xarray = pytest.importorskip("xarray")
    with RunWriter.create(tmp_path, "tiny", LAYOUT) as run:
        writer = run.open_episode("ep", {"task_id": 4}, plan())
        writer.append(frame(plan(), 0), timestep=0, values=values(0))
        deadline = time.monotonic() + 30
        while writer.committed < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        tree = xarray.open_datatree(tmp_path, engine="vlascope")
        name = f"{run.path.name}/episodes/ep"
        np.testing.assert_array_equal(tree[name]["vlm/hidden_states"], want("vlm/hidden_states")[:1])
        assert tree[name].attrs["status"] == "open"
        # a run is known as one, a folder of runs only by the engine's name
        group = xarray.open_dataset(run.path, group="episodes/ep/vlm")
        assert group["hidden_states"].dtype == np.float32
        with pytest.raises(StoreError, match="no group 'vlm'"):
            xarray.open_dataset(run.path, engine="vlascope", group="vlm")
        tree = xarray.open_datatree(run.path, engine="vlascope", drop_variables=["hidden_states"])
        assert list(tree["episodes/ep/vlm"].data_vars) == ["mlp_activation", "pre_attn_norm_scales"]


def test_arrays_of_our_engine_travel_to_other_processes_unread(tree, tmp_path):
    file = tmp_path / "arrays"
    file.write_bytes(pickle.dumps((tree["episodes/ep/action"]["hidden_states"], tree)))
    assert file.stat().st_size < want("action/hidden_states").nbytes, "nothing was read"
    program = f"""
import numpy, pickle
from pathlib import Path
array, tree = pickle.loads(Path({str(file)!r}).read_bytes())
numpy.savez({str(tmp_path / "read.npz")!r}, states=array.sel(layer=2), activations=tree["episodes/ep/vlm/mlp_activation"])
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    with np.load(tmp_path / "read.npz") as read:
        np.testing.assert_array_equal(read["states"], want("action/hidden_states")[:, :, 1])
        np.testing.assert_array_equal(read["activations"], want("vlm/mlp_activation"))


def test_our_engine_of_xarray_takes_the_options_that_every_engine_takes(episode):
    xarray = pytest.importorskip("xarray")
    options: dict = {
        "mask_and_scale": True, "decode_times": False, "concat_characters": True, "decode_coords": False,
        "decode_timedelta": False, "use_cftime": False, "drop_variables": "mlp_activation",
    }  # fmt: skip
    tree = xarray.open_datatree(episode.path, engine="vlascope", **options)
    group = xarray.open_dataset(episode.path, engine="vlascope", group="episodes/ep/vlm", **options)
    left = ["hidden_states", "pre_attn_norm_scales"]
    assert list(group.data_vars) == list(tree["episodes/ep/vlm"].data_vars) == left
    np.testing.assert_array_equal(group["hidden_states"], want("vlm/hidden_states"))
    plain = xarray.open_dataset(episode.path, engine="vlascope", group="episodes/ep/vlm", decode_cf=False)
    np.testing.assert_array_equal(plain["hidden_states"], want("vlm/hidden_states"))
    with pytest.raises(TypeError, match="unknown option 'atempts'; allowed: drop_variables, attempts, mask_and_scale"):
        xarray.open_datatree(episode.path, engine="vlascope", atempts="all")
    with pytest.raises(StoreError, match="attempts: expected one of last, all, found 'first'"):
        xarray.open_datatree(episode.path, engine="vlascope", attempts="first")


def test_our_engine_of_xarray_shows_the_attempts_that_the_store_shows(tmp_path):
    """An attempt that was interrupted gives way to a sealed one, in the same run or in a later one of the campaign."""
    xarray = pytest.importorskip("xarray")
    runs = []
    for ends in ((("c+ep", None), ("ep", None), ("ep", True)), (("c+ep", False),)):
        with RunWriter.create(tmp_path, f"r{len(runs)}", LAYOUT) as run:
            for name, success in ends:
                writer = run.open_episode(name, {"task_id": 4}, plan())
                writer.append(frame(plan(), 0), timestep=0, values=values(0))
                if success is None:
                    writer.interrupt()
                else:
                    writer.seal(success=success)
        runs.append(run.path.name)

    def shown(where, **options) -> set[str]:
        tree = xarray.open_datatree(where, engine="vlascope", **options)
        return {node.path.strip("/") for node in tree.subtree if "status" in node.attrs}

    last = {f"{episode.run}/episodes/{episode.row.folder}" for episode in LatentStore(tmp_path).episodes()}
    assert shown(tmp_path) == last == {f"{runs[0]}/episodes/ep@2", f"{runs[1]}/episodes/c+ep"}
    every = last | {f"{runs[0]}/episodes/ep", f"{runs[0]}/episodes/c+ep"}
    assert shown(tmp_path, attempts="all") == every
    assert shown(tmp_path / runs[0]) == {"episodes/c+ep", "episodes/ep@2"}, "one run alone knows no other"
    group = xarray.open_dataset(tmp_path / runs[0], engine="vlascope", group="episodes/ep", attempts="all")
    assert group.attrs["status"] == "interrupted"
    with pytest.raises(StoreError, match="no group 'episodes/ep'"):
        xarray.open_dataset(tmp_path / runs[0], engine="vlascope", group="episodes/ep")


def test_without_xarray_the_error_names_what_to_install(episode, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(StoreError, match=r"to_xarray: needs xarray: install vlascope-latents\[xarray\]"):
        LatentStore(episode.path).select("vlm").to_xarray()

"""`vlascope-latents`: each subcommand does what it says, and errors are one line and exit code 2."""

from __future__ import annotations

import json
import os
import pickle
import re
import stat
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from vlascope_base.text import printable
from vlascope_latents.commands import main
from vlascope_latents.store import LatentStore, RunWriter, verify

from tests.latents.store_fixtures import LAYOUT, frame, plan, values

FRAMES = 3


@pytest.fixture
def run(tmp_path):
    with RunWriter.create(tmp_path / "runs", "tiny", LAYOUT) as writer:
        for e in range(2):
            meta = {"task_id": e, "task_name": f"[task] {e}", "instruction": "do it", "task_instruction": "own"}
            episode = writer.open_episode(f"ep{e}", meta, plan())
            for n in range(FRAMES):
                episode.append(frame(plan(), 100 * e + n), timestep=5 * n, values=values(n))
            episode.seal(success=True, total_steps=11)
    return writer.path


def test_ls(run, capsys):
    assert main(["ls", str(run.parent), "--log-level", "error"]) == 0
    out = capsys.readouterr().out
    assert "2 episodes, 6 frames" in out
    assert "ep1" in out
    assert "sealed" in out


def test_ls_shows_each_campaign_and_what_was_told(tmp_path, capsys):
    told = {"a": "told a", "b": ""}
    with RunWriter.create(tmp_path / "runs", "tiny", LAYOUT) as writer:
        for campaign, instruction in told.items():
            for attempt in range(2):
                meta = {"instruction": instruction, "task_instruction": "own"}
                episode = writer.open_episode(f"{campaign}+ep", meta, plan())
                episode.append(frame(plan(), attempt), timestep=0)
                episode.seal()
    assert main(["ls", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    for campaign, words in (("a", "told a"), ("b", "(none)")):
        assert f"{writer.path.name}, campaign {campaign}: 1 episode, 1 frame" in out.replace("\n", " ").replace(
            "  ", " "
        )
        assert words in out
    assert out.count("ep@2") == 2
    assert "own" in out
    assert main(["ls", str(tmp_path / "runs"), "--campaign", "b", "--attempts"]) == 0
    out = capsys.readouterr().out
    assert "campaign a" not in out
    assert out.count("ep@2") == 1
    assert main(["ls", str(tmp_path / "runs"), "--campaign", "c"]) == 2
    assert "no campaign 'c'; found a, b" in capsys.readouterr().err
    assert main(["ls", str(tmp_path / "runs"), "--campaign", "none"]) == 2
    assert "no episodes without a campaign; found a, b" in capsys.readouterr().err
    out = tmp_path / "out"
    assert main(["export", str(writer.path), str(out), "--format", "npz", "--episodes", "ep"]) == 2
    assert "several campaigns have it: name one of a+ep, b+ep" in capsys.readouterr().err
    assert main(["export", str(writer.path), str(out), "--format", "npz", "--episodes", "ep", "--campaign", "b"]) == 0
    (file,) = out.iterdir()
    with np.load(file) as data:
        assert (str(data["task_description"]), str(data["task_instruction"])) == ("", "own")


def test_ls_fits_80_columns_and_breaks_no_word(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    told = "pick up the alphabet soup and place it in the basket"
    own = "pick up the cream cheese and place it in the basket"
    name = "libero_object-task00-episode000-noise0"
    with RunWriter.create(tmp_path / "runs", "tiny", LAYOUT) as writer:
        episode = writer.open_episode(f"ours-2026+{name}", {"instruction": told, "task_instruction": own}, plan())
        episode.append(frame(plan(), 0), timestep=0)
        episode.seal(success=False)
    assert main(["ls", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (head,) = (line for line in lines if "status" in line)
    for word in ("episode", "status", "success", "frames", "bytes", "instruction"):
        assert word in head
    assert "dropped" not in head, "nothing was dropped"
    words = [word for line in lines for word in line.split()]
    assert set(told.split()) | set(own.split()) | {"sealed", "no"} <= set(words)
    start, end = head.index("episode"), head.index("status")
    assert "".join(line[start:end].strip() for line in lines[lines.index(head) + 2 :]) == name


@pytest.mark.parametrize("columns", [80, 60, 50, 40, 20])
def test_ls_breaks_ids_at_hyphens_and_loses_none(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    told = "pick up the alphabet soup and place it in the basket"
    names = [f"libero_object-task00-episode00{n}" for n in range(2)]
    with RunWriter.create(tmp_path / "runs", "tiny", LAYOUT) as writer:
        for name in names:
            episode = writer.open_episode(f"c+{name}", {"instruction": told}, plan())
            episode.append(frame(plan(), 0), timestep=0)
            episode.interrupt()
    assert main(["ls", str(tmp_path / "runs"), "--attempts"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    words = out.split()
    parts = [word for word in words if re.fullmatch(r"(libero_object-)?(task00-)?(episode00\d)?", word)]
    # a table's lines hold a part of one id each; below it stand the parts of the next one
    assert "".join(parts) == "".join(names)
    assert words.count("interrupted") + words.count("interrupted,") == 2
    assert all(words.count(word) >= 2 for word in told.split()), "every word of both instructions"


def test_ls_folds_an_id_that_has_no_hyphen(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    name = "x" * 90
    with RunWriter.create(tmp_path / "runs", "tiny", LAYOUT) as writer:
        episode = writer.open_episode(name, {}, plan())
        episode.append(frame(plan(), 0), timestep=0)
        episode.seal()
    assert main(["ls", str(tmp_path / "runs")]) == 0
    assert name in capsys.readouterr().out.replace("\n", "")


def test_ls_as_json(tmp_path, capsys):
    with RunWriter.create(tmp_path / "runs", "tiny", LAYOUT) as writer:
        for campaign in ("a", None):
            episode = writer.open_episode("a+ep" if campaign else "ep", {"instruction": "told"}, plan())
            episode.append(frame(plan(), 0), timestep=0)
            episode.seal(success=True if campaign else None)
    RunWriter.create(tmp_path / "runs", "empty", LAYOUT).close()
    assert main(["ls", str(tmp_path / "runs"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["store"] == str(tmp_path / "runs")
    runs = {run.pop("run"): run for run in found["runs"]}
    assert len(runs) == 2
    ours = runs[writer.path.name]["episodes"]
    assert runs[writer.path.name]["created"]
    (nbytes,) = {episode.pop("bytes") for episode in ours}
    assert nbytes == plan().nbytes
    rest = {
        "attempt": 1, "status": "sealed", "frames": 1, "dropped": 0, "instruction": "told", "task_instruction": None
    }  # fmt: skip
    assert sorted(ours, key=lambda episode: episode["folder"]) == [
        {"episode": "ep", "campaign": "a", "folder": "a+ep", "success": True, **rest},
        {"episode": "ep", "campaign": None, "folder": "ep", "success": None, **rest},
    ]
    assert main(["ls", str(tmp_path / "runs"), "--json", "--campaign", "a"]) == 0
    episodes = [e for run in json.loads(capsys.readouterr().out)["runs"] for e in run["episodes"]]
    assert [episode["campaign"] for episode in episodes] == ["a"]


def test_what_others_stored_never_reaches_the_terminal_as_it_is(tmp_path, capsys):
    told = "\x1b[31mred\u202eback\x07\n[bold]end"
    with RunWriter.create(tmp_path / "runs", "tiny", LAYOUT) as writer:
        episode = writer.open_episode("ep", {"instruction": told, "task_instruction": "\x9b2J"}, plan())
        episode.append(frame(plan(), 0), timestep=0)
        episode.seal()
    assert main(["ls", str(tmp_path / "runs"), "--log-level", "error"]) == 0
    out = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in out)
    assert "\\x1b" in out
    assert printable(told) == r"\x1b[31mred\u202eback\x07\n[bold]end"
    assert printable("put “it” – déjà 置く") == "put “it” – déjà 置く"


def test_verify_names_each_bad_frame(run, capsys):
    assert main(["verify", str(run)]) == 0
    shard = run / "latents.zarr/episodes/ep1/action/x_t/c.2.0.0.0"
    content = bytearray(shard.read_bytes())
    content[5] ^= 4
    shard.write_bytes(content)
    capsys.readouterr()
    assert main(["verify", str(run)]) == 1
    out = capsys.readouterr().out
    assert "episode ep1, frame 2" in out
    assert str(shard) in out


def test_repack_keeps_every_number(run, capsys):
    before = LatentStore(run)
    want = {path: before.select(*path.split("/")).array() for path in before.components()}
    assert main(["repack", str(run.parent)]) == 0
    assert "ratio" in capsys.readouterr().out
    store = LatentStore(run)
    for path, tensor in store.components().items():
        assert tensor.compressed
        np.testing.assert_array_equal(store.select(*path.split("/")).array(), want[path])
    part = store.select("vlm", layers=2, span="wrist").array()
    np.testing.assert_array_equal(part, want["vlm/hidden_states"][:, [1], 32:64])
    assert list(verify(store.episodes())) == []

    import zarr

    group = zarr.open_group(run / "latents.zarr/episodes/ep0", mode="r")
    np.testing.assert_array_equal(group["action/x_t"][:], want["action/x_t"][:FRAMES])
    bits = np.asarray(group["vlm/hidden_states"][:])
    got = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    np.testing.assert_array_equal(got, want["vlm/hidden_states"][:FRAMES])

    tensorstore = pytest.importorskip("tensorstore")
    kvstore = {"driver": "file", "path": str(run / "latents.zarr/episodes/ep0/vlm/hidden_states")}
    read = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
    np.testing.assert_array_equal(read, bits)

    assert main(["repack", str(run)]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_an_interrupted_repack_is_put_right(run):
    array = run / "latents.zarr/episodes/ep0/vlm/hidden_states"
    half = array.with_name(".hidden_states.repack")
    half.mkdir()
    (half / "c.0.0.0.0").write_bytes(b"half")
    RunWriter.recover(run)
    assert not half.exists()
    array.rename(array.with_name(".hidden_states.repack"))
    (array.with_name(".hidden_states.replaced")).mkdir()
    RunWriter.recover(run)
    assert sorted(os.listdir(array.parent)) == [
        "hidden_states",
        "mlp_activation",
        "pre_attn_norm_scales",
        "zarr.json",
    ]
    assert list(verify(LatentStore(run).episodes())) == []


def test_export_netcdf(run, tmp_path):
    pytest.importorskip("h5netcdf")
    xarray = pytest.importorskip("xarray")
    assert main(["export", str(run), str(tmp_path / "out"), "--episodes", "ep1"]) == 0
    (file,) = (tmp_path / "out").iterdir()
    with xarray.open_dataset(file, engine="h5netcdf") as data:
        want = np.stack([frame(plan(), 100 + n)["vlm/hidden_states"] for n in range(FRAMES)])
        np.testing.assert_array_equal(data["vlm_hidden_states"].values, want)
        assert data["timestep"].values.tolist() == [0, 5, 10]
        assert data["annotations_pose"].shape == (FRAMES, 7)
        assert (data.attrs["task_id"], data.attrs["success"]) == (1, 1)
        assert (data.attrs["instruction"], data.attrs["task_instruction"]) == ("do it", "own")


@pytest.mark.parametrize("missing", ["xarray", "h5netcdf", "h5py"])
def test_export_without_its_extra_leaves_no_folder(run, tmp_path, capsys, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["export", str(run), str(tmp_path / "out")]) == 2
    assert "netcdf: needs xarray, h5netcdf and h5py: install vlascope-latents[netcdf]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_export_netcdf_says_what_the_store_says(tmp_path):
    """A client may send metadata of any name; what the store itself says of an episode is not overwritten by it."""
    pytest.importorskip("h5netcdf")
    xarray = pytest.importorskip("xarray")
    with RunWriter.create(tmp_path / "runs", "it", LAYOUT) as writer:
        metadata = {"episode": "other", "status": "sealed", "success": 1, "note": "kept", "moved": True}
        episode = writer.open_episode("mine", metadata, plan())
        episode.append(frame(plan(), 0), timestep=0, values=values(0))
        path = writer.path
    assert main(["export", str(path), str(tmp_path / "out")]) == 0
    (file,) = (tmp_path / "out").iterdir()
    with xarray.open_dataset(file, engine="h5netcdf") as data:
        assert (data.attrs["episode"], data.attrs["status"], data.attrs["note"]) == ("mine", "interrupted", "kept")
        assert data.attrs["moved"] == 1, "NetCDF has no bool among its attributes"
        assert "success" not in data.attrs


def test_export_zarr_needs_no_decoding(run, tmp_path):
    import zarr

    assert main(["export", str(run), str(tmp_path / "out"), "--format", "zarr", "--dtype", "float32"]) == 0
    file = tmp_path / "out" / f"{run.name}-ep1.zarr"
    group = zarr.open_group(file, mode="r")
    store = LatentStore(run)
    for path in store.components():
        array: Any = group[path]
        assert array.dtype == np.float32
        assert array.attrs["dtype"] == "float32"
        want = np.stack([frame(plan(), 100 + n)[path] for n in range(FRAMES)])
        np.testing.assert_array_equal(array[:], want, err_msg=path)
    assert dict(group.attrs) == store.episode("ep1").attributes()

    xarray = pytest.importorskip("xarray")
    data = xarray.open_zarr(file, group="action", consolidated=False)
    want = np.stack([frame(plan(), 100 + n)["action/hidden_states"][2, 1] for n in range(FRAMES)])
    np.testing.assert_array_equal(data["hidden_states"].sel(layer=2, denoise_step=2).values, want)
    own = xarray.open_zarr(file, consolidated=False)
    assert own["timestep"].values.tolist() == [0, 5, 10]
    assert own["actions"].shape == (FRAMES, 5, 7)
    assert xarray.open_zarr(file, group="annotations", consolidated=False)["pose"].shape == (FRAMES, 7)
    # again, in the same place
    assert main(["export", str(run), str(tmp_path / "out"), "--format", "zarr"]) == 0


def test_export_npz_in_the_nested_layout(run, tmp_path):
    assert main(["export", str(run), str(tmp_path / "out"), "--format", "npz"]) == 0
    file = next(path for path in (tmp_path / "out").iterdir() if path.name.endswith("ep0.npz"))
    with np.load(file) as data:
        step = "episodes/ep0/rollout_steps/step_5"
        want = frame(plan(), 1)
        assert data[f"{step}/vlm_layer_output/hidden_states"].shape == (2, 1, 80, 512)
        np.testing.assert_array_equal(data[f"{step}/vlm_layer_output/hidden_states"][:, 0], want["vlm/hidden_states"])
        key = f"{step}/action_expert_hidden_state_t3/hidden_states"
        np.testing.assert_array_equal(data[key][:, 0], want["action/hidden_states"][3])
        assert bool(data["episodes/ep0/metadata/success"])
        assert (str(data["task_description"]), str(data["task_instruction"])) == ("do it", "own")


@pytest.mark.parametrize(("options", "mode"), [([], 0o700), (["--readable-by", "group"], 0o750)])
def test_what_holds_latents_is_its_owners_unless_told_otherwise(run, tmp_path, options, mode):
    assert main(["export", str(run), str(tmp_path / "out"), "--format", "npz", *options]) == 0
    file = tmp_path / "task_10_pick_up.pkl"
    file.write_bytes(pickle.dumps(reference(np.random.default_rng(0))))
    assert main(["import", str(tmp_path / "imported"), str(file), *options]) == 0
    for folder in (tmp_path / "out", tmp_path / "imported", *(tmp_path / "imported").iterdir()):
        assert stat.S_IMODE(folder.stat().st_mode) == mode


def reference(rng):
    """As the reference lays it out: 2 layers, one camera and 48 text tokens, 3 denoise steps."""
    step = {
        "timestep": 10,
        "action": [0.5] * 7,
        "vlm_layer_output": {
            "hidden_states": rng.standard_normal((2, 1, 304, 8), np.float32),
            "pre_attn_norm_scales": rng.standard_normal((2, 1, 304), np.float32),
        },
        "observation": {"image": np.zeros((4, 4, 3), np.uint8)},
    }
    for k in range(3):
        step[f"action_expert_hidden_state_t{k}"] = {
            "hidden_states": rng.standard_normal((2, 1, 51, 6), np.float32),
            "pre_attn_norm_scales": rng.standard_normal((2, 1, 51), np.float32),
        }
    metadata = {"success": True, "total_steps": 45}
    episodes = {"episode_0": {"rollout_steps": {"step_10": step}, "metadata": metadata}}
    return {"task_name": "pick_up", "task_id": 10, "task_description": "pick up", "episodes": episodes}


def test_import(tmp_path):
    content = reference(np.random.default_rng(0))
    file = tmp_path / "task_10_pick_up.pkl"
    file.write_bytes(pickle.dumps(content))
    assert main(["import", str(tmp_path / "runs"), str(file)]) == 0
    store = LatentStore(tmp_path / "runs")
    step = content["episodes"]["episode_0"]["rollout_steps"]["step_10"]
    x = store.select("vlm", span="text")
    np.testing.assert_array_equal(x.array()[0], step["vlm_layer_output"]["hidden_states"][:, 0, 256:])
    assert x.labels["task_id"].tolist() == [10]
    assert x.labels["success"].tolist() == [True]
    assert x.labels["instruction"].tolist() == x.labels["task_instruction"].tolist() == ["pick up"]
    got = store.select("action", "pre_attn_norm_scales", denoise_steps=2, span="action").array()
    np.testing.assert_array_equal(got[0, 0], step["action_expert_hidden_state_t2"]["pre_attn_norm_scales"][:, 0, 1:])


def test_import_keeps_the_number_of_an_episode_and_any_name_of_a_file(tmp_path):
    content = reference(np.random.default_rng(0))
    (episode,) = content["episodes"].values()
    content["episodes"] = {"episode_10": episode, "episode_2": episode, "again": episode}
    file = tmp_path / f"task_10_pick up, {'slowly ' * 15}.pkl"
    file.write_bytes(pickle.dumps(content))
    assert main(["import", str(tmp_path / "runs"), str(file)]) == 0
    store = LatentStore(tmp_path / "runs")
    assert store.runs[0].model["imported_from"] == file.name
    assert {e.id: e.metadata.get("episode_index") for e in store.episodes()} == {
        "task_10-episode_10": 10, "task_10-episode_2": 2, "task_10-again": None,
    }  # fmt: skip


def test_an_import_is_whole_or_absent(tmp_path, capsys):
    content = reference(np.random.default_rng(0))
    content["episodes"]["episode_1"] = {"rollout_steps": {"step_10": {"timestep": 10}}}
    file = tmp_path / "task_10_pick_up.pkl"
    file.write_bytes(pickle.dumps(content))
    assert main(["import", str(tmp_path / "runs"), str(file)]) == 2
    assert f"{file}: step 10: no hidden states; found timestep" in capsys.readouterr().err
    assert list((tmp_path / "runs").iterdir()) == []


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_import_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "task_0.pkl"
    file.write_bytes(pickle.dumps({"episodes": {"e": {"rollout_steps": {"s": Evil()}}}}))
    assert main(["import", str(tmp_path / "runs"), str(file)]) == 2
    assert "only numpy arrays are read" in capsys.readouterr().err
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "nowhere"],
        ["verify", "nowhere"],
        ["repack", "nowhere"],
        ["export", "nowhere", "out"],
        ["import", "runs", "nowhere.pkl"],
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--log-level", "error"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlascope-latents:")]
    assert len(lines) == 1
    assert "nowhere" in lines[0]


def test_help_loads_no_library_of_other_formats():
    program = "import sys, vlascope_latents.commands as _; print(*sorted({'xarray', 'h5py', 'jax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "\n"

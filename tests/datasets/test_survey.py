"""`stats` counts what is there, finds what is wrong, names the file, and ends on nothing but a path that holds no dataset."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from vlascope_datasets import DatasetError, DatasetWriter
from vlascope_datasets.commands import main
from vlascope_datasets.survey import gather, summarise
from vlascope_datasets.survey.balance import balance, chi2_tail
from vlascope_datasets.survey.episodes import direction_of

from tests.datasets.dataset_fixtures import FPS, TASKS, frames, length, one_line, write

EPISODES = 6
TOTAL = sum(length(episode) for episode in range(EPISODES))


def survey(path):
    return summarise(gather(path))


def kinds(summary, file=None):
    found = summary["anomalies"]["by_file"]
    return sorted(line["kind"] for name, lines in found.items() if file in (None, name) for line in lines)


@pytest.mark.parametrize(("version", "video"), [("v2.1", False), ("v2.1", True), ("v3.0", False), ("v3.0", True)])
def test_a_sound_dataset(version, video, tmp_path):
    path = write(tmp_path / "it", version, video=video, episodes=EPISODES)
    summary = survey(path)
    assert summary["format"] == f"LeRobot {version}"
    assert (summary["total_episodes"], summary["total_frames"]) == (EPISODES, TOTAL)
    assert summary["total_bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert summary["lengths"]["median"] == 6
    assert summary["lengths"]["mean_seconds"] == pytest.approx(TOTAL / EPISODES / FPS)
    assert summary["tasks"] == {
        task: {"episodes": 3, "frames": sum(length(e) for e in range(n, EPISODES, 2))} for n, task in enumerate(TASKS)
    }
    assert summary["directions"] == {"left": 3, "right": 3}
    assert summary["balance"]["directions"]["balanced"] is True
    assert summary["anomalies"] == {"count": 0, "by_kind": {}, "by_file": {}}
    actions = np.concatenate([frames(e)["action"] for e in range(EPISODES)])
    found = summary["actions"]["dimensions"][1]
    assert (found["min"], found["max"]) == (actions[:, 1].min(), actions[:, 1].max())
    assert found["q50"] == pytest.approx(np.median(actions[:, 1]))
    files = sum(f.stat().st_size for folder in ("data", "videos") for f in (path / folder).rglob("*.*"))
    assert sum(each["bytes"] for each in summary["episodes"]) == pytest.approx(files, abs=EPISODES)


def rewrite(path, episode, **columns):
    file = path / f"data/chunk-000/episode_{episode:06d}.parquet"
    table = pq.ParquetFile(file).read()
    for key, values in columns.items():
        at = table.column_names.index(key)
        table = table.set_column(at, key, pa.array(np.asarray(values).tolist(), table.schema.field(key).type))
    pq.write_table(table, file)


def test_every_damage_is_found_and_named(tmp_path):
    path = write(tmp_path / "it", "v2.1", video=True, episodes=14)
    name = "data/chunk-000/episode_{:06d}.parquet".format
    film = "videos/chunk-000/image/episode_{:06d}.mp4".format
    (path / name(0)).unlink()
    (path / name(1)).write_bytes(b"PAR1")
    state = frames(2)["state"].copy()
    state[1, 2], state[3, 0] = np.nan, np.inf
    rewrite(path, 2, state=state)
    rewrite(path, 3, action=np.zeros_like(frames(3)["action"]))
    rewrite(path, 4, frame_index=np.arange(length(4)) + 1, task_index=np.full(length(4), 9))
    rewrite(path, 5, timestamp=np.arange(length(5)) / FPS + 0.03, index=np.arange(length(5)))
    (path / film(6)).unlink()
    (path / film(7)).write_bytes((path / film(7)).read_bytes()[:300])
    (path / film(8)).write_bytes((path / film(9)).read_bytes())
    rewrite(path, 10, **{key: frames(13)[key] for key in ("action", "state", "reward", "done", "pose")})
    rewrite(path, 11, episode_index=np.full(length(11), 3))
    (path / name(77)).write_bytes((path / name(9)).read_bytes())
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps(info | {"total_frames": 5}))
    summary = survey(path)
    expected = {
        name(0): ["missing_file"], name(1): ["unreadable"], name(2): ["not_finite"], name(3): ["constant_action"],
        name(4): ["frame_index", "unknown_task"], name(5): ["index", "timestamp"], film(5): ["unreadable"],
        film(6): ["missing_file"], film(7): ["unreadable"], film(8): ["unreadable", "video_frames"], name(11): ["unreadable"],
        name(13): ["duplicate"], name(77): ["unused_file"], "meta/info.json": ["count"],
    }  # fmt: skip
    assert {file: kinds(summary, file) for file in summary["anomalies"]["by_file"]} == expected
    details = {file: lines[0]["detail"] for file, lines in summary["anomalies"]["by_file"].items()}
    assert "2 frames" in details[name(2)]
    assert "the first is 1" in details[name(2)]
    assert "0.03 s" in summary["anomalies"]["by_file"][name(5)][1]["detail"]
    assert "episode 10" in details[name(13)]
    assert summary["anomalies"]["count"] == sum(map(len, expected.values()))


@pytest.mark.parametrize("video", [False, True])
def test_an_episode_without_frames_is_listed_and_ends_nothing(video, tmp_path):
    path = write(tmp_path / "it", "v2.1", video=video, episodes=3)
    file = path / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.ParquetFile(file).read().slice(0, 0), file)
    lines = [json.loads(line) for line in (path / "meta/episodes.jsonl").read_text().splitlines()]
    lines[1]["length"] = 0
    (path / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps(info | {"total_frames": length(0) + length(2)}))
    summary = survey(path)
    assert summary["total_frames"] == length(0) + length(2)
    assert kinds(summary, "data/chunk-000/episode_000001.parquet") == ["empty"]
    assert main(["stats", str(path), "--out", str(tmp_path / "out")]) == 0


def test_cameras_and_lengths_that_stand_out(tmp_path):
    features = {"camera": {"dtype": "image", "shape": (16, 16, 3)}, "action": {"dtype": "float32", "shape": (1,)}}
    noise = np.random.default_rng(0).integers(0, 255, (90, 16, 16, 3), np.uint8)
    with DatasetWriter.create(tmp_path / "it", FPS, features) as writer:
        for episode in range(12):
            n = 80 if episode == 5 else 10
            images = noise[:n].copy()
            if episode == 2:
                images[:] = noise[0]
            if episode == 3:
                images[:] = 7
            writer.add_episode({"action": np.arange(n, dtype=np.float32) + episode}, {"camera": images}, "move")
    summary = survey(tmp_path / "it")
    assert {each["name"]: each["anomalies"] for each in summary["episodes"] if each["anomalies"]} == {
        "episode 2": ["frozen_camera"], "episode 3": ["blank_camera"], "episode 5": ["unusual_length"]
    }  # fmt: skip
    assert kinds(summarise(gather(tmp_path / "it", images=False))) == ["unusual_length"]


def test_hdf5_folders(tmp_path):
    rng = np.random.default_rng(0)
    for episode in range(10):
        side = "left" if episode % 5 else "right"
        with h5py.File(tmp_path / f"episode_{episode:03d}_box_horizontal_{side}.h5", "w") as file:
            file["actions"] = rng.normal(size=(18, 2)).astype(np.float32)
            file["images"] = np.zeros((18, 4, 4, 3), np.uint8)
            if episode == 7:
                file["qpos"] = np.zeros((3, 2))
    (tmp_path / "episode_099_box_horizontal_left.h5").write_bytes(b"\x89HDF nothing")
    summary = survey(tmp_path)
    assert (summary["format"], summary["total_episodes"], summary["total_frames"]) == ("HDF5", 11, 180)
    assert summary["directions"] == {"horizontal left": 9, "horizontal right": 2}
    assert set(summary["tasks"]) == {"box horizontal left", "box horizontal right"}
    assert summary["balance"]["directions"]["balanced"] is False
    assert summary["balance"]["directions"]["p_value"] == pytest.approx(0.0348, abs=1e-4)
    assert kinds(summary, "episode_099_box_horizontal_left.h5") == ["unreadable"]
    assert kinds(summary, "episode_007_box_horizontal_left.h5") == ["lengths_differ", "other_columns"]
    assert summary["anomalies"]["count"] == 3
    assert summary["features"]["images"] == {"dtype": "uint8", "shape": [4, 4, 3]}
    assert len(summary["actions"]["dimensions"]) == 2


def test_one_hdf5_file_of_many_demonstrations(tmp_path):
    with h5py.File(tmp_path / "open_the_drawer_demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": ["open the drawer"]})
        for number in range(11):
            group = data.create_group(f"demo_{number}")
            group["actions"] = np.random.default_rng(number).normal(size=(5 + number, 7))
            group["obs/ee_pos"] = np.zeros((5 + number, 3))
    summary = survey(tmp_path / "open_the_drawer_demo.hdf5")
    assert [each["frames"] for each in summary["episodes"]] == [5 + number for number in range(11)]
    assert summary["tasks"] == {"open the drawer": {"episodes": 11, "frames": 110}}
    assert summary["anomalies"]["count"] == 0


def test_npz_folders_and_no_pickles(tmp_path):
    rng = np.random.default_rng(0)
    for episode in range(8):
        arrays = {"action": rng.normal(size=(6, 3)), "instruction": np.array("turn right")}
        np.savez(tmp_path / f"{episode}.npz", **arrays)
    np.savez(tmp_path / "8.npz", action=rng.normal(size=(6, 3)), extra=np.array([{"a": 1}], object))
    np.savez(tmp_path / "9.npz", observation=np.zeros((6, 3)))
    summary = survey(tmp_path)
    assert (summary["format"], summary["total_frames"]) == ("NPZ", 60)
    assert summary["directions"] == {"right": 8}
    assert kinds(summary, "8.npz") == ["pickled"]
    assert kinds(summary, "9.npz") == ["no_actions", "other_columns"]
    assert summary["anomalies"]["count"] == 3


def test_nothing_to_survey(tmp_path):
    with pytest.raises(DatasetError) as error:
        gather(tmp_path)
    one_line(error, tmp_path, "meta/info.json", "HDF5", "NPZ")
    with pytest.raises(DatasetError) as error:
        gather(tmp_path / "none")
    one_line(error, "none", "no such")


@pytest.mark.parametrize(
    ("degrees", "x", "expected"),
    [
        # scipy.stats.chi2.sf, 1.17.1
        (1, 0.01, 0.920344325445942),
        (1, 7.5, 0.0061698993205441645),
        (1, 300.0, 3.2943623833139784e-67),
        (2, 7.5, 0.023517745856009114),
        (3, 0.01, 0.9997348349413444),
        (3, 7.5, 0.0575584519726364),
        (8, 300.0, 4.117794754094997e-60),
        (39, 0.01, 1.0),
        (39, 300.0, 5.337821156877931e-42),
        (5, 0.0, 1.0),
    ],
)
def test_the_tail_of_chi_square(degrees, x, expected):
    assert chi2_tail(x, degrees) == pytest.approx(expected, rel=1e-9)


def test_balance():
    even = balance({"left": 250, "right": 250})
    assert (even["p_value"], even["balanced"], even["ratio"], even["cramers_v"]) == (1.0, True, 1.0, 0.0)
    skewed = balance({"left": 30, "right": 10})
    assert skewed["chi2"] == pytest.approx(10)
    assert skewed["p_value"] == pytest.approx(0.0015654, rel=1e-4)
    assert (skewed["balanced"], skewed["reliable"]) == (False, True)
    assert balance({"left": 2, "right": 1})["reliable"] is False
    assert balance({"left": 2})["p_value"] is None


@pytest.mark.parametrize(
    ("text", "direction"),
    [
        ("push the bowl to the left", "left"),
        ("Move RIGHT, then forward", "right forward"),
        ("episode_003_box_horiz_left", "horizontal left"),
        ("pick up the bowl and put it down", ""),
        ("move the bright block upright", ""),
        ("turn clockwise", "clockwise"),
    ],
)
def test_directions(text, direction):
    assert direction_of(text) == direction


def test_a_damaged_archive_is_listed(tmp_path):
    for episode in range(2):
        np.savez_compressed(
            tmp_path / f"episode_{episode}.npz", actions=np.random.default_rng(episode).normal(size=(9, 2))
        )
    damaged = bytearray((tmp_path / "episode_1.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "episode_1.npz") as archive:
        begins = archive.infolist()[0].header_offset + 30 + len("actions.npy")
    damaged[begins + 20 : begins + 60] = b"\xff" * 40
    (tmp_path / "episode_1.npz").write_bytes(damaged)
    with pytest.raises(zlib.error), np.load(tmp_path / "episode_1.npz") as archive:
        archive["actions"]
    summary = survey(tmp_path)
    assert kinds(summary, "episode_0.npz") == []
    assert kinds(summary, "episode_1.npz") == ["unreadable"]


def test_the_command_writes_both_files(tmp_path, capsys):
    path = write(tmp_path / "it", "v2.1", episodes=EPISODES)
    (path / "data/chunk-000/episode_000001.parquet").write_bytes(b"no")
    assert main(["stats", str(path), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "episode_000001.parquet" in out
    assert "unreadable" in out
    written = json.loads((tmp_path / "out/dataset_statistics.json").read_text())
    assert written["configuration"]["path"] == str(path)
    assert written["total_episodes"] == EPISODES
    assert written["versions"]["pyarrow"]
    with Image.open(tmp_path / "out/dataset_statistics.png") as picture:
        assert picture.width > 1500
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    assert main(["stats", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("vlascope-datasets: ")


def test_a_picture_of_nothing_and_of_everything(tmp_path):
    assert main(["stats", str(write(tmp_path / "none", "v3.0", episodes=0)), "--out", str(tmp_path / "none-out")]) == 0
    features = {"action": {"dtype": "float32", "shape": (40,)}}
    with DatasetWriter.create(tmp_path / "it", FPS, features) as writer:
        for episode in range(30):
            actions = np.random.default_rng(episode).normal(size=(3, 40)).astype(np.float32)
            writer.add_episode({"action": actions}, task=f"task ${episode}_{{x}} " + "very long instruction " * 9)
    assert main(["stats", str(tmp_path / "it"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/dataset_statistics.png").stat().st_size > 10_000


def test_help_loads_no_library_of_pictures():
    program = (
        "import sys, vlascope_datasets.commands as _; print(*sorted({'matplotlib', 'h5py', 'jax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "\n"
